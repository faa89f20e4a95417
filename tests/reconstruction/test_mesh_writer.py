"""Mesh files as other programs read them: name, material, unit, axes and vertex colors."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import trimesh

from occvae.geometry.mesh_io import read_mesh
from occvae.geometry.vertex_colors import linear_to_srgb, read_vertex_colors, srgb_to_linear
from occvae.reconstruction.mesh_writer import mesh_files, write_mesh

ROOT = Path(__file__).parents[2]
VALIDATE = """
  const validator = require("gltf-validator"), fs = require("fs");
  validator.validateBytes(new Uint8Array(fs.readFileSync(process.argv[1])))
    .then(report => console.log(JSON.stringify(report)));
"""
NAMES = ["chair", "my chair 2", "стул", 'a"b\\c', "line\nbreak", "\udcff"]


def validate(path: Path) -> dict:
    """Returns the report of the glTF validator of Khronos."""
    if not shutil.which("node"):
        pytest.skip("node is missing")
    command = ["node", "-e", VALIDATE, "--", str(path)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    if "Cannot find module 'gltf-validator'" in done.stderr:
        pytest.skip("gltf-validator is missing; run 'npm install --no-save gltf-validator'")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def tall_box(*, colors: bool = False, normals: bool = False) -> trimesh.Trimesh:
    """A box whose longest edge is y. With colors, its upper vertices are orange."""
    mesh = trimesh.creation.box((0.25, 1.0, 0.5))
    mesh = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    if normals:
        outward = mesh.vertices / np.linalg.norm(mesh.vertices, axis=1, keepdims=True)
        mesh = trimesh.Trimesh(mesh.vertices, mesh.faces, vertex_normals=outward, process=False)
    if colors:
        upper = mesh.vertices[:, 1:2] > 0
        mesh.visual.vertex_colors = np.where(upper, [245, 153, 72, 255], [90, 90, 90, 255]).astype(
            np.uint8
        )
    return mesh


@pytest.mark.parametrize("colors", [False, True])
@pytest.mark.parametrize("normals", [False, True])
def test_glb_files_are_valid(tmp_path, colors, normals):
    path = tmp_path / "chair.glb"
    write_mesh(path, tall_box(colors=colors, normals=normals), "chair")
    report = validate(path)
    assert report["issues"]["numErrors"] == report["issues"]["numWarnings"] == 0, report["issues"]
    assert report["info"]["materialCount"] == 1
    assert report["info"]["totalTriangleCount"] == 12


def test_the_validator_finds_faults(tmp_path):
    path = tmp_path / "bad.glb"
    write_mesh(path, tall_box(), "chair")
    path.write_bytes(path.read_bytes().replace(b'"mode":4', b'"mode":9'))
    assert validate(path)["issues"]["numErrors"] > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_glb_file_has_a_name_a_material_and_its_unit(tmp_path, name):
    path = tmp_path / "out.glb"
    write_mesh(path, tall_box(), name)
    data = path.read_bytes()
    root = json.loads(data[20 : 20 + int.from_bytes(data[12:16], "little")])
    expected = {"line\nbreak": "line break", "\udcff": "\\udcff"}.get(name, name)
    assert [mesh["name"] for mesh in root["meshes"]] == [expected]
    assert expected in [node.get("name") for node in root["nodes"]]
    [material] = root["materials"]
    assert material["name"] == "surface"
    assert material["pbrMetallicRoughness"]["metallicFactor"] == 0.0
    assert "longest edge" in root["meshes"][0]["extras"]["unit"]


@pytest.mark.parametrize("ending", ["glb", "obj", "ply", "stl", "off"])
def test_trimesh_opens_the_file_with_y_up(tmp_path, ending):
    path = tmp_path / f"out.{ending}"
    write_mesh(path, tall_box(), "chair")
    mesh = trimesh.load(path, force="mesh")
    np.testing.assert_allclose(mesh.extents, [0.25, 1.0, 0.5], atol=1e-6)
    assert mesh.is_watertight and mesh.volume > 0
    assert {file.name for file in tmp_path.iterdir()} == {file.name for file in mesh_files(path)}


@pytest.mark.parametrize("ending", ["glb", "obj", "ply"])
def test_vertex_colors_are_kept(tmp_path, ending):
    path = tmp_path / f"out.{ending}"
    mesh = tall_box(colors=True)
    write_mesh(path, mesh, "chair")
    vertices, _ = read_mesh(path)
    np.testing.assert_allclose(vertices, mesh.vertices, atol=1e-6)
    colors = read_vertex_colors(path, vertices)
    np.testing.assert_allclose(colors, mesh.visual.vertex_colors[:, :3], atol=2)


def test_colors_of_glb_files_are_linear(tmp_path):
    """As the specification of glTF demands, so that other programs show them alike."""
    path = tmp_path / "out.glb"
    write_mesh(path, tall_box(colors=True), "chair")
    part = trimesh.load_scene(path, process=False).geometry["chair"]
    found = part.visual.vertex_attributes["color"]
    gray, orange = np.unique(np.asarray(found), axis=0)
    np.testing.assert_array_equal(gray[:3], [26] * 3)  # 255 * ((90/255 + 0.055) / 1.055) ** 2.4
    np.testing.assert_array_equal(orange[:3], [233, 81, 17])


def test_an_obj_file_has_a_name_and_refers_to_its_material(tmp_path):
    path = tmp_path / "my chair.obj"
    write_mesh(path, tall_box(), "chair")
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# unit: longest edge")
    assert lines[1:4] == ["mtllib my chair.mtl", "o chair", "usemtl surface"]
    assert (tmp_path / "my chair.mtl").read_text().startswith("newmtl surface\nKd ")


def test_srgb_and_linear_colors_are_inverse():
    values = np.arange(60, 256, dtype=np.uint8)  # darker ones have few linear values
    assert np.abs(linear_to_srgb(srgb_to_linear(values)).astype(int) - values).max() <= 2
    assert srgb_to_linear(np.uint8([0, 128, 255])).tolist() == [0, 55, 255]

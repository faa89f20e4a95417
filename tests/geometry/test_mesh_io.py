"""Tests of reading mesh files of every kind, and of the errors for unusable files."""

import numpy as np
import pytest
import trimesh

from occvae.errors import UserError
from occvae.geometry.mesh_io import (
    mesh_endings,
    missing_packages,
    normalize_mesh,
    read_mesh,
    weld,
)
from tests.mesh_builders import box, join, sphere

CUBE_OF_QUADS = """
v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nv 0 0 1\nv 1 0 1\nv 1 1 1\nv 0 1 1
f 1 4 3 2\nf 5 6 7 8\nf 1 2 6 5\nf 2 3 7 6\nf 3 4 8 7\nf 4 1 5 8
"""


def arrays(mesh):
    return tuple(x.numpy().copy() for x in mesh)


def write(path, mesh):
    trimesh.Trimesh(*arrays(mesh), process=False).export(path)
    return path


def volume(vertices, faces):
    return trimesh.Trimesh(vertices, faces, process=False).volume


@pytest.mark.parametrize("ending", ["obj", "off", "ply", "stl", "glb"])
def test_all_formats_are_read(tmp_path, ending):
    vertices, faces = read_mesh(write(tmp_path / f"box.{ending}", box([1, 2, 3], [2, 4, 6])))
    assert vertices.dtype == np.float64 and faces.dtype == np.int64 and faces.shape == (12, 3)
    assert volume(vertices, faces) == pytest.approx(6)
    assert f".{ending}" in mesh_endings()


def test_quads_are_cut_into_triangles(tmp_path):
    path = tmp_path / "quads.obj"
    path.write_text(CUBE_OF_QUADS)
    vertices, faces = read_mesh(path)
    assert faces.shape == (12, 3) and volume(vertices, faces) == pytest.approx(1)


def test_parts_of_a_scene_are_in_scene_coordinates(tmp_path):
    part = trimesh.Trimesh(*arrays(box()))
    scene = trimesh.Scene()
    turn = trimesh.transformations.rotation_matrix(np.pi / 2, [0, 0, 1])
    scene.add_geometry(part, node_name="a", geom_name="part")
    scene.add_geometry(part, node_name="b", geom_name="part", transform=turn + shift(5, 0, 0))
    scene.export(tmp_path / "scene.glb")
    vertices, faces = read_mesh(tmp_path / "scene.glb")
    assert len(faces) == 24 and volume(vertices, faces) == pytest.approx(2)
    np.testing.assert_allclose([vertices.min(0), vertices.max(0)], [[0, 0, 0], [5, 1, 1]])


def shift(*offset):
    matrix = np.zeros((4, 4))
    matrix[:3, 3] = offset
    return matrix


def test_welding_merges_copies_and_drops_degenerate_faces():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1e-7, 0, 0], [0, 1, 1e-7], [5, 5, 5.0]])
    faces = np.array([[0, 1, 2], [3, 4, 1], [0, 3, 1]])
    welded, corners = weld(vertices, faces, 1e-6)
    np.testing.assert_array_equal(welded, vertices[:3])
    assert corners.tolist() == [[0, 1, 2], [0, 2, 1]]


def test_many_vertices_close_together_are_not_merged():
    vertices = np.random.default_rng(0).uniform(0, 1e-7, (1000, 3))
    assert weld(vertices, np.array([[0, 1, 2]]), 1e-6) is None


def test_missing_packages_are_listed_by_file_ending(tmp_path):
    missing = missing_packages()
    assert not missing.keys() & mesh_endings()
    assert missing.keys() | mesh_endings() >= {".3mf", ".dae", ".stl"}
    assert all(" " in reason for reason in missing.values())


@pytest.mark.parametrize("name, content, message", [
    ("empty.obj", b"", "the file is empty"),
    ("empty.off", b"", "the file is empty"),
    ("empty.stl", b"", "the file is empty"),
    ("empty.ply", b"", "the file is empty"),
    ("empty.glb", b"", "the file is empty"),
    ("empty.gltf", b"", "the file is empty"),
    ("empty.other", b"", "the file is empty"),
    ("cut.off", b"OFF\n8 12 0\n0 0 0\n", "the file is cut"),
    ("text.ply", b"ply\nformat binary_little", "the header does not end"),
    ("noise.glb", bytes(range(256)), "not a glTF file"),
    ("points.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\n", r"no faces \((a point cloud|no mesh) in it\)"),
    ("other.txt", b"v 0 0 0", "not a mesh that trimesh can read"),
])  # fmt: skip
def test_files_without_a_mesh_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}: ({message})") as caught:
        read_mesh(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_point_cloud_is_refused(tmp_path):
    trimesh.PointCloud(np.eye(3)).export(tmp_path / "points.ply")
    with pytest.raises(UserError, match=r"points.ply: no faces \(a point cloud in it\)"):
        read_mesh(tmp_path / "points.ply")


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(UserError, match="none.obj: no such file"):
        read_mesh(tmp_path / "none.obj")


@pytest.mark.parametrize("ending", ["off", "ply", "stl", "glb"])
def test_random_damage_raises_only_user_errors(tmp_path, ending):
    path = write(tmp_path / f"mesh.{ending}", sphere(1))
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(25):
        damaged = bytearray(whole[: rng.integers(1, len(whole) + 1)])
        damaged[rng.integers(len(damaged))] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            normalize_mesh(*read_mesh(path))
        except UserError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("scale, offset", [(1, 0), (1e6, 1e6), (1e-6, 3), (1e-30, 0), (1e80, 0)])
def test_normalized_meshes_fill_the_unit_cube(scale, offset):
    vertices, faces = arrays(box([0, 0, 0], [1, 2, 4]))
    original = vertices * scale + offset
    mesh = normalize_mesh(original, faces)
    low, high = mesh.vertices.min(0), mesh.vertices.max(0)
    tolerance = 1e-15 * max(1, offset / scale)
    np.testing.assert_allclose(high - low, [0.25, 0.5, 1], atol=tolerance)
    np.testing.assert_allclose(high + low, 0, atol=tolerance)
    back = mesh.vertices * mesh.scale + mesh.location
    expected = sorted(map(tuple, np.unique(original, axis=0)))
    np.testing.assert_allclose(sorted(map(tuple, back)), expected, rtol=1e-12, atol=1e-12 * scale)


def test_equal_positions_are_merged_and_unused_vertices_dropped():
    vertices, faces = arrays(sphere(2))
    soup = np.concatenate([[[np.nan, 0, 0], [1e9, 0, 0]], vertices[faces].reshape(-1, 3)])
    mesh = normalize_mesh(soup, np.arange(2, len(soup)).reshape(-1, 3))
    assert len(mesh.vertices) == len(vertices) and mesh.scale == 1
    assert volume(mesh.vertices, mesh.faces) == pytest.approx(volume(vertices, faces))


@pytest.mark.parametrize("change, message", [
    (lambda v, f: (v, f[:0]), "the mesh has no faces"),
    (lambda v, f: (v * 0, f), "no extent: all vertices are at one point"),
    (lambda v, f: (v, f + 7), "12 of 12 faces have indices out of range"),
    (lambda v, f: (np.where(v == 1, np.nan, v), f), "7 of 8 vertices are not finite"),
    (lambda v, f: (v * np.inf, f), "8 of 8 vertices are not finite"),
    (lambda v, f: (v * 1e300, f), "7 of 8 vertices are not finite .*above 1e"),
])  # fmt: skip
def test_meshes_that_cannot_be_normalized_are_refused(change, message):
    with np.errstate(invalid="ignore"):
        broken = change(*arrays(box()))
    with pytest.raises(UserError, match=message):
        normalize_mesh(*broken)


def test_several_parts_keep_their_distance():
    mesh = normalize_mesh(*arrays(join(box(), box([3, 0, 0], [4, 1, 1]))))
    assert set(mesh.vertices[:, 0]) == {-0.5, -0.25, 0.25, 0.5}


@pytest.mark.parametrize(
    ("ending", "kind", "first", "remarked"),
    [
        ("obj", "obj", "v ", "# cr\u00e9\u00e9\nv "),
        ("OFF", "off", "OFF", "OFF\n# K\u00f6rper"),
        ("stl", "stl_ascii", "solid", "solid K\u00f6rper"),
    ],
)
def test_comments_in_latin_1_are_read(tmp_path, ending, kind, first, remarked):
    text = trimesh.Trimesh(*arrays(box()), process=False).export(file_type=kind)
    path = tmp_path / f"box.{ending}"
    path.write_bytes(text.replace(first, remarked, 1).encode("latin-1"))
    assert volume(*read_mesh(path)) == pytest.approx(1)


def test_damaged_files_are_not_reported_as_missing_packages(tmp_path):
    (tmp_path / "noise.stl").write_bytes(bytes(range(128, 256)) * 4)
    with pytest.raises(UserError) as caught:
        read_mesh(tmp_path / "noise.stl")
    assert "ModuleNotFound" not in str(caught.value)


@pytest.mark.parametrize("ending, package", [("3mf", "lxml"), ("dae", "collada")])
def test_formats_of_the_extra_are_read(tmp_path, ending, package):
    pytest.importorskip(package)
    path = tmp_path / f"box.{ending}"
    path.write_bytes(trimesh.Trimesh(*arrays(box())).export(file_type=ending))
    assert volume(*read_mesh(path)) == pytest.approx(1)


@pytest.mark.parametrize("ending, package", [(".3mf", "lxml"), (".dae", "pycollada")])
def test_a_missing_package_is_named(tmp_path, monkeypatch, ending, package):
    from trimesh.exceptions import ExceptionWrapper
    from trimesh.exchange.load import mesh_loaders

    monkeypatch.setitem(mesh_loaders, ending[1:], ExceptionWrapper(ImportError("is missing")))
    assert missing_packages()[ending] == f"pip install {package}"
    (tmp_path / f"a{ending}").write_bytes(b"content")
    with pytest.raises(
        UserError, match=rf"{ending} files need a package .*: pip install {package}$"
    ):
        read_mesh(tmp_path / f"a{ending}")


def test_buffers_beside_a_gltf_file_are_read(tmp_path):
    for name, content in trimesh.Trimesh(*arrays(box())).export(file_type="gltf").items():
        (tmp_path / name).write_bytes(content)
    assert volume(*read_mesh(tmp_path / "model.gltf")) == pytest.approx(1)


def test_a_file_without_permission_keeps_the_cause(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "a.obj").write_text(CUBE_OF_QUADS)
    monkeypatch.setattr(type(tmp_path), "read_bytes", refuse)
    with pytest.raises(UserError, match=r"a\.obj: Permission denied$") as caught:
        read_mesh(tmp_path / "a.obj")
    assert isinstance(caught.value.__context__, PermissionError)

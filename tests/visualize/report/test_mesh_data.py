"""Packed meshes: a decoder written from the format's description gives the mesh within one step."""

import base64
import zlib

import numpy as np
import pytest
import trimesh

from occvae.visualize.report.mesh_data import MAX_FACES, pack_mesh
from occvae.visualize.report.viewer import scale_colors
from tests.visualize.report.builders import sphere


def unpack(packed: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decodes one value at a time, unlike the encoder and the decoder of the browser."""
    data = zlib.decompress(base64.b64decode(packed["data"]))
    count, corners = packed["vertices"], 3 * packed["faces"]
    vertices = np.empty((count, 3))
    for axis in range(3):
        lattice = 0
        for i in range(count):
            zigzag = data[2 * axis * count + i] + 256 * data[(2 * axis + 1) * count + i]
            lattice += -(zigzag + 1) // 2 if zigzag % 2 else zigzag // 2
            vertices[i, axis] = packed["offset"][axis] + lattice % 65536 * packed["step"][axis]
    codes = data[6 * count :]
    if not packed["colored"]:
        codes += bytes(3 * count)
    faces, following = [], 0
    for i in range(corners):
        code = sum(codes[plane * corners + i] << 8 * plane for plane in range(4))
        faces.append(following - code)
        following += code == 0
    colors = np.array(
        [[codes[4 * corners + k * count + i] for k in range(3)] for i in range(count)]
    )
    return vertices, np.array(faces).reshape(-1, 3), colors


def test_a_decoded_mesh_equals_the_packed_one():
    rng = np.random.default_rng(0)
    vertices, faces = rng.normal(size=(300, 3)) * [1.0, 20.0, 0.01], rng.integers(0, 300, (700, 3))
    faces = faces[(faces != np.roll(faces, 1, axis=1)).all(axis=1)]
    colors = rng.integers(0, 256, (300, 3)).astype(np.uint8)
    packed = pack_mesh(vertices, faces, colors)
    new, new_faces, new_colors = unpack(packed)
    assert packed["faces"] == len(faces) and packed["colored"]
    step = np.ptp(vertices[np.unique(faces)], axis=0) / 65535
    assert (np.abs(new[new_faces] - vertices[faces]) <= 0.501 * step).all()
    np.testing.assert_array_equal(new_colors[new_faces], colors[faces])


def test_faces_that_cannot_be_drawn_are_left_out():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [np.nan, 0, 0], [9, 9, 9.0]])
    faces = np.array([[0, 1, 2], [0, 1, 3], [0, 1, 5], [-1, 0, 1], [1, 1, 2]])
    packed = pack_mesh(vertices, faces)
    new, new_faces, _ = unpack(packed)
    assert (packed["vertices"], packed["faces"]) == (3, 1)
    np.testing.assert_allclose(new[new_faces[0]], vertices[:3], atol=1e-5)
    assert pack_mesh(vertices, faces[1:]) is None
    assert pack_mesh(np.zeros((0, 3)), np.zeros((0, 3), int)) is None


def test_a_flat_mesh_is_packed():
    vertices = np.array([[0, 0, 5], [1, 0, 5], [0, 1, 5.0]])
    new, _, _ = unpack(pack_mesh(vertices, np.array([[0, 1, 2]])))
    np.testing.assert_allclose(new, vertices, atol=1e-5)


def test_the_scale_has_a_color_for_every_value():
    colors = scale_colors(np.array([np.nan, 7.0, 1.0, -1.0, 0.0, 0.5]))
    assert (colors[:3] == colors[0]).all() and (colors[3:5] == colors[3]).all()
    assert colors[0, 0] > colors[0, 1] + 50 and colors[5, 0] > 200  # dark red, and orange


def test_large_meshes_are_decimated_and_stay_small():
    pytest.importorskip("fast_simplification")
    vertices, faces = sphere(subdivisions=6)  # 81,920 faces
    packed = pack_mesh(vertices, faces, scale_colors(vertices[:, 0] > 0))
    new, new_faces, colors = unpack(packed)
    assert 0.9 * MAX_FACES < packed["faces"] <= MAX_FACES
    mesh = trimesh.Trimesh(new, new_faces, process=False)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 0.4**3, rel=1e-3)
    clear = np.abs(new[:, 0]) > 0.02
    assert (colors[clear] == scale_colors(new[clear, 0] > 0)).all()
    assert len(packed["data"]) < 10e6 / 24  # 12 cases of two meshes in 10 MB


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((3, 2)), np.zeros((1, 3), int)), r"expected \(V, 3\) and \(F, 3\)"),
        ((np.zeros((3, 3)), np.zeros((1, 4), int)), r"expected \(V, 3\) and \(F, 3\)"),
        ((*sphere(0), np.zeros(3)), "expected 12 colors"),
    ],
)
def test_wrong_shapes_are_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        pack_mesh(*arguments)

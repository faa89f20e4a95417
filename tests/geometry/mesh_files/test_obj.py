"""Tests of OBJ files as programs write them."""

import numpy as np
import pytest

from occvae.errors import UserError
from occvae.geometry.mesh_files.obj import read_obj
from tests.geometry.mesh_files.measures import volume
from tests.mesh_file_writers import CUBE, CUBE_QUADS, CUBE_TRIANGLES, obj, prism

CUBE_TEXT = obj(CUBE, CUBE_TRIANGLES)
U = [(0, 0), (3, 0), (3, 3), (2, 3), (2, 1), (1, 1), (1, 3), (0, 3)]


def with_normals(text: bytes, normal: bytes) -> bytes:
    """The file with a normal per corner."""
    lines = text.splitlines()
    faces = [b" ".join(token + b"//1" for token in line.split()[1:]) for line in lines[8:]]
    return b"\n".join([*lines[:8], b"vn " + normal, *(b"f " + face for face in faces)])


@pytest.mark.parametrize("text", [
    CUBE_TEXT,
    obj(CUBE, CUBE_QUADS),
    obj(CUBE, CUBE_TRIANGLES, newline="\r"),
    obj(CUBE, CUBE_TRIANGLES, newline="\r\n"),
    CUBE_TEXT.replace(b" ", b"\t"),
    b"\n".join(b"  \t" + line + b"  " for line in CUBE_TEXT.splitlines()),
    b"\xef\xbb\xbf" + CUBE_TEXT,
    CUBE_TEXT.decode().encode("utf-16"),
    CUBE_TEXT.decode().encode("utf-16-be"),
    CUBE_TEXT.decode().encode("utf-32"),
    CUBE_TEXT.replace(b"\n", b" # comment\n"),
    b"# C:\\models\\\n" + CUBE_TEXT,
    b"mtllib C:\\models\\\n" + CUBE_TEXT,
    CUBE_TEXT.replace(b"f ", b"f \\\n"),
    b"\n".join(line[:-2] + b"\\\n" + line[-2:] if line[:1] == b"f" else line
               for line in CUBE_TEXT.splitlines()),
    b"\n".join(line[:-1] + b"\\ \r\n" + line[-1:] for line in CUBE_TEXT.splitlines()),
    with_normals(CUBE_TEXT, b"-1.#IND00 1.#QNAN -nan(ind)"),
    with_normals(CUBE_TEXT, b"0,0 0,0 1,0"),
    b"\n".join(line + b" 1 0.5 -1.#IND" if line[:1] == b"v" else line
               for line in CUBE_TEXT.splitlines()),
    CUBE_TEXT.replace(b"f ", b"usemtl caf\xe9\nf "),
    CUBE_TEXT.replace(b"f ", b"fo "),
    CUBE_TEXT.replace(b"v ", b"V ").replace(b"f ", b"F "),
    CUBE_TEXT + b"l 1 2\np 1\n" + b"\0" * 8,
    CUBE_TEXT.rstrip(),
])  # fmt: skip
def test_all_forms_give_the_cube(text):
    vertices, faces = read_obj(text)
    assert vertices.shape == (8, 3) and vertices.dtype == np.float64
    assert faces.shape == (12, 3) and faces.dtype == np.int64
    assert volume(vertices, faces) == pytest.approx(1)


def test_faces_of_all_forms_can_be_mixed():
    text = obj(CUBE, []) + b"vt 0 0\nvn 0 0 1\n"
    forms = ["{}", "{}/1", "{}//1", "{}/1/1", "{}/1/", "{}/"]
    corner = 0
    for quad in CUBE_QUADS:
        tokens = []
        for index in quad:
            tokens.append(forms[corner % len(forms)].format(index + 1))
            corner += 1
        text += f"f {' '.join(tokens)}\n".encode()
    assert volume(*read_obj(text)) == pytest.approx(1)


def test_a_hexagon_is_not_three_corners_with_textures():
    angles = np.arange(6) * np.pi / 3
    vertices, polygons = prism(np.c_[np.cos(angles), np.sin(angles)])
    lines = obj(vertices, polygons[:2]).decode() + "vt 0 0\n"
    for a, b, c, d in polygons[2:]:
        lines += "".join(f"f {i + 1}/1 {j + 1}/1 {k + 1}/1\n" for i, j, k in ((a, b, c), (a, c, d)))
    assert volume(*read_obj(lines.encode())) == pytest.approx(3**0.5 * 1.5)


def test_negative_indices_count_back_from_their_line():
    parts = [
        b"".join(b"v %d %d %d\n" % (x + 2 * part, y, z) for x, y, z in CUBE.astype(int))
        + b"".join(b"f %d %d %d\n" % tuple(np.array(face) - 8) for face in CUBE_TRIANGLES)
        for part in range(2)
    ]
    vertices, faces = read_obj(b"o cube\n".join(parts))
    assert len(faces) == 24 and volume(vertices, faces) == pytest.approx(2)
    assert np.ptp(vertices, axis=0).tolist() == [3, 1, 1]


@pytest.mark.parametrize("turn", range(8))
def test_concave_polygons_keep_area_and_volume(turn):
    assert volume(*read_obj(obj(*prism(U, turn=turn)))) == pytest.approx(7)


def test_numbers_are_read_exactly():
    numbers = ["1e-3", "-.5", "+2.", "1E2", "0.1", "123456789.123456789", "1e-310", "3.4e38"]
    lines = "".join(f"v {number} 0 0\n" for number in numbers) + "f 1 2 3\n"
    assert read_obj(lines.encode())[0][:, 0].tolist() == [float(number) for number in numbers]


@pytest.mark.parametrize("change, message", [
    ((b"f 1 ", b"f 0 "), r"line 9: a face has index 0, but OBJ counts vertices from 1"),
    ((b"f 1 ", b"f 9 "), r"line 9: a face has index 9, but there are 8 vertices"),
    ((b"f 1 ", b"f -9 "), r"line 9: .* index -9, .* 8 vertices \(8 before the face\)"),
    ((b"f 1 ", b"f 1.0 "), r"line 9: '1.0' is not an integer"),
    ((b"f 1 ", b"f /1 "), r"line 9: '/1' is not an integer"),
    ((b"f 1 ", b"f 1-2 "), r"line 9: '1-2' is not an integer"),
    ((b"f 1 ", b"f 99999999999999999999 "), r"a face has index \d+, but there are 8"),
    ((b"v 0.0 0.0 1.0", b"v 0,0 0,0 1,0"), r"line 2: '0,0' is not a number; write decimals with"),
    ((b"v 0.0 0.0 1.0", b"v 0.0 0.0 1.0f"), r"line 2: '1.0f' is not a number"),
    ((b"v 0.0 0.0 1.0", b"v 0.0 0.0.0 1.0"), r"line 2: '0.0.0' is not a number"),
    ((b"v 0.0 0.0 1.0", b"v 0.0 0_0 1.0"), r"line 2: '0_0' is not a number"),
    ((b"v 0.0 0.0 1.0", b"v 0.0 0.0"), r"line 2: a vertex needs 3 coordinates"),
    ((b"f 1 ", b"f 1\n"), r"line 10: '\d' is not a statement of an OBJ file"),
    ((b"f 1 ", b"surf 0 1 0 1 1 2 3 4\nf 1 "), r"line 9: 'surf' describes a surface"),
    ((b"f 1 ", b"call part.obj\nf 1 "), r"line 9: 'call' describes a surface"),
    ((b"f 1 ", b"\xffv 1 "), r"line 9: '\\xffv' is not a statement"),
    ((b"f 1 ", b"f 1 \0"), r"not text: it contains zero bytes"),
])  # fmt: skip
def test_wrong_statements_are_refused_with_their_line(change, message):
    with pytest.raises(UserError, match=message):
        read_obj(CUBE_TEXT.replace(*change, 1))


def test_lines_are_counted_across_continuations():
    text = CUBE_TEXT.replace(b"f ", b"f \\\n", 1).replace(b"f 3", b"f 0")
    line = text.splitlines().index(next(x for x in text.splitlines() if x[:3] == b"f 0")) + 1
    with pytest.raises(UserError, match=f"line {line}: a face has index 0"):
        read_obj(text)


def test_a_cut_last_face_is_refused():
    with pytest.raises(UserError, match="line 20: the last face has 2 corners: the file is cut"):
        read_obj(CUBE_TEXT.rstrip()[:-2])


def test_damaged_utf_16_is_refused():
    with pytest.raises(UserError, match="damaged text: not valid UTF-16-LE"):
        read_obj(CUBE_TEXT.decode().encode("utf-16")[:-1])

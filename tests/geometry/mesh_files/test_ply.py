"""Tests of PLY files as programs write them."""

import numpy as np
import pytest

from occvae.errors import UserError
from occvae.geometry.mesh_files.ply import read_ply
from tests.geometry.mesh_files.measures import volume
from tests.mesh_file_writers import CUBE, CUBE_QUADS, CUBE_STRIP, CUBE_TRIANGLES, ply, prism

LAYOUTS = ("ascii", "binary_little_endian", "binary_big_endian")
MIXED = [*CUBE_TRIANGLES[:4], *CUBE_QUADS[2:5], [1, 5, 7, 3, 3]]
ASCII = ply(CUBE, CUBE_TRIANGLES, "ascii")


def assert_cube(data, faces=12):
    vertices, found = read_ply(data)
    assert vertices.shape == (8, 3) and vertices.dtype == np.float64
    assert len(found) == faces and found.dtype == np.int64
    assert volume(vertices, found) == pytest.approx(faces / 12)


@pytest.mark.parametrize("polygons", [CUBE_TRIANGLES, CUBE_QUADS, MIXED, [[], *MIXED, [0], [1, 2]]])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_polygons_of_all_sizes_are_read(layout, polygons):
    assert_cube(ply(CUBE, polygons, layout))


@pytest.mark.parametrize("types", [("u1", "i4"), ("u1", "u1"), ("i4", "u4"), ("u2", "i2")])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_numbers_of_all_types_are_read(layout, types):
    assert_cube(ply(CUBE, MIXED, layout, *types, position_type="f8"))


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_line_ends_of_all_kinds_are_read(layout, newline):
    assert_cube(ply(CUBE, CUBE_QUADS, layout, newline=newline))


def test_binary_data_can_begin_with_a_line_feed():
    # The first bytes of 8.72e-41 as float32 are 0A F3.
    vertices = np.where(CUBE == 0, np.frombuffer(b"\n\xf3\0\0", "<f4")[0], CUBE)
    for newline in ("\r", "\n", "\r\n"):
        data = ply(vertices, CUBE_TRIANGLES, newline=newline)
        assert volume(*read_ply(data)) == pytest.approx(1)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_concave_polygons_keep_their_volume(layout):
    outline = [(0, 0), (3, 0), (3, 3), (2, 3), (2, 1), (1, 1), (1, 3), (0, 3)]
    for turn in range(8):
        data = ply(*prism(outline, turn=turn), layout)
        assert volume(*read_ply(data)) == pytest.approx(7)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_triangle_strips_are_read(layout):
    strips = [[*CUBE_STRIP, -1, *CUBE_STRIP], CUBE_STRIP]
    assert_cube(ply(CUBE, strips, layout, element="tristrips"), faces=36)


@pytest.mark.parametrize("change", [
    (b"ply\n", b"ply\n\n"),
    (b"comment test", b"comment made by Ren\xe9\ncomment\nobj_info x"),
    (b"element face", b"\n  element\tface"),
    (b"vertex_indices", b"vertex_index"),
    (b"property uchar quality", b"property list uchar float quality"),
    (b" 7\n", b" -1.#IND\n"),
    (b" 7\n", b" 7\n\n"),
    (b" 7\n", b"\n7 "),
    (b"\n4 ", b"\n4\n"),
    (b"format ascii 1.0\n", b"format ascii 1.0\nelement nothing 5\nelement empty 0\n"
                            b"property list uchar int vertex_indices\n"),
])  # fmt: skip
def test_headers_and_lines_of_all_forms_are_read(change):
    data = ply(CUBE, MIXED, "ascii")
    if change[1].startswith(b"property list"):
        data = data.replace(b" 7\n", b" 2 0.5 -1.#IND\n")
    assert_cube(data.replace(*change))


def test_unicode_text_is_read():
    assert_cube(ASCII.decode().encode("utf-16"))
    assert_cube(b"\xef\xbb\xbf" + ASCII)


def test_elements_can_come_in_any_order():
    header, _, body = ASCII.partition(b"end_header\n")
    lines = header.splitlines()
    rows = body.splitlines()
    swapped = [*lines[:3], *lines[8:], *lines[3:8], b"end_header", *rows[8:], *rows[:8]]
    assert_cube(b"\n".join(swapped))


def test_coordinates_can_come_in_any_order():
    data = ASCII.replace(b" x\n", b" q\n").replace(b" z\n", b" x\n").replace(b" q\n", b" z\n")
    assert read_ply(data)[0][1].tolist() == CUBE[1][::-1].tolist()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_cut_is_refused(layout):
    data = ply(CUBE, MIXED, layout).rstrip(b"\n")
    for length in range(3, len(data)):
        if layout == "ascii" and length == len(data) - 1:
            continue  # only a digit of a number that is not needed is missing
        with pytest.raises(UserError):
            read_ply(data[:length])


def test_the_rows_of_a_cut_file_are_counted():
    data = ply(CUBE, CUBE_TRIANGLES * 2)
    with pytest.raises(UserError, match="counts 24 of the element 'face', but .* at most 12"):
        read_ply(data[: -12 * (1 + 3 * 4 + 2)])


@pytest.mark.parametrize("change, message", [
    ((b"element face 12", b"element face 11"), "5 values follow after what the header counts"),
    ((b"element face 12", b"element face 13"), "the file is cut: the header counts 13"),
    ((b"element face 12", b"element face 99999999999999999"), "the file is cut"),
    ((b"\n3 0 1 3 ", b"\n3 0 1 8 "), "a face has index 8, but there are 8 vertices"),
    ((b"\n3 0 1 3 ", b"\n3 0 1 -3 "), "a face has index -3"),
    ((b"\n3 0 1 3 ", b"\n-3 0 1 3 "), "row 0 of the element face has -3 items"),
    ((b"0.0 0.0", b"0,0 0,0"), "line 13: '0,0' is not a number; write decimals with a point"),
    ((b"float x", b"float u"), "the vertices have no x, y and z"),
    ((b"float x", b"real x"), "line 5: cannot read 'property real x' in the header"),
    ((b"vertex_indices", b"corners\nproperty list uchar int more"), "row 0 of the element"),
    ((b"format ascii 1.0\n", b""), "the header does not name the format"),
    ((b"end_header", b"end"), "does not end with end_header: the file is cut"),
    ((b"ply\n", b"PLY!\n"), "not a PLY file"),
    ((b"element face", b"element patch"), "the element 'patch' has indices of vertices"),
])  # fmt: skip
def test_damaged_files_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        read_ply(ASCII.replace(*change, 1))


def test_bytes_that_the_header_does_not_count_are_refused():
    data = ply(CUBE, CUBE_TRIANGLES)
    assert_cube(data + b"\0\0\r\n")
    with pytest.raises(UserError, match="15 bytes follow after what the header counts"):
        read_ply(data.replace(b"face 12", b"face 11"))

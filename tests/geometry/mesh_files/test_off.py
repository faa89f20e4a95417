"""Tests of OFF files as programs write them."""

import pytest

from occvae.errors import UserError
from occvae.geometry.mesh_files.off import read_off
from tests.geometry.mesh_files.measures import volume
from tests.mesh_file_writers import CUBE, CUBE_QUADS, CUBE_TRIANGLES, off, prism

TEXT = off(CUBE, CUBE_TRIANGLES)


def with_line_ends(text: bytes, vertex: bytes, face: bytes) -> bytes:
    """The file with something behind each vertex and behind each face."""
    lines = text.splitlines()
    return b"\n".join([*lines[:2], *(line + vertex for line in lines[2:10]),
                       *(line + face for line in lines[10:])])  # fmt: skip


@pytest.mark.parametrize("text", [
    TEXT,
    off(CUBE, CUBE_QUADS),
    off(CUBE, [*CUBE_QUADS[:-1], [1, 5, 7, 3, 3]]),
    TEXT.replace(b"\n", b"\r"),
    TEXT.replace(b"\n", b"\r\n"),
    TEXT.replace(b" ", b"\t").replace(b"\n", b"\n\n  "),
    TEXT.replace(b"\n", b" # comment\n"),
    b"# comment\n\n" + TEXT,
    b"\xef\xbb\xbf" + TEXT,
    TEXT.decode().encode("utf-16"),
    TEXT.replace(b"OFF\n", b"OFF "),
    TEXT.replace(b"OFF\n", b"OFF"),
    TEXT.replace(b"OFF\n", b""),
    TEXT.replace(b"8 12 0\n", b"8 12\n"),
    TEXT.replace(b"8 12 0\n", b"8\n12\n0\n"),
    TEXT.replace(b"\n", b" ").replace(b"OFF", b"OFF\n"),
    TEXT.replace(b" ", b"\n"),
    with_line_ends(TEXT, b"", b" 0.5 0.5 0.5"),
    with_line_ends(TEXT, b"", b" 3 255 255 255"),
    with_line_ends(TEXT, b" 255 0 0 255", b"").replace(b"OFF", b"COFF"),
    with_line_ends(TEXT, b" 0 0 -1.#IND", b"").replace(b"OFF", b"NOFF"),
    with_line_ends(TEXT, b" 1", b"").replace(b"OFF", b"4OFF"),
])  # fmt: skip
def test_all_forms_give_the_cube(text):
    vertices, faces = read_off(text)
    assert vertices.shape == (8, 3) and len(faces) == 12
    assert volume(vertices, faces) == pytest.approx(1)


def test_concave_polygons_keep_their_volume():
    outline = [(0, 0), (3, 0), (3, 3), (2, 3), (2, 1), (1, 1), (1, 3), (0, 3)]
    for turn in range(8):
        assert volume(*read_off(off(*prism(outline, turn=turn)))) == pytest.approx(7)


def test_homogeneous_coordinates_are_divided():
    vertices, _ = read_off(with_line_ends(TEXT, b" 2", b"").replace(b"OFF", b"4OFF"))
    assert vertices.max() == 0.5


@pytest.mark.parametrize("text, message", [
    (TEXT[:100], "the file is cut: the header counts 8 vertices and 12 faces, but only 8 lines"),
    (b"OFF\n", "no counts of vertices and faces: the file is cut"),
    (b"OFF\n8\n", "no counts of vertices and faces: the file is cut"),
    (TEXT.replace(b"8 12 0", b"8 11 0"), "counts 8 vertices and 11 faces, but 20 lines follow"),
    (TEXT.replace(b"8 12 0", b"8 13 0"), "the file is cut: .* 13 faces, but only 20 lines"),
    (TEXT.replace(b"8 12 0", b"8 -1 0"), "fewer than 0"),
    (TEXT.replace(b"8 12 0", b"8 99999999999999999 0"), "the file is cut"),
    (TEXT.rstrip()[:-2], "a line below has too few numbers: the file is cut or damaged"),
    (TEXT.replace(b"\n3 0 ", b"\n3 8 ", 1), "a face has index 8, but there are 8 vertices"),
    (TEXT.replace(b"\n3 0 ", b"\n3 -1 ", 1), "a face has index -1"),
    (TEXT.replace(b"0.0 1.0", b"0,0 1,0", 1), "line 4: '0,0' is not a number; write decimals"),
    (TEXT.replace(b"\n3 0 ", b"\n-3 0 ", 1), "a line below has too few numbers"),
    (TEXT.replace(b"OFF", b"OFF BINARY"), "binary OFF is not read"),
    (TEXT.replace(b"OFF", b"nOFF\n3"), "any dimension .nOFF. is not read"),
    (b"solid cube\n", "not an OFF file"),
])  # fmt: skip
def test_files_that_do_not_hold_what_their_header_counts_are_refused(text, message):
    with pytest.raises(UserError, match=message):
        read_off(text)


def test_every_cut_is_refused():
    whole = len(TEXT.rstrip())
    for length in range(3, whole):
        with pytest.raises(UserError):
            read_off(TEXT[:length])

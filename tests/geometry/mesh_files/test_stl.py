"""Tests of STL files as programs write them."""

import pytest

from occvae.errors import UserError
from occvae.geometry.mesh_files.stl import read_stl
from tests.geometry.mesh_files.measures import volume
from tests.mesh_file_writers import CUBE, CUBE_QUADS, CUBE_TRIANGLES, stl_binary, stl_text

TEXT = stl_text(CUBE, CUBE_TRIANGLES)
BINARY = stl_binary(CUBE, CUBE_TRIANGLES)


@pytest.mark.parametrize("data", [
    TEXT,
    TEXT.upper(),
    TEXT.replace(b"\n", b"\r\n").replace(b" ", b"\t"),
    TEXT.replace(b"\n", b"\r"),
    TEXT.replace(b"\n", b" "),
    TEXT.replace(b"\n vertex", b" vertex").replace(b"normal 0 0 0", b"normal 0 0 0\n"),
    b"\xef\xbb\xbf\n" + TEXT + b"\n\n\0\0",
    TEXT.decode().encode("utf-16"),
    TEXT.replace(b"normal 0 0 0", b"normal -1.#IND nan 0"),
    stl_text(CUBE, CUBE_TRIANGLES, name="K\u00f6rper"),
    stl_text(CUBE, CUBE_TRIANGLES, name="endsolids plate"),
    stl_text(CUBE, CUBE_TRIANGLES, name="solid facet vertex endsolid"),
    stl_text(CUBE, CUBE_TRIANGLES, name="", end="end solid"),
    stl_text(CUBE, CUBE_TRIANGLES[:5]) + stl_text(CUBE, CUBE_TRIANGLES[5:], name="b"),
    stl_text(CUBE, CUBE_QUADS),
    b"\n".join(TEXT.splitlines()[1:-1]),
    BINARY,
    BINARY + b"\r\n",
    BINARY + bytes(512),
    BINARY + b"written by a program that appends its name" * 3,
    BINARY + b"x" * 100,
    stl_binary(CUBE, CUBE_TRIANGLES, count=0),
    stl_binary(CUBE, CUBE_TRIANGLES, count=2**32 - 1),
    stl_binary(CUBE, CUBE_TRIANGLES, count=7),
    stl_binary(CUBE, CUBE_TRIANGLES, header=b"solid cube"),
    stl_binary(CUBE, CUBE_TRIANGLES, header=b"solid cube", count=0),
    stl_binary(CUBE, CUBE_TRIANGLES, header=b"solid cube\nby a program"),
])  # fmt: skip
def test_all_forms_give_the_cube(data):
    vertices, faces = read_stl(data)
    assert len(faces) == 12 and volume(vertices, faces) == pytest.approx(1)


@pytest.mark.parametrize("data, message", [
    (BINARY[:-70], "the file is cut: its header counts 12 facets, but it has 10"),
    (BINARY[:-100], "the file is cut: its header counts 12 facets, but it has 10"),
    (BINARY[:50], "too short for a binary header"),
    (stl_binary(CUBE, CUBE_TRIANGLES, count=11) + b"\r\n",
     "counts 11 facets, but 52 bytes follow them, which can be more facets"),
    (TEXT[:-20], "the file is cut in line 8[0-9]: a solid or a facet is not closed"),
    (TEXT + TEXT[:200], "the file is cut in line 9[0-9]"),
    (TEXT + b"solid second\n", "the file is cut in line 87"),
    (TEXT.replace(b"endloop", b"", 1), "line 8: expected endloop, found 'endfacet'"),
    (TEXT.replace(b"vertex 0.0", b"vertex 0,0", 1), "line 4: '0,0' is not a number"),
    (TEXT.replace(b"vertex 0.0", b"vertex", 1), "line 5: expected endloop, found '0.0'"),
])  # fmt: skip
def test_cut_and_damaged_files_are_refused(data, message):
    with pytest.raises(UserError, match=message):
        read_stl(data)


@pytest.mark.parametrize("data", [BINARY, TEXT, TEXT + TEXT, TEXT.replace(b"\n", b" ")])
def test_every_cut_is_refused(data):
    cuts = set(range(1, len(data.rstrip()) - len(" part")))
    if data.count(b"endsolid") > 1:  # a complete solid is a complete file
        cuts -= set(range(len(TEXT) - len(" part\n"), len(TEXT) + 1))
    for length in cuts:
        with pytest.raises(UserError):
            read_stl(data[:length])

"""Reads STL, as text and binary."""

from __future__ import annotations

import re

import numpy as np

from occvae.errors import UserError
from occvae.geometry.mesh_files.polygons import triangulate
from occvae.geometry.mesh_files.text import Text, decode, plain_text, word_code, word_of

_FACET = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_HEADER = 84
# Data behind the facets that is not a facet, read as one, has coordinates this many times larger.
_FAR = 1000
# Counts that programs write before they know the number of facets.
_PLACEHOLDERS = {0, 2**31 - 1, 2**32 - 1}
_TEXT_LINE = re.compile(rb"[\r\n]\s*(facet|endsolid|end solid)\b", re.IGNORECASE)
_FACET_LINES = np.array(
    [word_code(word) for word in b"facet outer vertex vertex vertex endloop endfacet".split()]
)
_VERTEX, _SOLID = word_code(b"vertex"), word_code(b"solid")
_BETWEEN_SOLIDS = {b"solid", b"endsolid", b"end"}
_END_OF_SOLID, _END = word_code(b"endsolid"), word_code(b"end")


def read_stl(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Reads vertices (3 F, 3) float64 and faces (F, 3) int64.

    The number of facets of a binary file follows from its length, because some programs write
    wrong counts. Solids of a text file are joined. Normals and attributes are ignored.

    Raises:
        UserError: the file is cut or is not STL.
    """
    if _is_text(data):
        return _read_text(data)
    corners = np.frombuffer(data, _FACET, _count_facets(data), _HEADER)["corners"]
    vertices = corners.reshape(-1, 3).astype(np.float64)
    return vertices, np.arange(len(vertices)).reshape(-1, 3)


def _is_text(data: bytes) -> bool:
    """Tells text from binary, whose header can begin with "solid", too."""
    if len(data) >= _HEADER and len(data) == _HEADER + _FACET.itemsize * _stored_count(data):
        return False
    start = decode(data[:4096])
    if not re.match(rb"\s*(solid|facet)\b", start, re.IGNORECASE):
        return False
    return b"\0" not in start.rstrip(b"\0") or bool(_TEXT_LINE.search(start))


def _stored_count(data: bytes) -> int:
    return int.from_bytes(data[80:_HEADER], "little")


def _count_facets(data: bytes) -> int:
    if len(data) < _HEADER:
        raise UserError("not an STL file: too short for a binary header, and not text")
    count, size = _stored_count(data), len(data) - _HEADER
    there, rest = divmod(size, _FACET.itemsize)
    if count == there or (count in _PLACEHOLDERS and not rest):
        return there
    if count > there:
        raise UserError(f"the file is cut: its header counts {count} facets, but it has {there}")
    probable = _probable_facets(data, count, there)
    if probable.all() and not rest:
        return there
    if not probable.any():
        return count  # other data follow, such as text or zeros
    raise UserError(
        f"the header counts {count} facets, but {size - _FACET.itemsize * count} bytes follow "
        "them, which can be more facets; export the mesh again"
    )


def _probable_facets(data: bytes, count: int, there: int) -> np.ndarray:
    """Tells which records behind the counted facets have corners near these facets."""
    corners = np.abs(np.frombuffer(data, _FACET, there, _HEADER)["corners"]).max((1, 2))
    limit = _FAR * corners[:count].max() if count else np.float32(np.inf)
    return (corners[count:] > 0) & (corners[count:] <= limit)


def _read_text(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    text = Text(plain_text(data))
    words = text.words(text.first)
    begins = words == _SOLID
    ends = words == _END_OF_SOLID
    if (words == _END).any():
        ends |= (words == _END) & _is_followed_by_solid(text)
    content = ~begins & ~ends
    lines, first, counts = words[content], text.first[content], text.counts[content]
    whole = len(lines) > 0 and len(lines) % 7 == 0 and (lines.reshape(-1, 7) == _FACET_LINES).all()
    if not whole or (counts[lines == _VERTEX] != 4).any():
        return _read_free_text(text)
    if begins.sum() > ends.sum():
        raise _cut(text)
    corners = first[lines == _VERTEX][:, None] + np.arange(1, 4)
    vertices = text.floats(corners.reshape(-1)).reshape(-1, 3)
    return vertices, np.arange(len(vertices)).reshape(-1, 3)


def _is_followed_by_solid(text: Text) -> np.ndarray:
    """Tells for each line whether its second word is "solid"."""
    second = np.minimum(text.first + 1, len(text) - 1)
    return (text.counts > 1) & (text.words(second) == _SOLID)


def _cut(text: Text) -> UserError:
    return UserError(
        f"the file is cut in line {text.line(len(text) - 1)}: a solid or a facet is not closed; "
        "if it is complete, append 'endsolid'"
    )


def _read_free_text(text: Text) -> tuple[np.ndarray, np.ndarray]:
    """Reads text whose lines break elsewhere, or whose facets have more than three corners."""
    words = [word_of(code) for code in text.words(np.arange(len(text)))]
    begins_line = set(text.first.tolist())
    corners: list[int] = []  # first coordinate of each corner
    sizes: list[int] = []
    at, is_open = 0, False
    while at < len(words):
        if words[at] == b"facet" and words[at + 1 : at + 2] == [b"normal"]:
            at, size = _read_facet(text, words, at, corners)
            sizes.append(size)
        else:  # the name of a solid can be any words
            if not is_open and at in begins_line and words[at] not in _BETWEEN_SOLIDS:
                raise UserError(f"line {text.line(at)}: expected solid, found {text.token(at)}")
            is_open |= words[at] == b"solid"
            is_open &= words[at] != b"endsolid" and words[at : at + 2] != [b"end", b"solid"]
            at += 2 if words[at] == b"end" else 1
    if is_open:
        raise _cut(text)
    places = np.array(corners, np.int64)[:, None] + np.arange(3)
    vertices = text.floats(places.reshape(-1)).reshape(-1, 3)
    return vertices, triangulate(vertices, np.arange(len(vertices)), np.array(sizes, np.int64))


def _read_facet(text: Text, words: list[bytes], at: int, corners: list[int]) -> tuple[int, int]:
    """Appends the corners of a facet. Returns the place behind it and the number of corners."""
    known = len(corners)
    while at < len(words) and words[at] != b"outer":  # the normal is not needed
        at += 1
    at = _expect(text, words, at, b"outer", b"loop")
    while words[at : at + 1] == [b"vertex"]:
        corners.append(at + 1)
        at += 4
    if at > len(words):
        raise _cut(text)
    return _expect(text, words, at, b"endloop", b"endfacet"), len(corners) - known


def _expect(text: Text, words: list[bytes], at: int, *expected: bytes) -> int:
    for word in expected:
        if at >= len(words) or (words[at] != word and at == len(words) - 1):
            raise _cut(text)
        if words[at] != word:
            found = text.token(at)
            raise UserError(f"line {text.line(at)}: expected {word.decode()}, found {found}")
        at += 1
    return at

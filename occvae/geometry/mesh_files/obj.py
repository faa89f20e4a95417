"""Reads Wavefront OBJ: positions and faces."""

from __future__ import annotations

import re

import numpy as np

from occvae.errors import UserError
from occvae.geometry.mesh_files.polygons import triangulate
from occvae.geometry.mesh_files.text import (
    JOINED_LINE,
    Text,
    plain_text,
    ranges,
    word_code,
    word_of,
)

_VERTEX = word_code(b"v")
_FACES = [word_code(b"f"), word_code(b"fo")]
_ATTRIBUTES = [word_code(b"vn"), word_code(b"vt")]
# Statements whose geometry is not made of polygons, or is in another file.
_UNREAD = {b"surf", b"bsp", b"bzp", b"cdc", b"cdp", b"res", b"call"}
# Lines that end in a backslash. Names can end in one, too, and do not continue.
_CONTINUED = re.compile(
    rb"^[ \t]*(?!(?:o|g|usemtl|mtllib|usemap|maplib|shadow_obj|trace_obj)[ \t])"
    rb"(?:[^\n]*\\[ \t]*\n)+",
    re.MULTILINE,
)


def read_obj(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Reads vertices (V, 3) float64 and faces (F, 3) int64.

    Each face line can mix the forms a, a/b, a//c and a/b/c, and can count back from the vertices
    before it. Groups, materials, normals, texture coordinates, points and lines are ignored.

    Raises:
        UserError: a vertex or a face is malformed, an index is 0 or out of range, or there are
            free-form surfaces.
    """
    text = Text(_join_lines(plain_text(data) + b"\n"))
    words = text.words(text.first)
    is_vertex = words == _VERTEX
    is_face = np.isin(words, _FACES)
    others = ~is_vertex & ~is_face & ~np.isin(words, _ATTRIBUTES)
    _check_other_statements(text, words[others], text.first[others])
    vertices = _read_vertices(text, is_vertex)
    corners, sizes = _read_faces(text, is_face, np.cumsum(is_vertex))
    return vertices, triangulate(vertices, corners, sizes)


def _join_lines(text: bytes) -> bytes:
    if b"\\" not in text:
        return text
    joined = b" " + bytes([JOINED_LINE])
    return _CONTINUED.sub(lambda lines: re.sub(rb"\\[ \t]*\n", joined, lines.group()), text)


def _check_other_statements(text: Text, words: np.ndarray, tokens: np.ndarray) -> None:
    for code in np.unique(words):
        word = word_of(code)
        if not word[:1].isalpha() or word in _UNREAD:
            token = int(tokens[int((words == code).argmax())])
            place = f"line {text.line(token)}"
            if word in _UNREAD:
                raise UserError(
                    f"{place}: {text.token(token)} describes a surface that is not made of "
                    "polygons; export the mesh as polygons"
                )
            raise UserError(f"{place}: {text.token(token)} is not a statement of an OBJ file")


def _read_vertices(text: Text, is_vertex: np.ndarray) -> np.ndarray:
    first, counts = text.first[is_vertex], text.counts[is_vertex]
    if (counts < 4).any():
        token = int(first[int((counts < 4).argmax())])
        raise UserError(f"line {text.line(token)}: a vertex needs 3 coordinates")
    tokens = first[:, None] + np.arange(1, 4)
    return text.floats(tokens.reshape(-1)).reshape(-1, 3)


def _read_faces(
    text: Text, is_face: np.ndarray, vertices_before: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Reads corners, counted from 0, and the number of corners per face."""
    first, sizes = text.first[is_face], text.counts[is_face] - 1
    if len(sizes) and sizes[-1] < 3:
        line = text.line(int(first[-1]))
        raise UserError(f"line {line}: the last face has {sizes[-1]} corners: the file is cut")
    tokens = ranges(first + 1, sizes)
    numbers = text.integers(tokens, _ends_of_positions(text, tokens))
    before = np.repeat(vertices_before[is_face], sizes)
    corners = np.where(numbers > 0, numbers - 1, numbers + before)
    total = int(vertices_before[-1]) if len(vertices_before) else 0
    wrong = (numbers == 0) | (corners < 0) | (corners >= total)
    if wrong.any():
        place = int(wrong.argmax())
        line, number = text.line(int(tokens[place])), numbers[place]
        if number == 0:
            raise UserError(f"line {line}: a face has index 0, but OBJ counts vertices from 1")
        raise UserError(
            f"line {line}: a face has index {number}, but there are {total} vertices"
            + (f" ({before[place]} before the face)" if number < 0 else "")
        )
    return corners, sizes


def _ends_of_positions(text: Text, tokens: np.ndarray) -> np.ndarray:
    """The ends of the position's index in tokens like 1/2/3."""
    ends = text.ends[tokens]
    slashes = np.flatnonzero(text.array == ord("/"))
    if not len(slashes):
        return ends
    following = np.append(slashes, len(text.array))[np.searchsorted(slashes, text.starts[tokens])]
    return np.minimum(ends, following)

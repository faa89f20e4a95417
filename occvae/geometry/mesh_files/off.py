"""Reads the text form of OFF, the Object File Format of Geomview."""

from __future__ import annotations

import re

import numpy as np

from occvae.errors import UserError
from occvae.geometry.mesh_files.polygons import triangulate
from occvae.geometry.mesh_files.text import Text, plain_text, ranges

# The keyword can be missing, and the counts can follow it without a space, as in ModelNet.
_KEYWORD = re.compile(rb"\s*(ST)?(C)?(N)?(4)?(n)?(?:OFF|off)(?![A-Za-z])([ \t]+BINARY)?")


def read_off(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Reads vertices (V, 3) float64 and faces (F, 3) int64.

    Colors, normals and texture coordinates are ignored. Line breaks matter only where numbers
    that are ignored follow a vertex or a face.

    Raises:
        UserError: the file is not OFF, or it does not hold what its header counts.
    """
    plain = plain_text(data)
    keyword = _KEYWORD.match(plain)
    if keyword and keyword[6]:
        raise UserError("binary OFF is not read; export the mesh as text")
    if keyword and keyword[5]:
        raise UserError("OFF of any dimension (nOFF) is not read; export 3 coordinates")
    if not keyword and not re.match(rb"\s*\d", plain):
        raise UserError("not an OFF file: it begins neither with OFF nor with counts")
    length = keyword.end() if keyword else 0
    text = Text(plain[:length].count(b"\n") * b"\n" + plain[length:])
    homogeneous = bool(keyword and keyword[4])
    width = 4 if homogeneous else 3
    (vertex_count, face_count), position = _read_counts(text)
    rows = _rows_by_lines(text, position, vertex_count, face_count, width)
    if rows is None:
        rows = _rows_by_tokens(text, position, vertex_count, face_count, width)
    if rows is None:
        raise _mismatch(text, position, vertex_count, face_count)
    vertex_tokens, face_tokens, sizes = rows
    places = (vertex_tokens[:, None] + np.arange(width)).reshape(-1)
    vertices = text.floats(places).reshape(-1, width)
    if homogeneous:
        vertices = vertices[:, :3] / vertices[:, 3:]
    corners = text.integers(ranges(face_tokens + 1, sizes))
    return vertices, triangulate(vertices, corners, sizes)


def _read_counts(text: Text) -> tuple[tuple[int, int], int]:
    """Reads the numbers of vertices and faces, and returns the token behind all counts."""
    given = min(int(text.counts[0]), 3) if len(text.counts) else 0
    if given == 1:
        given = min(len(text), 3)  # one count per line
    if given < 2:
        raise UserError("the header has no counts of vertices and faces: the file is cut")
    vertices, faces = (int(count) for count in text.integers(np.arange(2)))
    if vertices < 0 or faces < 0:
        raise UserError("the header counts fewer than 0 vertices or faces")
    return (vertices, faces), given


Rows = tuple[np.ndarray, np.ndarray, np.ndarray]  # first tokens of vertices, of faces; corners


def _rows_by_lines(
    text: Text, position: int, vertex_count: int, face_count: int, width: int
) -> Rows | None:
    """Rows of a file with one vertex or face per line, or None if it is not one."""
    after = int(np.searchsorted(text.first, position))
    first, counts = text.first[after:], text.counts[after:]
    if len(first) != vertex_count + face_count or (counts[:vertex_count] < width).any():
        return None
    faces, lengths = first[vertex_count:], counts[vertex_count:]
    try:
        sizes = text.integers(faces)
    except UserError:
        return None
    if (sizes < 0).any() or (sizes >= lengths).any():
        return None
    return first[:vertex_count], faces, sizes


def _rows_by_tokens(
    text: Text, position: int, vertex_count: int, face_count: int, width: int
) -> Rows | None:
    """Rows of a file without numbers to ignore, or None if it is not one."""
    faces = position + vertex_count * width
    if faces + face_count > len(text):
        return None
    try:
        values = text.integers(np.arange(faces, len(text))).tolist()
    except UserError:
        return None
    starts, at = [], 0
    for _ in range(face_count):
        if at >= len(values) or values[at] < 0:
            return None
        starts.append(at)
        at += 1 + values[at]
    if at != len(values):
        return None
    sizes = np.array([values[start] for start in starts], np.int64)
    return position + width * np.arange(vertex_count), faces + np.array(starts, np.int64), sizes


def _mismatch(text: Text, position: int, vertex_count: int, face_count: int) -> UserError:
    lines = len(text.first) - int(np.searchsorted(text.first, position))
    counted = f"the header counts {vertex_count} vertices and {face_count} faces"
    if lines < vertex_count + face_count:
        return UserError(f"the file is cut: {counted}, but only {lines} lines follow")
    if lines > vertex_count + face_count:
        return UserError(f"{counted}, but {lines} lines follow")
    return UserError(f"{counted}, but a line below has too few numbers: the file is cut or damaged")

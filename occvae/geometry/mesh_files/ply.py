"""Reads PLY, as text and binary: positions, faces and triangle strips."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from occvae.errors import UserError
from occvae.geometry.mesh_files.polygons import check_range, strip_faces, triangulate
from occvae.geometry.mesh_files.text import Text, decode, plain_text, ranges

_TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4",
    "float": "f4", "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2",
    "int32": "i4", "uint32": "u4", "int64": "i8", "uint64": "u8", "float32": "f4",
    "float64": "f8",
}  # fmt: skip
# Equal lists of up to so many items are read item by item, which is faster.
_FEW_ITEMS = 8
_INDEX_NAMES = ("vertex_indices", "vertex_index")
_HEADER = re.compile(rb"ply[ \t]*(\r\n|\n|\r).*?\1[ \t]*end_header[ \t]*(\1|$)", re.DOTALL)


@dataclass(frozen=True)
class _Property:
    """One value per row, or a list if it has the type of a count."""

    name: str
    type: np.dtype
    count_type: np.dtype | None = None


@dataclass
class _Element:
    name: str
    count: int
    properties: list[_Property] = field(default_factory=list)


@dataclass
class _Rows:
    """Where the values of an element lie: byte or token of each row.

    Attributes:
        scalars: (R,) per property.
        lists: first items (R,) and numbers of items (R,) per property.
        end: the place behind the last row.
    """

    scalars: dict[str, np.ndarray]
    lists: dict[str, tuple[np.ndarray, np.ndarray]]
    end: int


class _Body(Protocol):
    """The data after the header. Places are bytes or tokens."""

    size: int

    def width(self, dtype: np.dtype) -> int:
        """The number of places that a value takes."""

    def guess(self, element: _Element, start: int) -> np.ndarray | None:
        """The probable first place of each row, or None if no guess is possible."""

    def values(self, places: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """The values at ascending places."""

    def items(self, starts: np.ndarray, counts: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """The items of lists, given their first places, one list after the other."""


def read_ply(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Reads vertices (V, 3) float64 and faces (F, 3) int64.

    Elements and properties can come in any order. Those that are not needed are skipped.

    Raises:
        UserError: the header is malformed, the file does not hold what the header counts, or an
            index is out of range.
    """
    data = decode(data)
    header = _HEADER.match(data)
    if not header:
        raise UserError(
            "the header does not end with end_header: the file is cut"
            if data.startswith(b"ply")
            else "not a PLY file: it does not begin with ply"
        )
    layout, elements = _parse_header(header.group())
    body: _Body
    if layout == "ascii":
        lines = re.sub(rb"\r\n?", b"\n", header.group()).count(b"\n")
        body = _TextBody(Text(b"\n" * lines + plain_text(data[header.end() :])))
    else:
        body = _BinaryBody(data[header.end() :], "<" if layout == "binary_little_endian" else ">")
    return _read_elements(body, elements)


def _parse_header(header: bytes) -> tuple[str, list[_Element]]:
    layout, elements = "", []
    for number, line in enumerate(re.split("\r\n|\n|\r", header.decode("latin-1")), 1):
        match line.split():
            case [] | ["comment" | "obj_info" | "ply" | "end_header", *_]:
                pass
            case ["format", "ascii" | "binary_little_endian" | "binary_big_endian" as layout, _]:
                pass
            case ["element", name, count] if count.isdecimal() and len(count) < 18:
                elements.append(_Element(name, int(count)))
            case ["property", "list", count_type, item_type, name] if (
                elements and item_type in _TYPES and _TYPES.get(count_type, "f")[0] != "f"
            ):
                types = np.dtype(_TYPES[item_type]), np.dtype(_TYPES[count_type])
                elements[-1].properties.append(_Property(name, *types))
            case ["property", type_name, name] if elements and type_name in _TYPES:
                elements[-1].properties.append(_Property(name, np.dtype(_TYPES[type_name])))
            case _:
                raise UserError(f"line {number}: cannot read {ascii(line[:40])} in the header")
    if not layout:
        raise UserError("the header does not name the format")
    return layout, elements


def _read_elements(body: _Body, elements: list[_Element]) -> tuple[np.ndarray, np.ndarray]:
    vertices = np.empty((0, 3))
    polygons = strips = (np.empty(0, np.int64), np.empty(0, np.int64))
    position = 0
    for element in elements:
        rows = _find_rows(body, element, position)
        position = rows.end
        if element.name == "vertex":
            vertices = _read_positions(body, element, rows)
        elif element.name == "face":
            polygons = _read_indices(body, element, rows)
        elif element.name == "tristrips":
            strips = _read_indices(body, element, rows)
        elif element.count and any(each.name in _INDEX_NAMES for each in element.properties):
            raise UserError(
                f"the element {ascii(element.name)} has indices of vertices, but only face and "
                "tristrips are read; export the mesh as faces"
            )
    _check_end(body, position)
    strip_triangles = strip_faces(*strips)
    check_range(strip_triangles, len(vertices))
    return vertices, np.concatenate([triangulate(vertices, *polygons), strip_triangles])


def _check_end(body: _Body, position: int) -> None:
    if isinstance(body, _TextBody):
        left, unit = len(body.text) - position, "values"
    else:
        assert isinstance(body, _BinaryBody)
        left, unit = len(body.data[position:].strip(b"\0\r\n\t \x1a")), "bytes"
    if left:
        raise UserError(f"{left} {unit} follow after what the header counts: its counts are wrong")


def _read_positions(body: _Body, element: _Element, rows: _Rows) -> np.ndarray:
    types = {each.name: each.type for each in element.properties}
    if element.count and not {"x", "y", "z"} <= rows.scalars.keys():
        raise UserError("the vertices have no x, y and z")
    vertices = np.empty((element.count, 3))
    if element.count:
        for axis, name in enumerate("xyz"):
            vertices[:, axis] = body.values(rows.scalars[name], types[name])
    return vertices


def _read_indices(body: _Body, element: _Element, rows: _Rows) -> tuple[np.ndarray, np.ndarray]:
    """All indices in one array, and their number per row."""
    if not element.count:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    lists = {each.name: each for each in element.properties if each.count_type}
    named = [name for name in _INDEX_NAMES if name in lists] or list(lists)
    if len(named) != 1 or lists[named[0]].type.kind == "f":
        raise UserError(
            f"the element {element.name} needs one list of integers named vertex_indices"
        )
    starts, counts = rows.lists[named[0]]
    return body.items(starts, counts, lists[named[0]].type).astype(np.int64), counts


def _find_rows(body: _Body, element: _Element, start: int) -> _Rows:
    """Finds the values of an element, or raises an error if the file ends before its last row."""
    if not element.count or not element.properties:
        names = [(each.name, bool(each.count_type)) for each in element.properties]
        none = np.empty(0, np.int64)
        scalars = {name: none for name, is_list in names if not is_list}
        return _Rows(scalars, {name: (none, none) for name, is_list in names if is_list}, start)
    least = sum(body.width(each.count_type or each.type) for each in element.properties)
    if element.count > (body.size - start) // least:
        raise _cut(element, (body.size - start) // least)
    guess = body.guess(element, start)
    rows = None if guess is None else _walk(body, element, guess)
    if rows is None:
        rows = _walk(body, element, _walk_row_by_row(body, element, start))
    if rows is None:
        raise UserError(f"the element {element.name} is damaged")
    return rows


def _cut(element: _Element, found: int) -> UserError:
    return UserError(
        f"the file is cut: the header counts {element.count} of the element "
        f"{ascii(element.name)}, but there are at most {found}"
    )


def _walk(body: _Body, element: _Element, starts: np.ndarray) -> _Rows | None:
    """Finds the values of all rows at once, or returns None if rows begin elsewhere."""
    rows, at = _Rows({}, {}, 0), starts.copy()
    for each in element.properties:
        if (at + body.width(each.count_type or each.type) > body.size).any():
            return None
        if each.count_type is None:
            rows.scalars[each.name] = at
            at = at + body.width(each.type)
        else:
            counts = body.values(at, each.count_type).astype(np.int64)
            if (counts < 0).any() or (counts > body.size).any():
                return None
            at = at + body.width(each.count_type)
            rows.lists[each.name] = at, counts
            at = at + counts * body.width(each.type)
    if (at[:-1] != starts[1:]).any() or at[-1] > body.size:
        return None
    rows.end = int(at[-1])
    return rows


def _walk_row_by_row(body: _Body, element: _Element, start: int) -> np.ndarray:
    """The first place of each row, where rows differ in length."""
    steps: list[tuple[int, np.dtype | None, int]] = []  # places to skip, then items of a list
    skip = 0
    for each in element.properties:
        if each.count_type is None:
            skip += body.width(each.type)
        else:
            steps.append((skip, each.count_type, body.width(each.type)))
            skip = 0
    at, starts = start, np.empty(element.count, np.int64)
    for row in range(element.count):
        starts[row] = at
        for before, count_type, width in steps:
            assert count_type is not None
            at += before
            if at + body.width(count_type) > body.size:
                raise _cut(element, row)
            count = int(body.values(np.array([at]), count_type)[0])
            if count < 0:
                raise UserError(f"row {row} of the element {element.name} has {count} items")
            at += body.width(count_type) + count * width
        at += skip
        if at > body.size:
            raise _cut(element, row)
    return starts


class _TextBody:
    """Tokens, which may be one row per line or not."""

    def __init__(self, text: Text):
        self.text = text
        self.size = len(text)

    def width(self, dtype: np.dtype) -> int:
        return 1

    def guess(self, element: _Element, start: int) -> np.ndarray | None:
        if all(each.count_type is None for each in element.properties):
            return start + len(element.properties) * np.arange(element.count)
        line = int(np.searchsorted(self.text.first, start))
        starts = self.text.first[line : line + element.count]
        return starts if len(starts) == element.count and starts[0] == start else None

    def values(self, places: np.ndarray, dtype: np.dtype) -> np.ndarray:
        parse = self.text.floats if dtype.kind == "f" else self.text.integers
        return parse(places)

    def items(self, starts: np.ndarray, counts: np.ndarray, dtype: np.dtype) -> np.ndarray:
        return self.values(ranges(starts, counts), dtype)


class _BinaryBody:
    """Bytes in a given order."""

    def __init__(self, data: bytes, order: Literal["<", ">"]):
        self.data = data
        self.array = np.frombuffer(data, np.uint8)
        self.size = len(data)
        self.order = order

    def width(self, dtype: np.dtype) -> int:
        return dtype.itemsize

    def guess(self, element: _Element, start: int) -> np.ndarray:
        """Rows as long as the first one."""
        at = start
        for each in element.properties:
            if each.count_type is None:
                at += each.type.itemsize
            elif at + each.count_type.itemsize <= self.size:
                count = int(self.values(np.array([at]), each.count_type)[0])
                at += each.count_type.itemsize + max(count, 0) * each.type.itemsize
        return start + (at - start) * np.arange(element.count)

    def values(self, places: np.ndarray, dtype: np.dtype) -> np.ndarray:
        dtype = dtype.newbyteorder(self.order)
        step = np.diff(places[:2])
        if len(step) and (np.diff(places) == step).all():
            return np.ndarray(len(places), dtype, self.data, places[0], (step[0],))
        chosen = self.array[places[:, None] + np.arange(dtype.itemsize)]
        return np.ascontiguousarray(chosen).view(dtype).reshape(-1)

    def items(self, starts: np.ndarray, counts: np.ndarray, dtype: np.dtype) -> np.ndarray:
        width = dtype.itemsize
        if counts[0] <= _FEW_ITEMS and (counts == counts[0]).all():
            columns = [self.values(starts + width * item, dtype) for item in range(counts[0])]
            return np.stack(columns, axis=1).reshape(-1) if columns else np.empty(0, dtype)
        place = ranges(np.zeros_like(counts), counts)
        return self.values(np.repeat(starts, counts) + width * place, dtype)

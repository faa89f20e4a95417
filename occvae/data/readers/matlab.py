"""Reads numeric arrays from MATLAB files of versions 5 to 7.

Published voxel grids come in these files. scipy.io.loadmat reads more kinds of files, but a damaged
byte can crash the process, and with it a whole build.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from occvae.errors import UserError

_HEADER = 128  # bytes
_LARGEST = 1 << 30  # bytes of a decompressed array: 512^3 doubles
_MATRIX, _COMPRESSED = 14, 15
_DTYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8"} | {
    12: "i8",
    13: "u8",
}
_NUMERIC_CLASSES = range(
    6, 16
)  # double to uint64, without cells, structures, text and sparse arrays
_COMPLEX = 0x800


def read_mat_array(path: str | Path, name: str) -> np.ndarray:
    """Reads one variable, with the dtype in which it is stored.

    Args:
        path: the file.
        name: name of the variable.

    Raises:
        UserError: the file is missing, damaged or of another version, or has no such numeric array.
    """
    path = Path(path)
    try:
        found = []
        for label, matrix, order in _variables(path):
            found.append(label)
            if label == name:
                return _decode(matrix, order)
    except (ValueError, zlib.error) as error:
        raise UserError(f"{path.name}: not a usable MATLAB file ({error})") from None
    raise UserError(f"{path.name} has no '{name}' (found {', '.join(found) or 'nothing'})")


def read_only_mat_grid(path: str | Path) -> np.ndarray:
    """Reads the only cubic array (R, R, R), whatever its name.

    Args:
        path: the file.

    Raises:
        UserError: the file is missing, damaged or of another version, or has no or several such
            numeric arrays.
    """
    path = Path(path)
    found, grids = [], {}
    try:
        for label, matrix, order in _variables(path):
            found.append(label)
            sizes = _sizes(matrix, order)
            if len(sizes) == 3 and len(set(sizes)) == 1:
                grids[label] = _decode(matrix, order)
    except (ValueError, zlib.error) as error:
        raise UserError(f"{path.name}: not a usable MATLAB file ({error})") from None
    if len(grids) > 1:
        raise UserError(
            f"{path.name} has several (R, R, R) arrays ({', '.join(grids)}); "
            "save each in a file of its own"
        )
    if not grids:
        raise UserError(
            f"{path.name} has no (R, R, R) array (found {', '.join(found) or 'nothing'})"
        )
    return next(iter(grids.values()))


def _variables(path: Path) -> Iterator[tuple[str, bytes, str]]:
    """Yields the name of each variable, its elements and its byte order."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path.name} is missing") from None
    except OSError as error:
        raise UserError(f"{path.name} cannot be read ({error.strerror})") from None
    for matrix, order in _matrices(content):
        fields = [data for _, data in _elements(matrix, order)][:3]
        if len(fields) < 3:
            raise ValueError("a variable has no name")
        yield fields[2].decode("latin-1"), matrix, order


def _matrices(content: bytes) -> Iterator[tuple[bytes, str]]:
    """Yields each variable of the file, decompressed, with its byte order."""
    orders = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}
    order = orders.get(content[124:_HEADER])
    if order is None:
        raise ValueError("its version is not 5 to 7; save it with -v7")
    for kind, data in _elements(content[_HEADER:], order):
        if kind == _COMPRESSED:
            inflater = zlib.decompressobj()
            data = inflater.decompress(data, _LARGEST)
            if not inflater.eof:
                raise ValueError("a variable is truncated or larger than 1 GiB")
            kind, data = next(_elements(data, order), (0, b""))
        if kind == _MATRIX:
            yield data, order


def _elements(content: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Yields the type and data of each element."""
    place = 0
    while place < len(content):
        if place + 8 > len(content):
            raise ValueError("an element is truncated")
        kind, size = (int(word) for word in np.frombuffer(content, order + "u4", 2, place))
        start = place + 8
        if kind >> 16:  # a short element: its tag holds up to four bytes of data
            kind, size, start = kind & 0xFFFF, kind >> 16, place + 4
            if size > 4:
                raise ValueError("a short element is longer than 4 bytes")
        if start + size > len(content):
            raise ValueError("an element is truncated")
        yield kind, content[start : start + size]
        place = start + size
        if kind != _COMPRESSED:
            place += -place % 8


def _decode(matrix: bytes, order: str) -> np.ndarray:
    """The array of a variable. MATLAB stores arrays in Fortran order."""
    (_, flags), (_, sizes), _, (kind, data) = (*_elements(matrix, order), *[(0, b"")] * 4)[:4]
    if len(flags) < 4 or len(sizes) % 4 or kind not in _DTYPES:
        raise ValueError("the variable is not a numeric array")
    (flag,) = np.frombuffer(flags, order + "u4", 1)
    if int(flag) & 0xFF not in _NUMERIC_CLASSES or int(flag) & _COMPLEX:
        raise ValueError("the variable is not a real numeric array")
    shape = _sizes(matrix, order)
    dtype = np.dtype(order + _DTYPES[kind])
    count = int(np.prod(shape, dtype=object))
    if min(shape, default=-1) < 0 or count * dtype.itemsize != len(data):
        raise ValueError(f"its sizes {shape} do not match its {len(data)} bytes of {dtype.name}")
    return np.frombuffer(data, dtype).reshape(shape, order="F")


def _sizes(matrix: bytes, order: str) -> list[int]:
    """The sizes of a variable along its axes."""
    _, (_, sizes) = (*_elements(matrix, order), *[(0, b"")] * 2)[:2]
    if len(sizes) % 4:
        raise ValueError("a variable has damaged sizes")
    return [int(size) for size in np.frombuffer(sizes, order + "i4")]

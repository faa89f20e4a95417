"""The JSON and the binary data of a glTF file."""

from __future__ import annotations

import base64
import binascii
import json
import struct
import urllib.parse
from pathlib import Path
from typing import Any

import numpy as np

from occvae.errors import UserError

_JSON_CHUNK, _BINARY_CHUNK = 0x4E4F534A, 0x004E4942
_TYPES = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_COMPONENTS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
# A larger accessor without data of its own is a mistake.
_MOST_ZEROS = 2**24
_MESHOPT = ("EXT_meshopt_compression", "KHR_meshopt_compression")


class GltfData:
    """Typed access to the objects and accessors of a glTF file.

    Args:
        data: a .glb file, or the JSON of a .gltf file.
        folder: where the files that it names lie.

    Raises:
        UserError: the container or the JSON is damaged.
    """

    def __init__(self, data: bytes, folder: Path):
        self.folder = folder
        self.binary: bytes | None = None
        text = data
        if data.startswith(b"glTF"):
            text, self.binary = _split_chunks(data)
        elif not data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
            raise UserError("not a glTF file: it begins neither with glTF nor with {")
        try:
            self.root = json.loads(text.decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise UserError(f"the JSON is damaged ({' '.join(str(error).split())[:80]})") from None
        if not isinstance(self.root, dict):
            raise UserError("the JSON is not an object")
        self._buffers: dict[int, bytes] = {}

    def objects(self, kind: str) -> list[dict[str, Any]]:
        """Returns all objects of a kind, e.g. "nodes"."""
        return objects_in(self.root, kind)

    def object(self, kind: str, number: int) -> dict[str, Any]:
        """Returns one object of a kind."""
        return self.objects(kind)[check_index(number, len(self.objects(kind)), kind)]

    def accessor(self, number: int, size: str) -> np.ndarray:
        """Reads an accessor.

        Args:
            number: its index.
            size: the expected type, e.g. "VEC3".

        Returns:
            (count, components) float64, or int64 for integers that are not normalized.
        """
        spec = self.object("accessors", number)
        what = f"accessor {number}"
        count, dtype = integer(spec, "count", what), _dtype(spec, what)
        if spec.get("type") != size:
            raise UserError(f"{what} must have the type {size}, not {ascii(spec.get('type'))[:20]}")
        if "bufferView" in spec:
            values = self._view(spec, count, _COMPONENTS[size], dtype, what)
        elif count > _MOST_ZEROS:
            raise UserError(f"{what} has no data for its {count} values")
        else:
            values = np.zeros((count, _COMPONENTS[size]), dtype)
        if "sparse" in spec:
            values = self._replace(values, mapping(spec, "sparse"), what)
        return self.normalize(values, number)

    def _replace(self, values: np.ndarray, sparse: dict[str, Any], what: str) -> np.ndarray:
        count = integer(sparse, "count", what)
        places, new = mapping(sparse, "indices"), mapping(sparse, "values")
        indices = self._view(places, count, 1, _dtype(places, what), what)[:, 0].astype(np.int64)
        if (indices < 0).any() or (indices >= len(values)).any():
            raise UserError(f"{what} has sparse values out of range")
        values = values.copy()
        values[indices] = self._view(new, count, values.shape[1], values.dtype, what)
        return values

    def normalize(self, values: np.ndarray, number: int) -> np.ndarray:
        """Converts stored values of an accessor as it declares."""
        if self.object("accessors", number).get("normalized") is True and values.dtype.kind in "iu":
            return np.maximum(values / np.float64(np.iinfo(values.dtype).max), -1.0)
        return values.astype(np.float64 if values.dtype.kind == "f" else np.int64)

    def _view(
        self, spec: dict[str, Any], count: int, components: int, dtype: np.dtype, what: str
    ) -> np.ndarray:
        """Reads (count, components) from the buffer view and offset in an object."""
        number = integer(spec, "bufferView", what)
        view = self.object("bufferViews", number)
        data = self.view_bytes(number)
        offset = integer(spec, "byteOffset", what, 0)
        row = components * dtype.itemsize
        stride = integer(view, "byteStride", f"buffer view {number}", row)
        if stride < row:
            raise UserError(f"buffer view {number} has values that overlap")
        needed = offset + (stride * (count - 1) + row if count else 0)
        if needed > len(data):
            raise UserError(
                f"{what} needs {needed} bytes, but its buffer view has {len(data)}: "
                "the file is cut or damaged"
            )
        if not count:
            return np.empty((0, components), dtype)
        strides = (stride, dtype.itemsize)
        return np.ndarray((count, components), dtype, data, offset, strides)

    def view_bytes(self, number: int) -> bytes:
        """Returns the bytes of a buffer view."""
        view, what = self.object("bufferViews", number), f"buffer view {number}"
        buffer = integer(view, "buffer", what)
        if set(_MESHOPT) & mapping(view, "extensions").keys():
            source = self.object("buffers", buffer)
            if "uri" not in source and not (buffer == 0 and self.binary is not None):
                raise UserError(
                    "compressed with meshopt, which is not read; export it uncompressed"
                )
        offset, length = integer(view, "byteOffset", what, 0), integer(view, "byteLength", what)
        data = self._buffer(buffer)
        if offset + length > len(data):
            raise UserError(
                f"{what} needs {offset + length} bytes, but its buffer has {len(data)}: "
                "the file is cut or damaged"
            )
        return data if length == len(data) else data[offset : offset + length]

    def _buffer(self, number: int) -> bytes:
        if number not in self._buffers:
            spec, what = self.object("buffers", number), f"buffer {number}"
            length = integer(spec, "byteLength", what)
            if "uri" in spec:
                data = self._fetch(spec["uri"], length, what)
            elif number == 0 and self.binary is not None:
                data = self.binary
            else:
                raise UserError(f"{what} has no data")
            if len(data) < length:
                raise UserError(f"{what} has {len(data)} of {length} bytes: the file is cut")
            self._buffers[number] = data[:length]
        return self._buffers[number]

    def _fetch(self, uri: Any, length: int, what: str) -> bytes:
        """Reads a data URI, or a file beside this one."""
        if not isinstance(uri, str):
            raise UserError(f"{what} has no valid URI")
        if uri.startswith("data:"):
            head, _, content = uri.partition(",")
            raw = urllib.parse.unquote_to_bytes(content)
            try:
                return base64.b64decode(raw) if head.endswith(";base64") else raw
            except binascii.Error:
                raise UserError(f"{what} has damaged base64 data") from None
        names = (urllib.parse.unquote(uri), uri, urllib.parse.unquote(uri).replace("\\", "/"))
        for name in names:
            path = self.folder / name
            try:
                if path.is_file():
                    with path.open("rb") as file:
                        return file.read(length)
            except (OSError, ValueError):  # for example a name that is too long
                continue
        raise UserError(f"{what} is in {ascii(names[0][:80])}, which is not beside the file")


def _split_chunks(data: bytes) -> tuple[bytes, bytes | None]:
    """Returns the JSON and the binary chunk of a .glb file."""
    if len(data) < 20:
        raise UserError("the file is cut in its header")
    version, length, size, kind = struct.unpack_from("<4I", data, 4)
    if version != 2:
        raise UserError(f"glTF {version} is not read; convert it to glTF 2.0")
    if length > len(data) or 20 + size > len(data):
        raise UserError(f"the file is cut: its header says {length} bytes, it has {len(data)}")
    if kind != _JSON_CHUNK:
        raise UserError("the first chunk is not JSON")
    text, position, binary = data[20 : 20 + size], 20 + size, None
    while binary is None and position + 8 <= length:
        size, kind = struct.unpack_from("<2I", data, position)
        position += 8 + size
        if position > len(data):
            raise UserError("the file is cut: a chunk ends behind the file")
        if kind == _BINARY_CHUNK:
            binary = data[position - size : position]
    return text, binary


def _dtype(spec: dict[str, Any], what: str) -> np.dtype:
    code = integer(spec, "componentType", what)
    if code not in _TYPES:
        raise UserError(f"{what} has the unknown component type {code}")
    return np.dtype(_TYPES[code])


def objects_in(parent: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """Returns a list of objects, empty if there is none."""
    value = parent.get(key, [])
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise UserError(f"{key} is not a list of objects")
    return value


def check_index(number: Any, count: int, kind: str) -> int:
    """Returns an index in 0 ... count - 1, or raises an error."""
    if type(number) is not int or not 0 <= number < count:
        raise UserError(
            f"an object refers to {ascii(number)[:20]} in {kind}, which has {count} entries"
        )
    return number


def integer(parent: dict[str, Any], key: str, what: str, default: int | None = None) -> int:
    """Returns a value that must be an integer of at least 0."""
    value = parent.get(key, default)
    if type(value) is not int or value < 0:
        raise UserError(f"{what} has no valid {key}")
    return value


def integers(parent: dict[str, Any], key: str) -> list[Any]:
    """Returns a list, empty if there is none. Its items are checked where they are used."""
    value = parent.get(key, [])
    if not isinstance(value, list):
        raise UserError(f"{key} is not a list")
    return value


def mapping(parent: dict[str, Any], key: str) -> dict[str, Any]:
    """Returns an object, empty if there is none."""
    value = parent.get(key, {})
    if not isinstance(value, dict):
        raise UserError(f"{key} is not an object")
    return value


def numbers(value: Any, count: int, what: str) -> np.ndarray:
    """Returns a list of `count` numbers as float64."""
    if (
        not isinstance(value, list)
        or len(value) != count
        or not all(type(each) in (int, float) for each in value)
    ):
        raise UserError(f"{what} must be {count} numbers")
    try:
        return np.array(value, np.float64)
    except OverflowError:
        raise UserError(f"{what} has a number that is too large") from None

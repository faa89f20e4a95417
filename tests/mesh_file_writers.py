"""Writes mesh files in the many forms that programs use. Polygons are lists of vertex numbers."""

import json
import struct

import numpy as np

CUBE = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float64)
CUBE_QUADS = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
CUBE_TRIANGLES = [face for a, b, c, d in CUBE_QUADS for face in ([a, b, c], [a, c, d])]
# A strip around the cube that covers all 12 faces.
CUBE_STRIP = [6, 2, 7, 3, 1, 2, 0, 6, 4, 7, 5, 1, 4, 0]
_LETTERS = {"i1": "char", "u1": "uchar", "i2": "short", "u2": "ushort", "i4": "int", "u4": "uint",
            "f4": "float", "f8": "double"}  # fmt: skip
_COMPONENT_TYPES = {"i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123, "u4": 5125, "f4": 5126}
_SHAPES = {(): "SCALAR", (3,): "VEC3", (4,): "VEC4", (16,): "MAT4"}


def prism(outline, height=1.0, turn=0):
    """A prism over a polygon in the plane, with `turn` as the first corner of the polygon."""
    outline = np.roll(np.asarray(outline, np.float64), -turn, axis=0)
    count = len(outline)
    vertices = np.concatenate([np.c_[outline, 0 * outline[:, :1]],
                               np.c_[outline, height + 0 * outline[:, :1]]])  # fmt: skip
    bottom, top = list(range(count))[::-1], list(range(count, 2 * count))
    sides = [[i, (i + 1) % count, (i + 1) % count + count, i + count] for i in range(count)]
    return vertices, [bottom, top, *sides]


def obj(vertices, polygons, newline="\n") -> bytes:
    """An OBJ file, with indices from 1."""
    lines = ["v " + " ".join(repr(float(x)) for x in vertex) for vertex in vertices]
    lines += ["f " + " ".join(str(index + 1) for index in polygon) for polygon in polygons]
    return (newline.join(lines) + newline).encode()


def off(vertices, polygons, header="OFF\n") -> bytes:
    """An OFF file."""
    lines = [f"{header}{len(vertices)} {len(polygons)} 0"]
    lines += [" ".join(repr(float(x)) for x in vertex) for vertex in vertices]
    lines += [" ".join(map(str, [len(polygon), *polygon])) for polygon in polygons]
    return ("\n".join(lines) + "\n").encode()


def ply(vertices, polygons, layout="binary_little_endian", count_type="u1", index_type="i4",
        element="face", position_type="f4", newline="\n") -> bytes:  # fmt: skip
    """A PLY file. Each vertex has a quality and each face a flag, which readers must skip."""
    header = [
        "ply", f"format {layout} 1.0", "comment test", f"element vertex {len(vertices)}",
        *(f"property {_LETTERS[position_type]} {axis}" for axis in "xyz"),
        "property uchar quality", f"element {element} {len(polygons)}",
        f"property list {_LETTERS[count_type]} {_LETTERS[index_type]} vertex_indices",
        "property short flag", "end_header", "",
    ]  # fmt: skip
    data = newline.join(header).encode()
    if layout == "ascii":
        rows = [" ".join(repr(float(x)) for x in vertex) + " 7" for vertex in vertices]
        rows += [" ".join(map(str, [len(polygon), *polygon, -3])) for polygon in polygons]
        return data + (newline.join(rows) + newline).encode()
    order = "<" if layout == "binary_little_endian" else ">"
    for vertex in vertices:
        data += np.array(vertex, order + position_type).tobytes() + b"\x07"
    for polygon in polygons:
        data += np.array([len(polygon)], order + count_type).tobytes()
        data += np.array(polygon, order + index_type).tobytes()
        data += np.array([-3], order + "i2").tobytes()
    return data


def stl_text(vertices, faces, name="part", end="endsolid") -> bytes:
    """One solid of an STL file as text."""
    lines = [f"solid {name}"]
    for face in faces:
        lines += ["facet normal 0 0 0", " outer loop"]
        lines += ["  vertex " + " ".join(repr(float(x)) for x in vertices[i]) for i in face]
        lines += [" endloop", "endfacet"]
    return ("\n".join([*lines, f"{end} {name}"]) + "\n").encode()


def stl_binary(vertices, faces, count=None, header=b"binary") -> bytes:
    """A binary STL file. `count` is the number of facets in its header."""
    data = header.ljust(80, b"\0") + struct.pack("<I", len(faces) if count is None else count)
    for face in faces:
        corners = np.asarray(vertices, np.float32)[face].tobytes()
        data += bytes(12) + corners + b"\0\0"
    return data


class Gltf:
    """Builds a glTF file. Buffer views and accessors are numbered in the order of the calls."""

    def __init__(self):
        self.root = {"asset": {"version": "2.0"}, "buffers": [], "bufferViews": [],
                     "accessors": [], "meshes": [], "nodes": []}  # fmt: skip
        self.data = b""

    def view(self, values, dtype: str, row_bytes: int = 0) -> int:
        """Appends values as a buffer view. Rows can be padded to `row_bytes`."""
        self.data += bytes(-len(self.data) % 4)
        values = np.asarray(values, np.dtype(dtype).newbyteorder("<"))
        rows = [row.tobytes().ljust(row_bytes, b"\0") for row in values]
        view = {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(b"".join(rows))}
        self.data += b"".join(rows)
        self.root["bufferViews"].append(view | ({"byteStride": row_bytes} if row_bytes else {}))
        return len(self.root["bufferViews"]) - 1

    def accessor(self, values, dtype: str = "f4", row_bytes: int = 0, **more) -> int:
        """Appends values as an accessor with its own buffer view."""
        values = np.asarray(values)
        view = {"bufferView": self.view(values, dtype, row_bytes)}
        return self.bare_accessor(len(values), _SHAPES[values.shape[1:]], dtype, **view, **more)

    def bare_accessor(self, count, shape: str, dtype: str = "f4", **more) -> int:
        """Appends an accessor, without data unless `more` names a view."""
        kind = {"count": count, "type": shape, "componentType": _COMPONENT_TYPES[dtype]}
        self.root["accessors"].append(kind | more)
        return len(self.root["accessors"]) - 1

    def mesh(self, *primitives, **more) -> int:
        self.root["meshes"].append({"primitives": list(primitives), **more})
        return len(self.root["meshes"]) - 1

    def cube(self, **more) -> dict:
        """The primitive of a unit cube."""
        positions = self.accessor(CUBE)
        indices = self.accessor(np.array(CUBE_TRIANGLES).reshape(-1), "u2")
        return {"attributes": {"POSITION": positions}, "indices": indices, **more}

    def node(self, **content) -> int:
        self.root["nodes"].append(content)
        return len(self.root["nodes"]) - 1

    def scene(self, *roots: int) -> "Gltf":
        self.root |= {"scenes": [{"nodes": list(roots)}], "scene": 0}
        return self

    def text(self, uri: str) -> bytes:
        """The JSON of a .gltf file whose buffer is at `uri`."""
        buffers = [{"byteLength": len(self.data), "uri": uri}]
        return json.dumps(self.root | {"buffers": buffers}).encode()

    def glb(self) -> bytes:
        buffers = [{"byteLength": len(self.data)}]
        text = json.dumps(self.root | {"buffers": buffers}).encode()
        text += b" " * (-len(text) % 4)
        data = self.data + bytes(-len(self.data) % 4)
        chunks = struct.pack("<2I", len(text), 0x4E4F534A) + text
        chunks += struct.pack("<2I", len(data), 0x004E4942) + data
        return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks

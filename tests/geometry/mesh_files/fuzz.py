"""Feeds damaged mesh files to the readers, and checks what they return or refuse.

python -m tests.geometry.mesh_files.fuzz [--executions 1000000] [--minutes 30] [--seed 0]

A reader must raise UserError with one line, or return arrays that belong together. It must not
return some of the faces of a file that was cut, if its format counts or closes them, and must not
mind another layout of the same text. An execution is repeated by its seed and number.
"""

import argparse
import base64
import copy
import faulthandler
import json
import os
import random
import re
import struct
import time
from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np

from occvae.errors import UserError
from occvae.geometry.mesh_files.gltf import read_gltf
from occvae.geometry.mesh_files.obj import read_obj
from occvae.geometry.mesh_files.off import read_off
from occvae.geometry.mesh_files.ply import read_ply
from occvae.geometry.mesh_files.stl import read_stl
from tests.mesh_file_writers import (
    CUBE,
    CUBE_QUADS,
    CUBE_STRIP,
    CUBE_TRIANGLES,
    Gltf,
    obj,
    off,
    ply,
    prism,
    stl_binary,
    stl_text,
)

Mesh = tuple[np.ndarray, np.ndarray]
U = prism([(0, 0), (3, 0), (3, 3), (2, 3), (2, 1), (1, 1), (1, 3), (0, 3)])
MIXED = [*CUBE_TRIANGLES[:4], *CUBE_QUADS[2:5], [1, 5, 7, 3, 3]]
NUMBERS = b"0 -1 1 2 3 255 65536 2147483648 9223372036854775807 99999999999999999999 1e308 1e999 \
nan -inf 1.5 0x10 1_0 0,5 .5 1e -1.#IND".split()
BYTES = b'0123456789-+.,/\\ \t\r\n\v#\0\xff\xfe\xef{}[]":;ev'
VALUES = [None, True, -1, 0, 1, 2, 7, 255, 2**31, 2**64, 1.5, 1e308, float("nan"), "", "VEC3", [],
          {}, [0], [[]], {"POSITION": 0}, [1, 0, 0, 0] * 4]  # fmt: skip
SLOW = 5.0  # seconds that no small file may take


@cache
def seeds() -> dict[str, tuple[Callable[[bytes], Mesh], list[bytes]]]:
    """Reader and good files of each format."""
    layouts = ("ascii", "binary_little_endian", "binary_big_endian")
    plys = [ply(*mesh, layout) for layout in layouts for mesh in ((CUBE, MIXED), U)]
    plys += [ply(CUBE, [CUBE_STRIP], layout, element="tristrips") for layout in layouts]
    text = obj(CUBE, MIXED)
    relative = b"".join(b"v %d %d %d\n" % (x, y, z) for x, y, z in CUBE.astype(int))
    relative += b"".join(b"f %d//1 %d/1 %d/1/1\n" % (a - 8, b - 8, c - 8)
                         for a, b, c in CUBE_TRIANGLES)  # fmt: skip
    solid = stl_text(CUBE, CUBE_TRIANGLES)
    return {
        "obj": (read_obj, [text, obj(*U), relative, text.replace(b" 1", b" \\\n 1")]),
        "off": (read_off, [off(CUBE, MIXED), off(*U), off(*U).replace(b"\n", b" ")]),
        "ply": (read_ply, plys),
        "stl": (
            read_stl,
            [solid, solid + solid, solid.replace(b"\n", b" "), stl_binary(CUBE, CUBE_TRIANGLES)],
        ),
        "glb": (partial(read_gltf, folder=Path(os.devnull)), [scene().glb(), as_text(scene())]),
    }


@cache
def scene() -> Gltf:
    """A scene with strips, sparse and quantized positions, morph targets, skins and instances."""
    file = Gltf()
    sparse = {
        "count": 4,
        "indices": {"bufferView": file.view([4, 5, 6, 7], "u2"), "componentType": 5123},
        "values": {"bufferView": file.view(CUBE[4:] * 2, "f4")},
    }
    positions = file.accessor(CUBE, sparse=sparse)
    short = file.accessor(CUBE * 127, "i1", row_bytes=4, normalized=True)
    cube = file.cube(targets=[{"POSITION": positions}])
    cube["attributes"] |= {
        "JOINTS_0": file.accessor(np.zeros((8, 4)), "u1"),
        "WEIGHTS_0": file.accessor(np.tile([1.0, 0, 0, 0], (8, 1))),
    }
    strip = {"attributes": {"POSITION": short}, "indices": file.accessor(CUBE_STRIP, "u1")}
    file.mesh(cube, weights=[0.5])
    file.mesh(strip | {"mode": 5}, strip | {"mode": 6}, {"attributes": {"POSITION": positions}})
    file.root["accessors"][positions]["count"] = 8
    file.root["meshes"][1]["primitives"].pop()
    moves = {"TRANSLATION": file.accessor([[0.0, 0, 0], [2, 0, 0]])}
    inverse = file.accessor(np.eye(4).reshape(1, 16))
    file.root["skins"] = [{"joints": [1], "inverseBindMatrices": inverse}]
    file.node(mesh=0, skin=0)
    file.node(mesh=1, translation=[1, 2, 3], children=[2], scale=[-1, 1, 1])
    file.node(mesh=0, extensions={"EXT_mesh_gpu_instancing": {"attributes": moves}})
    return file.scene(0, 1)


def as_text(file: Gltf) -> bytes:
    return file.text("data:;base64," + base64.b64encode(file.data).decode())


@cache
def intact(ending: str, place: int) -> Mesh:
    read, files = seeds()[ending]
    return read(files[place])


def damage(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Applies a few random changes."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        low, high = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        kind = rng.randrange(7)
        if kind == 0 and data:
            at = rng.randrange(len(data))
            data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        elif kind == 1:
            data = data[:low] + bytes([rng.choice(BYTES)]) + data[low:]
        elif kind == 2:
            data = data[:low] + data[min(high, low + rng.randrange(1, 64)) :]
        elif kind == 3:
            data = data[:high] + data[low:high] * rng.randrange(1, 3) + data[high:]
        elif kind == 4:
            data = data[:low] + rng.choice(others)[low:]
        elif kind == 5:
            found = list(re.finditer(rb"-?\d+\.?\d*", data[:5000]))
            if found:
                number = rng.choice(found)
                data = data[: number.start()] + rng.choice(NUMBERS) + data[number.end() :]
        else:
            data = data[:high]
    return data


def damage_json(data: bytes, rng: random.Random) -> bytes:
    """Changes a few values in the JSON of a glTF file, whose container stays intact."""
    is_glb = data.startswith(b"glTF")
    size = struct.unpack_from("<I", data, 12)[0] if is_glb else len(data)
    root = json.loads(data[20 : 20 + size] if is_glb else data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        place = root
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = rng.choice(keys)
            if isinstance(place[key], dict | list) and rng.random() < 0.8:
                place = place[key]
            elif rng.random() < 0.2:
                del place[key]
                break
            else:
                place[key] = copy.deepcopy(rng.choice(VALUES))
                break
    text = json.dumps(root).encode()
    if not is_glb:
        return text
    text += b" " * (-len(text) % 4)
    rest = data[20 + size :]
    head = struct.pack("<4s4I", b"glTF", 2, 20 + len(text) + len(rest), len(text), 0x4E4F534A)
    return head + text + rest


def lay_out_anew(data: bytes, rng: random.Random) -> bytes:
    """Changes a text in a way that must not matter."""
    newline = rng.choice((b"\n", b"\r\n", b"\r"))
    space = rng.choice((b" ", b"\t", b"  "))
    lines = [rng.choice((b"", b" ", b"\t")) + line.replace(b" ", space) for line in
             data.splitlines()]  # fmt: skip
    if rng.random() < 0.3:
        lines = [line if line.endswith(b"\\") else line + b" # 1 2 3" for line in lines]
    text = newline.join(lines) + newline
    encoding = rng.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"))
    return text.decode().encode(encoding)


def execute(seed: int, number: int) -> str:
    """Runs one reader on one file. Returns what happened, or raises an error."""
    rng = random.Random(f"{seed} {number}")
    ending = rng.choice(list(seeds()))
    read, files = seeds()[ending]
    place = rng.randrange(len(files))
    data, expected = files[place], intact(ending, place)
    kinds = ("damage", "damage", "cut", "layout", "layout")
    if ending == "glb":
        kinds = ("damage", "cut", "json", "json")
    elif ending == "ply" or b"\0" in data:
        kinds = ("damage", "cut")
    kind = rng.choice(kinds)
    if kind == "layout":
        changed = lay_out_anew(data, rng)
    elif kind == "cut":
        changed = data[: rng.randrange(len(data))]
    elif kind == "json":
        changed = damage_json(data, rng)
    else:
        changed = damage(data, rng, files)
    start = time.perf_counter()
    try:
        with np.errstate(all="ignore"):
            vertices, faces = read(changed)
    except UserError as error:
        assert "\n" not in str(error) and str(error).isascii(), str(error)
        assert kind != "layout", f"refused: {error}"
        return f"{ending} refused"
    finally:
        assert time.perf_counter() - start < SLOW, "slow"
    check(vertices, faces)
    if kind == "layout":
        np.testing.assert_array_equal(vertices, expected[0])
        np.testing.assert_array_equal(faces, expected[1])
    if kind == "cut" and ending != "obj" and not changed.endswith(b"endsolid part\n"):
        is_second_solid = ending == "stl" and b"endsolid" in changed and len(faces) == 12
        assert len(faces) == len(expected[1]) or is_second_solid, "some faces of a cut file"
    return f"{ending} read"


def check(vertices: np.ndarray, faces: np.ndarray) -> None:
    assert vertices.dtype == np.float64 and vertices.ndim == 2 and vertices.shape[1] == 3
    assert faces.dtype == np.int64 and faces.ndim == 2 and faces.shape[1] == 3
    assert not len(faces) or (faces.min() >= 0 and faces.max() < len(vertices))


def fuzz(seed: int, numbers: range, minutes: float = 1e9) -> Counter[str]:
    """Counts what happened in all executions, which end after some minutes."""
    outcomes: Counter[str] = Counter()
    end = time.monotonic() + 60 * minutes
    for number in numbers:
        try:
            outcomes[execute(seed, number)] += 1
        except Exception as error:
            raise AssertionError(f"execute({seed}, {number}) failed: {error}") from error
        if time.monotonic() > end:
            break
    return outcomes


def memory() -> float:
    """Returns the memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--executions", type=int, default=1_000_000)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    batch, total = 10_000, Counter()
    start = time.monotonic()
    for first in range(0, args.executions, batch):
        faulthandler.dump_traceback_later(600, exit=True)  # a hang
        total += fuzz(args.seed, range(first, min(first + batch, args.executions)), args.minutes)
        minutes = (time.monotonic() - start) / 60
        print(f"{total.total()} executions, {minutes:.1f} min, {memory():.0f} MB", flush=True)
        if minutes > args.minutes:
            break
    print(dict(sorted(total.items())))


if __name__ == "__main__":
    main()

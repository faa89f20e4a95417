"""Compares the binvox reader with a writer that goes voxel by voxel, and with trimesh."""

import io
import time

import numpy as np
import pytest
from trimesh.exchange.binvox import load_binvox

from occvae.data.readers.binvox import read_binvox
from occvae.errors import UserError
from tests.data.readers.binvox_writer import write_binvox

SHAPES = [(4, 4, 4), (3, 5, 7), (7, 5, 3), (1, 1, 1), (1, 600, 2), (40, 1, 41)]


def grid(shape: tuple[int, int, int], density: float = 0.4) -> np.ndarray:
    return np.random.default_rng(sum(shape)).random(shape) < density


def encode(voxels: np.ndarray, header: str = "translate 0 0 0\nscale 1\n") -> bytes:
    """Encodes a grid in runs of 1 to 255 voxels. y changes fastest, then z, then x."""
    x_size, y_size, z_size = voxels.shape
    values = []
    for x in range(x_size):
        for z in range(z_size):
            for y in range(y_size):
                values.append(int(voxels[x, y, z]))
    runs = bytearray()
    while values:
        count = 1
        while count < min(255, len(values)) and values[count] == values[0]:
            count += 1
        runs += bytes([values[0], count])
        del values[:count]
    return f"#binvox 1\ndim {x_size} {y_size} {z_size}\n{header}data\n".encode() + runs


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 1.0])
def test_grids_are_read_as_written(tmp_path, shape, density):
    voxels = grid(shape, density)
    found = read_binvox(encode(voxels, "translate -0.5 1e-3 2\nscale 0.72065\n"))
    assert found.voxels.dtype == bool
    np.testing.assert_array_equal(found.voxels, voxels)
    assert (found.translate.tolist(), found.scale) == ([-0.5, 1e-3, 2.0], 0.72065)

    path = tmp_path / "model.binvox"
    write_binvox(path, voxels, (-0.5, 1e-3, 2), 0.72065)
    again = read_binvox(path)
    np.testing.assert_array_equal(again.voxels, voxels)
    assert (again.translate.tolist(), again.scale) == ([-0.5, 1e-3, 2.0], 0.72065)
    # The encoder above makes the same runs.
    assert path.read_bytes().split(b"data\n", 1)[1] == encode(voxels).split(b"data\n", 1)[1]


def test_runs_longer_than_255_voxels_are_read(tmp_path):
    voxels = np.zeros((8, 16, 10), bool)
    flat = voxels.transpose(0, 2, 1).copy().reshape(-1)
    for start, length in ((0, 255), (256, 256), (513, 510), (1024, 254)):
        flat[start : start + length] = True
    voxels = flat.reshape(8, 10, 16).transpose(0, 2, 1)
    write_binvox(tmp_path / "long.binvox", voxels)
    assert (tmp_path / "long.binvox").read_bytes().endswith(encode(voxels)[-20:])
    np.testing.assert_array_equal(read_binvox(tmp_path / "long.binvox").voxels, voxels)
    np.testing.assert_array_equal(read_binvox(encode(voxels)).voxels, voxels)


def test_runs_without_voxels_are_read():
    """Writers of published voxels put a count of 0 after 255 where a run ends there."""
    voxels = np.zeros((2, 15, 17), bool)
    voxels[1] = True
    header, runs = encode(voxels).split(b"data\n", 1)
    assert runs == b"\x00\xff\x01\xff"
    for ending in (b"", b"\x01\x00", b"\x00\x00"):
        content = header + b"data\n" + b"\x00\xff\x00\x00\x01\xff" + ending
        np.testing.assert_array_equal(read_binvox(content).voxels, voxels)


def test_trimesh_reads_the_same_axes(tmp_path):
    voxels = grid((6, 6, 6))  # trimesh reads no others
    path = tmp_path / "model.binvox"
    write_binvox(path, voxels)
    np.testing.assert_array_equal(load_binvox(io.BytesIO(path.read_bytes())).matrix, voxels)


def test_position_is_optional_and_windows_line_ends_are_accepted():
    voxels = grid((3, 4, 5))
    found = read_binvox(encode(voxels, ""))
    assert (found.translate.tolist(), found.scale) == ([0.0, 0.0, 0.0], 1.0)
    header, runs = encode(voxels).split(b"data\n", 1)
    windows = header.replace(b"\n", b"\r\n") + b"data\r\n" + runs
    np.testing.assert_array_equal(read_binvox(windows).voxels, voxels)


GOOD = encode(grid((4, 4, 4)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "does not begin with #binvox"),
        (b"\x89PNG\r\n", "does not begin with #binvox"),
        (GOOD.replace(b"#binvox 1", b"#binvox 2"), "version is '#binvox 2'"),
        (GOOD.replace(b"#binvox 1", b"#binvox"), "expected '#binvox 1'"),
        (GOOD.replace(b"data", b"date"), "no line 'data'"),
        (b"#binvox 1\n" + b"x" * 10_000 + GOOD[10:], "no line 'data'"),
        (GOOD.replace(b"dim 4 4 4", b"dim 4 4"), "no 'dim' with three sizes"),
        (GOOD.replace(b"dim 4 4 4", b"dim 4 4 4 4"), "no 'dim' with three sizes"),
        (GOOD.replace(b"dim 4 4 4", b"dim -4 -4 4"), "no 'dim' with three sizes"),
        (GOOD.replace(b"dim 4 4 4", b"dim 4 4 4.0"), "no 'dim' with three sizes"),
        (GOOD.replace(b"dim 4 4 4\n", b""), "no 'dim' with three sizes"),
        (GOOD.replace(b"dim 4 4 4", b"dim 0 4 4"), "it is empty"),
        (GOOD.replace(b"dim 4 4 4", b"dim 4 4 5"), "runs have 64 voxels, its header says 80"),
        (GOOD.replace(b"translate 0 0 0", b"translate 0 0"), "'translate' is not 3 finite"),
        (GOOD.replace(b"translate 0 0 0", b"translate 0 0 inf"), "'translate' is not 3 finite"),
        (GOOD.replace(b"scale 1", b"scale one"), "'scale' is not 1 finite"),
        (GOOD.replace(b"scale 1", b"scale 0"), "scale is 0"),
        (GOOD[:-1], "truncated in the middle of a run"),
        (GOOD[:-2], "its header says 64"),
        (GOOD + b"\x01\x01", "runs have 65 voxels, its header says 64"),
        (GOOD[:-2] + b"\x02" + GOOD[-1:], "a run whose value is not 0 or 1"),
    ],
)
def test_damage_is_described(tmp_path, content, message):
    path = tmp_path / "bad.binvox"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"bad\.binvox: not a usable.*{message}") as caught:
        read_binvox(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="^binvox data: not a usable"):
        read_binvox(content)


def test_huge_sizes_are_refused_before_memory_is_taken():
    start = time.process_time()
    with pytest.raises(UserError, match="its header says 9{9}"):
        read_binvox(GOOD.replace(b"dim 4 4 4", b"dim 999999999 1 1"))
    with pytest.raises(UserError, match="its header says"):
        read_binvox(GOOD.replace(b"dim 4 4 4", b"dim 999999999 999999999 999999999"))
    with pytest.raises(UserError, match="no 'dim' with three sizes"):
        read_binvox(GOOD.replace(b"dim 4 4 4", b"dim " + b"9" * 3000 + b" 1 1"))
    assert time.process_time() - start < 0.5


def test_missing_files_and_folders_raise_user_errors(tmp_path):
    with pytest.raises(UserError, match=r"none\.binvox: no such file"):
        read_binvox(tmp_path / "none.binvox")
    with pytest.raises(UserError, match="cannot be read"):
        read_binvox(tmp_path)


def test_random_damage_raises_only_user_errors():
    rng = np.random.default_rng(0)
    for _ in range(500):
        damaged = bytearray(GOOD)
        for _ in range(rng.integers(1, 4)):
            damaged[rng.integers(len(damaged))] = rng.integers(256)
        try:
            read_binvox(bytes(damaged))
        except UserError:
            pass


@pytest.mark.parametrize(
    "voxels", [np.zeros((4, 4, 4)), np.zeros((4, 4), bool), np.zeros((0, 4, 4), bool)]
)
def test_the_writer_accepts_only_grids(tmp_path, voxels):
    with pytest.raises(ValueError, match=r"voxels must be bool \(X, Y, Z\)"):
        write_binvox(tmp_path / "grid.binvox", voxels)


def test_half_a_million_runs_are_read_quickly():
    voxels = grid((96, 96, 96), 0.5)  # half a million runs
    content = encode_quickly(voxels)
    start = time.process_time()
    found = read_binvox(content)
    assert time.process_time() - start < 0.5
    np.testing.assert_array_equal(found.voxels, voxels)


def encode_quickly(voxels: np.ndarray) -> bytes:
    """Encodes one run per voxel, which the format allows."""
    flat = voxels.transpose(0, 2, 1).reshape(-1)
    runs = np.stack([flat, np.ones_like(flat)], axis=1).astype(np.uint8)
    return "#binvox 1\ndim {} {} {}\ndata\n".format(*voxels.shape).encode() + runs.tobytes()

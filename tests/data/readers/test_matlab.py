"""Reads MATLAB files from scipy's writer, and damaged ones."""

import numpy as np
import pytest
from scipy.io import savemat

from occvae.data.readers.matlab import read_mat_array
from occvae.errors import UserError

DTYPES = ["bool", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_of_every_type_are_read(tmp_path, dtype, compressed):
    array = np.random.default_rng(0).integers(0, 2, (3, 4, 5)).astype(dtype)
    content = {"x": 3, "text": "other", "voxel": array, "cell": {"a": 1}}
    savemat(tmp_path / "a.mat", content, do_compression=compressed)
    np.testing.assert_array_equal(read_mat_array(tmp_path / "a.mat", "voxel"), array)
    np.testing.assert_array_equal(read_mat_array(tmp_path / "a.mat", "x"), [[3]])


def test_big_endian_files_and_long_names_are_read(tmp_path):
    array = np.arange(24, dtype=">f8").reshape(2, 3, 4)

    def element(kind: int, data: bytes) -> bytes:
        tag = np.array([kind, len(data)], ">u4").tobytes()
        return tag + data + b"\0" * (-len(data) % 8)

    matrix = element(6, np.array([6, 0], ">u4").tobytes())
    matrix += element(5, np.array([2, 3, 4], ">i4").tobytes())
    matrix += element(1, b"a_long_name")
    matrix += element(9, array.tobytes(order="F"))
    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x01\x00MI"
    (tmp_path / "a.mat").write_bytes(header + element(14, matrix))
    np.testing.assert_array_equal(read_mat_array(tmp_path / "a.mat", "a_long_name"), array)


def test_other_files_raise_an_error_that_names_them(tmp_path):
    path = tmp_path / "a.mat"
    with pytest.raises(UserError, match=r"a\.mat is missing"):
        read_mat_array(path, "voxel")
    with pytest.raises(UserError, match="cannot be read"):
        read_mat_array(tmp_path, "voxel")
    for content in (b"", b"\x89HDF\r\n" + b"\0" * 600, b"MATLAB".ljust(128)):
        path.write_bytes(content)
        with pytest.raises(UserError, match="its version is not 5 to 7; save it with -v7"):
            read_mat_array(path, "voxel")


@pytest.mark.parametrize(
    "value", ["text", {"a": 1}, np.ones((2, 2)) * 1j, np.array([1, "a"], dtype=object)]
)
def test_only_numeric_arrays_are_read(tmp_path, value):
    savemat(tmp_path / "a.mat", {"voxel": value})
    with pytest.raises(UserError, match="numeric array"):
        read_mat_array(tmp_path / "a.mat", "voxel")
    with pytest.raises(UserError, match=r"has no 'other' \(found voxel\)"):
        read_mat_array(tmp_path / "a.mat", "other")


@pytest.mark.parametrize("compressed", [True, False])
def test_random_damage_raises_only_user_errors(tmp_path, compressed):
    path = tmp_path / "a.mat"
    voxels = np.random.default_rng(1).random((8, 8, 8)) < 0.5
    savemat(path, {"voxel": voxels}, do_compression=compressed)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for number in range(200):
        damaged = bytearray(whole)
        if number % 4:
            damaged[rng.integers(120, min(240, len(whole)))] = rng.integers(256)
        else:
            del damaged[rng.integers(len(whole)) :]
        path.write_bytes(damaged)
        try:
            found = read_mat_array(path, "voxel")
        except UserError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            assert compressed is False or np.array_equal(found, voxels)
    assert refused > 50

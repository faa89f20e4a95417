"""Reads voxel grids from .npz, .npy, .mat and .binvox files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from occvae.data.readers.binvox import read_binvox
from occvae.data.readers.files import describe_error, read_member
from occvae.data.readers.matlab import read_only_mat_grid
from occvae.errors import UserError

ENDINGS = (".npz", ".npy", ".mat", ".binvox")
"""Endings of the files that `read_voxel_file` reads."""
_KEYS = {"voxels", "resolution", "id", "category", "split"}


def read_voxel_file(path: Path) -> dict[str, np.ndarray]:
    """Reads the arrays of a file with voxel grids.

    The content decides how the file is read. The ending decides if the content is unknown.

    Args:
        path: an .npz archive, an .npy file with one or more grids, a MATLAB file with one cubic
            array, or a binvox file.

    Returns:
        The arrays `voxels`, `resolution`, `id`, `category` and `split`, as far as the file has
        them. It always has `voxels`. One grid (R, R, R) becomes (1, R, R, R).

    Raises:
        UserError: the file is missing, damaged or of another kind.
    """
    if path.exists() and not path.is_file():  # reading a pipe would block
        raise UserError(f"{path}: not a readable voxel file (it is not a regular file)")
    content = _reader(path)(path)
    voxels = content["voxels"]
    return {**content, "voxels": voxels[None] if voxels.ndim == 3 else voxels}


def _reader(path: Path) -> Callable[[Path], dict[str, np.ndarray]]:
    readers = {".npz": _read_npz, ".npy": _read_npy, ".mat": _read_mat, ".binvox": _read_binvox}
    try:
        with path.open("rb") as file:
            start = file.read(128)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    beginnings = {b"PK": ".npz", b"\x93NUMPY": ".npy", b"MATLAB": ".mat", b"#binvox": ".binvox"}
    found = (ending for beginning, ending in beginnings.items() if start.startswith(beginning))
    ending = next(found, path.suffix.lower())
    if ending not in readers:
        raise UserError(f"{path}: not a voxel file; expected {', '.join(ENDINGS)}")
    return readers[ending]


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path) as archive:
            found = sorted(archive.files)
            content = {key: read_member(archive, key) for key in _KEYS.intersection(found)}
    except Exception as error:  # numpy and zipfile raise many kinds of errors on damaged files
        raise UserError(f"{path}: not a readable .npz archive ({describe_error(error)})") from None
    if "voxels" not in content:
        raise UserError(f"{path}: has no 'voxels' array (found {', '.join(found)})")
    return content


def _read_npy(path: Path) -> dict[str, np.ndarray]:
    try:
        # A map is checked against the length of the file before memory is taken.
        return {"voxels": np.load(path, mmap_mode="r")}
    except Exception as error:  # numpy raises many kinds of errors on damaged files
        raise UserError(f"{path}: not a readable .npy file ({describe_error(error)})") from None


def _read_mat(path: Path) -> dict[str, np.ndarray]:
    return {"voxels": read_only_mat_grid(path)}


def _read_binvox(path: Path) -> dict[str, np.ndarray]:
    return {"voxels": read_binvox(path).voxels}

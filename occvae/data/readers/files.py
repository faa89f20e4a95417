"""Readers for single files of published datasets. Their errors name the file in one line."""

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from occvae.data.readers.matlab import read_mat_array
from occvae.errors import UserError


def read_arrays(path: Path, *names: str) -> list[np.ndarray]:
    """Reads arrays from an .npz archive, each with the check of `read_member`.

    Raises:
        UserError: the archive is missing or damaged, or lacks an array.
    """
    try:
        with np.load(path) as archive:
            missing = [name for name in names if name not in archive.files]
            if not missing:
                return [read_member(archive, name) for name in names]
            found = ", ".join(archive.files[:8])
    except Exception as error:  # numpy and zipfile raise many kinds of errors on damaged files
        raise _unreadable(path, ".npz archive", error) from None
    raise UserError(f"{path.name} has no '{missing[0]}' (found {found})")


def read_member(archive: Any, name: str) -> np.ndarray:
    """Reads an array from an open .npz archive.

    Raises:
        ValueError: the header of the array gives more bytes than the archive holds.
    """
    info = archive.zip.getinfo(f"{name}.npy")
    with archive.zip.open(info) as file:
        version = np.lib.format.read_magic(file)
        read_header = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read_header(file)
    if (
        math.prod(shape) * dtype.itemsize > info.file_size
    ):  # numpy would allocate the memory before it reads
        raise ValueError(f"the header of {name} says {shape}, but it has {info.file_size} bytes")
    return archive[name]


def read_mat_grid(path: Path, name: str) -> np.ndarray:
    """Reads a grid (R, R, R) bool from a MATLAB file. Numbers of at least 0.5 are occupied.

    Raises:
        UserError: the file is missing or damaged, or has no such cubic array.
    """
    grid = read_mat_array(path, name)
    if grid.ndim != 3 or len(set(grid.shape)) != 1 or grid.dtype.kind not in "biuf":
        raise UserError(f"{path.name}: '{name}' is {grid.dtype} {grid.shape}; expected (R, R, R)")
    return grid >= 0.5


def read_json(path: Path) -> Any:
    """Reads a JSON file. Raises UserError if it cannot be read."""
    try:
        return json.loads(path.read_text())
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path}: not a readable JSON file ({describe_error(error)})") from None


def read_bytes(path: Path) -> bytes:
    """Reads a whole file. Raises UserError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path.name} cannot be read ({error.strerror})") from None


def image_size(name: str, content: bytes) -> tuple[int, int]:
    """Width and height of an encoded image, from its header. Raises UserError if it has none."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.size
    except Exception as error:  # decoders raise many kinds of errors on damaged files
        raise UserError(f"{name} cannot be read as an image ({describe_error(error)})") from None


def describe_error(error: Exception) -> str:
    """The message of an error in one line, or the name of its class if it has no message."""
    return " ".join(str(error).split()) or type(error).__name__


def _unreadable(path: Path, kind: str, error: Exception) -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError(f"{path.name} is missing")
    return UserError(f"{path.name}: not a readable {kind} ({describe_error(error)})")

"""Files of published datasets: read whole, or refused by name in one line."""

import hashlib
import io
import itertools
import json
import math
import os
from pathlib import Path

import numpy as np
from PIL import Image

from occvae.data.points import HALF_EXTENT, HALF_PRECISION, quantize_points
from occvae.data.readers.matlab import read_mat_array
from occvae.data.sources import Item
from occvae.errors import UserError


def read_arrays(path: Path, *names: str) -> list[np.ndarray]:
    """Arrays of an .npz archive."""
    try:
        with np.load(path) as archive:
            missing = [name for name in names if name not in archive.files]
            if not missing:
                return [read_member(archive, name) for name in names]
            found = ", ".join(archive.files[:8])
    except Exception as error:  # numpy and zipfile raise all sorts of things on damaged files
        raise _unreadable(path, ".npz archive", error) from None
    raise UserError(f"{path.name} has no '{missing[0]}' (found {found})")


def read_member(archive, name: str) -> np.ndarray:
    """An array of an open .npz archive; refused where its header promises more than is there."""
    info = archive.zip.getinfo(f"{name}.npy")
    with archive.zip.open(info) as file:
        version = np.lib.format.read_magic(file)
        read_header = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read_header(file)
    if math.prod(shape) * dtype.itemsize > info.file_size:  # else numpy asks for the memory first
        raise ValueError(f"{name} is {shape} by its header, but has {info.file_size} bytes")
    return archive[name]


def read_mat_grid(path: Path, name: str) -> np.ndarray:
    """(R, R, R) bool, numbers of at least 0.5, of a MATLAB file."""
    grid = read_mat_array(path, name)
    if grid.ndim != 3 or len(set(grid.shape)) != 1 or grid.dtype.kind not in "biuf":
        raise UserError(f"{path.name}: '{name}' is {grid.dtype} {grid.shape}, expected (R, R, R)")
    return grid >= 0.5


def read_json(path: Path):
    """The content of a JSON file that lists a dataset."""
    try:
        return json.loads(path.read_text())
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path}: not a readable JSON file ({one_line(error)})") from None


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path.name} cannot be read ({error.strerror})") from None


def image_size(name: str, content: bytes) -> tuple[int, int]:
    """Width and height, from the file's header."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.size
    except Exception as error:  # decoders raise all sorts of things on damaged files
        raise UserError(f"{name} cannot be read as an image ({one_line(error)})") from None


def subfolders(folder: Path) -> set[str]:
    """Names of the folders in a folder, none where there is no such folder."""
    if not folder.is_dir():
        return set()
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if entry.is_dir()}


def name_unlisted(category: str, models: set[str]) -> dict[str, str]:
    """Folders that no split has, in one line a class: there may be thousands."""
    if not models:
        return {}
    return {f"{category}/*": f"{len(models)} folders are in no list ({min(models)}, ...)"}


def numbered(names: list[str]) -> list[str]:
    """Names of images 0, 1, 2, ... in that order; refused where one is missing.

    A hole would give every later image the camera of its neighbor.
    """
    by_number = {int(Path(name).stem): name for name in names if Path(name).stem.isdecimal()}
    if len(by_number) != len(names):
        raise UserError(f"images are not numbered, or twice ({', '.join(sorted(names)[:3])} ...)")
    for number in range(len(names)):
        if number not in by_number:
            raise UserError(f"image {number} is missing ({len(names)} others are there)")
    return [by_number[number] for number in range(len(names))]


def encode_points(name: str, points: np.ndarray) -> np.ndarray:
    """Points as datasets store them: half precision bit for bit, finer ones quantized.

    Quantization moves a point by at most 0.9e-5 per axis, half precision by up to 12e-5.
    """
    if points.ndim != 2 or points.shape[1] != 3 or points.dtype.kind != "f":
        raise UserError(f"{name} are {points.dtype} {points.shape}, expected floats (N, 3)")
    if not np.isfinite(points).all():
        raise UserError(f"{name} are not all finite")
    extent = np.abs(points).max(initial=0.0)
    if extent > HALF_EXTENT + HALF_PRECISION:
        raise UserError(f"{name} reach {extent:.3g}, outside the cube of half edge {HALF_EXTENT}")
    return points if points.dtype == np.float16 else quantize_points(points.astype(np.float64))


def list_digest(items: list[Item]) -> str:
    """What tells a list of shapes from another, should a build be continued."""
    lines = "".join(f"{item.id}\t{item.category}\t{item.split}\n" for item in items)
    return hashlib.sha256(lines.encode()).hexdigest()


def nothing_usable(where: str | Path, what: str, skipped: dict[str, str]) -> UserError:
    """What to raise where every shape was skipped: the first reasons."""
    reasons = "; ".join(f"{key}: {reason}" for key, reason in itertools.islice(skipped.items(), 5))
    return UserError(f"{where}: {what} ({reasons[:200]})")


def one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _unreadable(path: Path, kind: str, error: Exception) -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError(f"{path.name} is missing")
    return UserError(f"{path.name}: not a readable {kind} ({one_line(error)})")

"""Reads voxel grids from binvox files (P. Min)."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from occvae.errors import UserError

_LONGEST_HEADER = 4096  # bytes


@dataclass(frozen=True)
class Binvox:
    """A voxel grid, and its location and scale in the mesh that it was made from.

    The center of cell i along an axis is at scale * (i + 0.5) / max(voxels.shape) + translate.
    """

    voxels: np.ndarray  # (X, Y, Z) bool
    translate: np.ndarray  # (3,) float64
    scale: float


def read_binvox(source: str | Path | bytes) -> Binvox:
    """Reads a binvox file.

    The three sizes in the header are those of x, y and z. On disk, y varies fastest, then z, then
    x.

    Args:
        source: path of the file, or its content.

    Raises:
        UserError: the file is missing, damaged, or not a binvox file.
    """
    name = "binvox data" if isinstance(source, bytes) else str(source)
    try:
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{name}: no such file") from None
    except OSError as error:
        raise UserError(f"{name}: cannot be read ({error.strerror})") from None
    try:
        header, runs = _split(content)
        shape, translate, scale = _parse_header(header)
        flat = _decode_runs(runs, shape[0] * shape[1] * shape[2])
    except ValueError as error:
        raise UserError(f"{name}: not a usable binvox file ({error})") from None
    x, y, z = shape
    return Binvox(flat.reshape(x, z, y).transpose(0, 2, 1), translate, scale)


def _split(content: bytes) -> tuple[list[str], np.ndarray]:
    """The lines of the header, and the bytes after it."""
    if not content.startswith(b"#binvox"):
        raise ValueError("it does not begin with #binvox")
    end = re.compile(rb"\ndata\r?\n").search(content[:_LONGEST_HEADER])
    if end is None:
        raise ValueError("its header has no line 'data'")
    header = content[: end.start()].decode("ascii", errors="replace").splitlines()
    return header, np.frombuffer(content, np.uint8, offset=end.end())


def _parse_header(lines: list[str]) -> tuple[tuple[int, int, int], np.ndarray, float]:
    """Sizes of x, y and z, translation and scale. The last two are optional in the file."""
    if lines[0].split() != ["#binvox", "1"]:
        raise ValueError(f"its version is {lines[0]!r}, expected '#binvox 1'")
    fields = {words[0]: words[1:] for words in map(str.split, lines[1:]) if words}
    sizes = fields.get("dim", [])
    if len(sizes) != 3 or not all(re.fullmatch("[0-9]{1,9}", size) for size in sizes):
        raise ValueError("its header has no 'dim' with three sizes")
    x, y, z = map(int, sizes)
    if 0 in (x, y, z):
        raise ValueError(f"it is empty: dim {' '.join(sizes)}")
    translate = _parse_numbers(fields, "translate", [0.0, 0.0, 0.0])
    (scale,) = _parse_numbers(fields, "scale", [1.0])
    if scale <= 0:
        raise ValueError(f"its scale is {scale}")
    return (x, y, z), translate, float(scale)


def _parse_numbers(fields: dict[str, list[str]], key: str, default: list[float]) -> np.ndarray:
    try:
        numbers = np.array([float(word) for word in fields.get(key, default)])
    except ValueError:
        numbers = np.empty(0)
    if len(numbers) != len(default) or not np.isfinite(numbers).all():
        raise ValueError(f"its '{key}' is not {len(default)} finite numbers")
    return numbers


def _decode_runs(runs: np.ndarray, size: int) -> np.ndarray:
    """Decodes pairs of a value and a count to (size,) bool.

    Counts may be 0: the writers of Pix2Vox and ONet end runs of a multiple of 255 voxels with one.
    """
    if len(runs) % 2:
        raise ValueError("it is truncated in the middle of a run")
    values, counts = runs[::2], runs[1::2]
    if (values > 1).any():
        raise ValueError("it has a run whose value is not 0 or 1")
    # Compared before anything is allocated, because a bad header may ask for more than the memory.
    total = int(counts.sum(dtype=np.int64))
    if total != size:
        raise ValueError(f"its runs have {total} voxels, its header says {size}")
    return np.repeat(values.astype(bool), counts)

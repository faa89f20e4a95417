"""Writes voxel grids to binvox files (P. Min), to test the reader."""

from pathlib import Path

import numpy as np

_LONGEST_RUN = 255  # a count is one byte


def write_binvox(
    path: str | Path,
    voxels: np.ndarray,
    translate: tuple[float, float, float] = (-0.5, -0.5, -0.5),
    scale: float = 1.0,
) -> None:
    """Writes a grid (X, Y, Z) bool. By default, its cube is this package's unit cube."""
    voxels = np.asarray(voxels)
    if voxels.ndim != 3 or voxels.dtype != bool or 0 in voxels.shape:
        raise ValueError(f"voxels must be bool (X, Y, Z), got {voxels.dtype} {voxels.shape}")
    header = "#binvox 1\ndim {} {} {}\n".format(*voxels.shape)
    header += "translate {!r} {!r} {!r}\n".format(*(float(value) for value in translate))
    header += f"scale {float(scale)!r}\ndata\n"
    runs = _encode_runs(voxels.transpose(0, 2, 1).reshape(-1))
    Path(path).write_bytes(header.encode("ascii") + runs.tobytes())


def _encode_runs(flat: np.ndarray) -> np.ndarray:
    """Pairs of a value and a count, as consecutive uint8."""
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = np.diff(starts, append=len(flat))
    parts = -(-lengths // _LONGEST_RUN)
    counts = np.full(parts.sum(), _LONGEST_RUN)
    counts[parts.cumsum() - 1] = lengths - (parts - 1) * _LONGEST_RUN
    return np.stack([np.repeat(flat[starts], parts), counts], axis=1).astype(np.uint8)

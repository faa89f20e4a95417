"""Decides whether a file shows an object as an image, a point cloud or a voxel grid."""

from pathlib import Path
from typing import Literal

import numpy as np

from occvae.data.readers.files import read_member
from occvae.data.readers.voxel_files import ENDINGS as VOXEL_ENDINGS
from occvae.errors import UserError
from occvae.observations.scans import ENDINGS as SCAN_ENDINGS

Kind = Literal["images", "points", "voxels"]
"""Name of an input of a model of mixtures."""


def file_kind(path: str | Path) -> Kind:
    """Returns the kind of a file.

    The ending decides, except for .npy and .npz files, which hold point clouds or voxel grids.
    An .npz file with an array `points` is a point cloud, and one with `voxels` is a voxel grid.
    Otherwise an array with three or more axes is a voxel grid. A file that cannot be read counts as
    a point cloud, and the reader of point clouds says what is wrong.

    Raises:
        UserError: An .npz file has both `points` and `voxels`.
    """
    ending = Path(path).suffix.lower()
    if ending in SCAN_ENDINGS and ending in VOXEL_ENDINGS:
        return _array_kind(Path(path))
    if ending in SCAN_ENDINGS:
        return "points"
    return "voxels" if ending in VOXEL_ENDINGS else "images"


def _array_kind(path: Path) -> Kind:
    axes = _axes(path)
    if {"points", "voxels"} <= axes.keys():
        raise UserError(f"{path}: has arrays points and voxels; save each in a file of its own")
    if "points" in axes or "voxels" in axes:
        return "points" if "points" in axes else "voxels"
    return "voxels" if axes and min(axes.values()) > 2 else "points"


def _axes(path: Path) -> dict[str, int]:
    """The number of axes of each array; 0 for arrays of .npz files with more than one array."""
    if not path.is_file():  # opening a pipe would block
        return {}
    try:
        content = np.load(path, mmap_mode="r")
        if isinstance(content, np.ndarray):
            return {"": content.ndim}
        with content as archive:
            names = archive.files
            one = len(names) == 1
            return {name: read_member(archive, name).ndim if one else 0 for name in names}
    except Exception:  # numpy and zipfile raise many kinds of errors on damaged files
        return {}

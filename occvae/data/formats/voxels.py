"""Imports voxel grids from .npz, .npy, .mat and .binvox files."""

import argparse
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from occvae.data.formats import Format
from occvae.data.manifest import OWN_SPLITS, SPLITS
from occvae.data.readers.voxel_files import read_voxel_file
from occvae.data.sample import Sample
from occvae.data.shape_arguments import add_shape_arguments, add_training_surface, shape_settings
from occvae.data.shapes import ShapeSettings, make_sample
from occvae.data.shards import file_sha256
from occvae.data.sources import Item, own_split, skip_reason
from occvae.errors import UserError


@dataclass
class VoxelShape:
    """A voxel grid as a solid: a point is inside if its cell is occupied."""

    grid: np.ndarray  # (R, R, R) bool

    def mesh(self) -> tuple[np.ndarray, np.ndarray]:
        from occvae.geometry.voxels_to_mesh import grid_mesh

        # Smoothing the grid first would look better, but would lose parts that are one voxel thick.
        return grid_mesh(self.grid, 0.5)

    def contains(self, points: np.ndarray) -> np.ndarray:
        from occvae.geometry.voxelize import occupancies_from_voxels

        return occupancies_from_voxels(self.grid, points)


class VoxelArchiveSource:
    """Voxel grids from .npz archives, and from .npy, .mat and .binvox files.

    An archive holds `voxels` (N, R, R, R), bool or numbers, where numbers of at least 0.5 are
    occupied. Alternatively, `voxels` are packed bits (N, ceil(R^3 / 8)) uint8, and `resolution` is
    the scalar R. The optional arrays `id`, `category` and `split` (train, val or test) are (N,)
    each. Without `split`, every eighth shape is for validation. An .npy file holds one grid
    (R, R, R), or `voxels` alone. A MATLAB file of version 5 to 7 holds one grid, under any name.
    Files that cannot be read and empty grids are skipped and reported.

    Args:
        paths: the files.
        shape_settings: what to make and store per shape.
        up: axis of the stored grids that points up, "y" or "z". "z" is usual in CAD, with the front
            towards -y. Such grids are turned to this package's axes: +y up, front towards +z.

    Raises:
        UserError: no file can be read.
    """

    name = "voxels"
    splits = OWN_SPLITS

    def __init__(
        self,
        paths: list[str | Path],
        shape_settings: ShapeSettings = ShapeSettings(),  # noqa: B008 - immutable
        up: str = "z",
    ):
        if up not in ("y", "z"):
            raise UserError(f"up must be 'y' or 'z', got {up!r}")
        self.up = up
        files = [Path(path) for path in paths]
        self.shape_settings = shape_settings
        archives = [[file.name, _digest(file)] for file in files]
        self.settings = {"archives": archives, "up": up, **shape_settings.to_dict()}
        self.skipped: dict[str, str] = {}
        self.items: list[Item] = []
        self._grids: list[tuple[np.ndarray, int]] = []  # packed bits and resolution
        stems = Counter(file.stem for file in files)
        for file in files:
            unique = stems[file.stem] == 1
            try:
                self._add_file(file, file.stem if unique else file.with_suffix("").as_posix())
            except UserError as error:
                self.skipped[str(file)] = skip_reason(str(file), error)
        if not self.items:
            reasons = "; ".join(self.skipped.values()) or "the files have no shapes"
            raise UserError(f"no voxel file can be read: {reasons}")

    def shape(self, index: int) -> VoxelShape:
        """The solid of the item with this index."""
        bits, edge = self._grids[index]
        grid = np.unpackbits(bits, count=edge**3).reshape(edge, edge, edge).view(bool)
        if self.up == "z":
            grid = np.flip(grid.transpose(0, 2, 1), axis=2)
        return VoxelShape(grid)

    def sample(self, index: int) -> Sample:
        item = self.items[index]
        return make_sample(
            item.id,
            item.category,
            item.split,
            self.shape(index),
            self.shape_settings,
            keep_mesh=False,  # it would hold no more than the voxels
        )

    def _add_file(self, path: Path, name: str) -> None:
        grids, edge, columns = _read_file(path, name, len(self.items))
        for split in columns["split"]:
            if split not in SPLITS:
                raise UserError(f"{path}: split {split!r} must be one of {', '.join(SPLITS)}")
        self.items += map(Item, columns["id"], columns["category"], columns["split"])
        self._grids += [(bits, edge) for bits in grids]


def _digest(path: Path) -> str | None:
    """A hash of the file, so that a build never continues with other content."""
    return file_sha256(path) if path.is_file() else None


def _read_file(path: Path, name: str, before: int) -> tuple[np.ndarray, int, dict[str, list[str]]]:
    """Reads a file of voxel grids.

    Args:
        path: the file.
        name: beginning of the ids, unless the file has ids.
        before: number of shapes in the files before it, which continue its numbering.

    Returns:
        Packed bits (N, ceil(R^3 / 8)), R, and the columns `id`, `category` and `split`.

    Raises:
        UserError: the file cannot be read, or its arrays do not fit together.
    """
    content = read_voxel_file(path)
    grids, edge = _pack_grids(path, content)
    count = len(grids)
    splits = [own_split(before + index) for index in range(count)]
    columns = {
        "category": content.get("category", np.full(count, "object")),
        "split": content.get("split", np.array(splits)),
        "id": content.get("id", np.array([f"{name}-{index:05d}" for index in range(count)])),
    }
    for key, values in columns.items():
        if values.shape != (count,):
            raise UserError(f"{path}: '{key}' has shape {values.shape}; expected ({count},)")
    try:
        return grids, edge, {key: values.astype(str).tolist() for key, values in columns.items()}
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: has names that are not text ({error})") from None


def _pack_grids(path: Path, content: dict[str, np.ndarray]) -> tuple[np.ndarray, int]:
    """Packs the grids of a file to bits, to save memory.

    Returns:
        Bits (N, ceil(R^3 / 8)) uint8, and R.

    Raises:
        UserError: the array 'voxels' is neither (N, R, R, R) nor packed bits with a resolution.
    """
    voxels = content["voxels"]
    if voxels.dtype.kind not in "biuf":
        raise UserError(f"{path}: 'voxels' is {voxels.dtype}; expected bool or numbers")
    if voxels.ndim == 4 and voxels.shape[1] == voxels.shape[2] == voxels.shape[3]:
        count, edge = voxels.shape[:2]
        solid = voxels if voxels.dtype == bool else voxels >= 0.5
        return np.packbits(solid.reshape(count, edge**3), axis=1), edge
    resolution = content.get("resolution", np.empty(0))
    if voxels.ndim == 2 and voxels.dtype == np.uint8 and resolution.shape == ():
        edge = int(resolution) if resolution.dtype.kind in "iu" else 0
        if edge > 0 and voxels.shape[1] == (edge**3 + 7) // 8:
            return voxels, edge
    raise UserError(
        f"{path}: 'voxels' is {voxels.dtype} {voxels.shape}; expected (N, R, R, R), or packed "
        "uint8 (N, R^3/8) with an integer 'resolution'"
    )


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("archives", nargs="+", help=".npz, .npy, .mat or .binvox files")
    parser.add_argument(
        "--up", default="z", choices=("y", "z"), help="axis of the grids that points up (default z)"
    )
    add_shape_arguments(parser, near_points=0, voxels="32")
    add_training_surface(parser)


def _make_source(options: argparse.Namespace) -> VoxelArchiveSource:
    settings = shape_settings(options, training_surface=options.training_surface)
    return VoxelArchiveSource(options.archives, settings, up=options.up)


FORMAT = Format(
    help="voxel grids in .npz, .npy, .mat and .binvox files",
    add_arguments=_add_arguments,
    make_source=_make_source,
)

"""Imports voxel grids from .npz archives."""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from occvae.data.formats import Format
from occvae.data.manifest import OWN_SPLITS, SPLITS
from occvae.data.readers.files import describe_error, read_member
from occvae.data.sample import Sample
from occvae.data.shape_arguments import add_shape_arguments, shape_settings
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
    """Voxel grids from .npz archives.

    An archive holds `voxels` (N, R, R, R), bool or numbers, where numbers of at least 0.5 are
    occupied. Alternatively, `voxels` are packed bits (N, ceil(R^3 / 8)) uint8, and `resolution` is
    the scalar R. The optional arrays `id`, `category` and `split` (train, val or test) are (N,)
    each. Without `split`, every eighth shape is for validation. Archives that cannot be read and
    empty grids are skipped and reported.

    Args:
        paths: the archives.
        shape_settings: what to make and store per shape.
        up: axis of the stored grids that points up, "y" or "z". "z" is usual in CAD, with the front
            towards -y. Such grids are turned to this package's axes: +y up, front towards +z.

    Raises:
        UserError: no archive can be read.
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
        for file in files:
            try:
                self._add_archive(file)
            except UserError as error:
                self.skipped[str(file)] = skip_reason(str(file), error)
        if not self.items:
            reasons = "; ".join(self.skipped.values()) or "the archives have no shapes"
            raise UserError(f"no voxel archive can be read: {reasons}")

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

    def _add_archive(self, path: Path) -> None:
        grids, edge, columns = _read_archive(path, len(self.items))
        for split in columns["split"]:
            if split not in SPLITS:
                raise UserError(f"{path}: split {split!r} must be one of {', '.join(SPLITS)}")
        self.items += map(Item, columns["id"], columns["category"], columns["split"])
        self._grids += [(bits, edge) for bits in grids]


_KEYS = {"voxels", "resolution", "id", "category", "split"}


def _digest(path: Path) -> str | None:
    """A hash of the archive, so that a build never continues with other content."""
    return file_sha256(path) if path.is_file() else None


def _read_archive(path: Path, before: int) -> tuple[np.ndarray, int, dict[str, list[str]]]:
    """Reads an archive of voxel grids.

    Args:
        path: the .npz archive.
        before: number of shapes in the archives before it, which continue its numbering.

    Returns:
        Packed bits (N, ceil(R^3 / 8)), R, and the columns `id`, `category` and `split`.

    Raises:
        UserError: the archive cannot be read, or its arrays do not fit together.
    """
    if path.exists() and not path.is_file():  # reading a pipe would block
        raise UserError(f"{path}: not a readable .npz archive (it is not a regular file)")
    try:
        with np.load(path) as archive:
            found = sorted(archive.files)
            content = {key: read_member(archive, key) for key in _KEYS.intersection(found)}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except Exception as error:  # numpy and zipfile raise many kinds of errors on damaged files
        raise UserError(f"{path}: not a readable .npz archive ({describe_error(error)})") from None
    if "voxels" not in content:
        raise UserError(f"{path}: has no 'voxels' array (found {', '.join(found)})")
    grids, edge = _pack_grids(path, content)
    count = len(grids)
    splits = [own_split(before + index) for index in range(count)]
    columns = {
        "category": content.get("category", np.full(count, "object")),
        "split": content.get("split", np.array(splits)),
        "id": content.get("id", np.array([f"{path.stem}-{index:05d}" for index in range(count)])),
    }
    for key, values in columns.items():
        if values.shape != (count,):
            raise UserError(f"{path}: '{key}' has shape {values.shape}; expected ({count},)")
    try:
        return grids, edge, {key: values.astype(str).tolist() for key, values in columns.items()}
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: has names that are not text ({error})") from None


def _pack_grids(path: Path, content: dict[str, np.ndarray]) -> tuple[np.ndarray, int]:
    """Packs the grids of an archive to bits, to save memory.

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
    parser.add_argument("archives", nargs="+", help=".npz archives of voxel grids")
    parser.add_argument(
        "--up", default="z", choices=("y", "z"), help="axis of the grids that points up (default z)"
    )
    add_shape_arguments(parser, near_points=0, voxels="32")


def _make_source(options: argparse.Namespace) -> VoxelArchiveSource:
    return VoxelArchiveSource(options.archives, shape_settings(options), up=options.up)


FORMAT = Format(
    help="voxel grids in .npz archives", add_arguments=_add_arguments, make_source=_make_source
)

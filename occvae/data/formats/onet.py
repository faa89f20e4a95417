"""Imports ShapeNet as preprocessed for Occupancy Networks (Mescheder et al. 2019)."""

import argparse
from pathlib import Path

import numpy as np

from occvae.data.cameras import check_views, unit_cube_extrinsics
from occvae.data.formats import Format, add_published_folder
from occvae.data.manifest import SPLITS
from occvae.data.points import decode_points, encode_points
from occvae.data.readers.binvox import read_binvox
from occvae.data.readers.files import describe_error, image_size, read_arrays, read_bytes
from occvae.data.readers.listings import (
    list_digest,
    name_unlisted,
    nothing_usable,
    sort_by_number,
    subfolders,
)
from occvae.data.sample import Sample
from occvae.data.shape_arguments import add_training_surface
from occvae.data.sources import Item, skip_reason
from occvae.errors import UserError

_POINTS, _SURFACE, _VOXELS = "points.npz", "pointcloud.npz", "model.binvox"
_IMAGES, _CAMERAS = "img_choy2016", "img_choy2016/cameras.npz"
_PARTS = (_POINTS, _SURFACE, _VOXELS, _IMAGES, _CAMERAS)
# A part is required if any of the first shapes has it, because custom data may lack some parts.
_NUM_PROBED = 16
# Share of a shape that each image must show. The nearest cameras cut off corners of long shapes.
_MIN_IN_VIEW = 0.5


class OccupancyNetworksSource:
    """A folder with `metadata.yaml` and one subfolder per class, with its lists and models.

    Coordinates stay as published, with +y up, so that models trained elsewhere predict in the same
    frame. Points keep their float16 values. The grids of model.binvox have the same axes. Published
    cameras follow OpenCV's convention and map original coordinates, unit * scale + loc. The import
    converts them to the unit cube. A shape that lacks a part which other shapes have is skipped. A
    shape in several lists belongs to the first of train, val, test.

    Args:
        root: the folder, `ShapeNet` in the published archive.
        training_surface: whether training shapes keep their surface points, which models of point
            clouds need.

    Raises:
        UserError: it is another folder, or nothing in it is usable.
    """

    name = "onet"
    splits = "onet"

    def __init__(self, root: str | Path, training_surface: bool = False):
        self.root = Path(root)
        self.training_surface = training_surface
        self.items: list[Item] = []
        self.skipped: dict[str, str] = {}
        categories = _read_categories(self.root)
        classes = sorted(name for name in subfolders(self.root) if self._has_lists(name))
        if not classes:
            raise UserError(_wrong_folder(self.root))
        for name in classes:
            self._add_class(name, categories.get(name, name))
        for name in sorted(subfolders(self.root).difference(classes)):
            self.skipped[name] = "has no train.lst, val.lst or test.lst"
        if not self.items:
            raise nothing_usable(self.root, "no listed shape has a folder", self.skipped)
        self.parts = self._find_parts()
        self.settings = {
            "shapes": list_digest(self.items),
            "parts": list(self.parts),
            "training_surface": training_surface,
        }

    def sample(self, index: int) -> Sample:
        item = self.items[index]
        folder = self.root / item.id
        parts = set(self.parts)
        if item.split == "train" and not self.training_surface:
            parts.discard(_SURFACE)
        for part in sorted(parts):
            if not (folder / part).exists():
                raise UserError(f"{part} is missing")
        sample = Sample(id=item.id, category=item.category)
        if _POINTS in parts:
            _read_points(sample, folder / _POINTS)
        if _SURFACE in parts:
            _read_surface(sample, folder / _SURFACE)
        if _VOXELS in parts:
            grid = _read_grid(folder / _VOXELS)
            sample.voxels = {len(grid): grid}
        if _IMAGES in parts:
            sizes = _read_images(sample, folder / _IMAGES)
            if _CAMERAS in parts:
                _read_cameras(sample, folder / _CAMERAS, sizes)
        return sample

    def _has_lists(self, name: str) -> bool:
        return any((self.root / name / f"{split}.lst").is_file() for split in SPLITS)

    def _add_class(self, name: str, category: str) -> None:
        present = subfolders(self.root / name)
        listed: dict[str, str] = {}
        for split in SPLITS:
            path = self.root / name / f"{split}.lst"
            try:
                lines = path.read_text().splitlines()
            except (OSError, ValueError) as error:
                reason = skip_reason(str(path), error)
                self.skipped[f"{name}/{path.name}"] = f"cannot be read ({reason})"
                continue
            for model in filter(None, map(str.strip, lines)):
                if model in listed:
                    reason = f"is already in {listed[model]}.lst"
                    self.skipped[f"{name}/{model} of {split}.lst"] = reason
                    continue
                listed[model] = split
                if model in present:
                    self.items.append(Item(f"{name}/{model}", category, split))
                else:
                    self.skipped[f"{name}/{model}"] = f"is in {split}.lst but has no folder"
        self.skipped |= name_unlisted(name, present.difference(listed))

    def _find_parts(self) -> tuple[str, ...]:
        probed = [self.root / item.id for item in self.items[:_NUM_PROBED]]
        return tuple(part for part in _PARTS if any((path / part).exists() for path in probed))


def _read_categories(root: Path) -> dict[str, str]:
    """The first name of each class, by the id of the class."""
    import yaml  # a dependency of timm

    path = root / "metadata.yaml"
    if not path.is_file():
        return {}
    try:
        # BaseLoader keeps ids as text. YAML would read 03001627 as octal, but not 02691156.
        content = yaml.load(path.read_text(), Loader=yaml.BaseLoader)
        names = {key: entry["name"].split(",")[0].strip() for key, entry in content.items()}
    except Exception as error:  # the file may contain anything
        reason = describe_error(error)
        raise UserError(f"{path}: not a mapping of ids to names ({reason})") from None
    all_names = list(names.values())
    return {key: name for key, name in names.items() if name and all_names.count(name) == 1}


def _wrong_folder(root: Path) -> str:
    if not root.is_dir():
        return f"{root}: no such folder"
    if any((root / f"{split}.lst").is_file() for split in SPLITS):
        return f"{root}: is the folder of one class; give its parent folder"
    if any(
        (root / "ShapeNet" / name / "train.lst").is_file() for name in subfolders(root / "ShapeNet")
    ):
        return f"{root}: has the folder ShapeNet; give {root / 'ShapeNet'}"
    return f"{root}: no folder in it has train.lst, val.lst or test.lst; give ONet's folder"


def _read_points(sample: Sample, path: Path) -> None:
    points, occupancies, location, scale = read_arrays(
        path, "points", "occupancies", "loc", "scale"
    )
    if location.shape != (3,) or scale.shape not in ((), (1,)):
        raise UserError(
            f"{path.name}: loc is {location.shape} and scale {scale.shape}; expected (3,) and ()"
        )
    sample.location, sample.scale = location.astype(np.float64), float(scale.reshape(()))
    if not np.isfinite([*sample.location, sample.scale]).all() or sample.scale <= 0:
        raise UserError(
            f"{path.name}: loc is {location} and scale {sample.scale}; expected finite numbers and "
            "a positive scale"
        )
    sample.points = encode_points("points", points)
    sample.occupancies = _unpack(path.name, occupancies, len(points))


def _unpack(name: str, occupancies: np.ndarray, count: int) -> np.ndarray:
    """Occupancies (count,) bool from packed bits or from one value per point."""
    if occupancies.dtype == np.uint8 and occupancies.shape == ((count + 7) // 8,) and count > 1:
        return np.unpackbits(occupancies, count=count).astype(bool)
    if occupancies.shape == (count,) and occupancies.dtype.kind in "biuf":
        if np.isin(occupancies, (0, 1)).all():
            return occupancies.astype(bool)
        raise UserError(f"{name}: occupancies are not all 0 or 1")
    raise UserError(
        f"{name}: occupancies are {occupancies.dtype} {occupancies.shape} for {count} points"
    )


def _read_surface(sample: Sample, path: Path) -> None:
    points, normals = read_arrays(path, "points", "normals")
    sample.surface_points = encode_points("surface points", points)
    if normals.dtype.kind != "f":
        raise UserError(f"{path.name}: normals are {normals.dtype}, expected floats")
    sample.surface_normals = normals.astype(np.float16)


def _read_grid(path: Path) -> np.ndarray:
    grid = read_binvox(path).voxels
    if len(set(grid.shape)) != 1:
        raise UserError(f"{path.name} is {grid.shape}; expected a cube")
    return grid


def _read_images(sample: Sample, folder: Path) -> list[tuple[int, int]]:
    """Reads the images into the sample, and returns the width and height of each."""
    suffixes = (".jpg", ".jpeg", ".png")
    names = sort_by_number(
        [path.name for path in folder.iterdir() if path.suffix.lower() in suffixes]
    )
    sample.images = [read_bytes(folder / name) for name in names]
    return [image_size(*pair) for pair in zip(names, sample.images, strict=True)]


def _read_cameras(sample: Sample, path: Path, sizes: list[tuple[int, int]]) -> None:
    views = range(len(sizes))
    matrices = read_arrays(
        path, *(f"world_mat_{view}" for view in views), *(f"camera_mat_{view}" for view in views)
    )
    world, camera = matrices[: len(sizes)], matrices[len(sizes) :]
    if {matrix.shape for matrix in world} != {(3, 4)} or {matrix.shape for matrix in camera} != {
        (3, 3)
    }:
        raise UserError(f"{path.name}: cameras are not (3, 4) and (3, 3) matrices")
    original = np.stack(world).astype(np.float64)
    sample.extrinsics = unit_cube_extrinsics(original, sample.location, sample.scale)
    sample.intrinsics = np.stack(camera).astype(np.float64)
    for view, (width, height) in enumerate(sizes):
        center = sample.intrinsics[view, :2, 2]
        if np.abs(center * 2 - (width, height)).max() > 1:
            x, y = center * 2
            raise UserError(
                f"camera {view} is for {x:g}x{y:g} pixels, its image has {width}x{height}"
            )
    points = _shape_points(sample)
    if len(points):
        check_views(points, sample.extrinsics, sample.intrinsics, sizes, _MIN_IN_VIEW)


def _shape_points(sample: Sample) -> np.ndarray:
    """Some points (N, 3) of the shape, on its surface or inside."""
    if sample.surface_points is not None:
        return decode_points(sample.surface_points[:1000])
    if sample.points is not None:
        return decode_points(sample.points)[sample.occupancies]
    return np.empty((0, 3))


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_published_folder(parser)
    add_training_surface(parser)


FORMAT = Format(
    help="ShapeNet as preprocessed for Occupancy Networks",
    add_arguments=_add_arguments,
    make_source=lambda options: OccupancyNetworksSource(options.root, options.training_surface),
)

"""Imports ShapeNet as rendered for 3D-R2N2 (Choy et al. 2016) and split for Pix2Vox."""

from pathlib import Path
from typing import Any

import numpy as np

from occvae.data.cameras import check_views, choy_extrinsics, unit_cube_extrinsics
from occvae.data.formats import Format, add_published_folder
from occvae.data.manifest import SPLITS
from occvae.data.readers.binvox import read_binvox
from occvae.data.readers.files import (
    describe_error,
    image_size,
    read_bytes,
    read_json,
    read_mat_grid,
)
from occvae.data.readers.listings import (
    list_digest,
    name_unlisted,
    nothing_usable,
    sort_by_number,
    subfolders,
)
from occvae.data.sample import Sample
from occvae.data.sources import Item
from occvae.errors import UserError
from occvae.visualize.rendering import FOCAL_RATIO

_RENDERINGS, _VOXELS, _TAXONOMY = "ShapeNetRendering", "ShapeNetVox32", "ShapeNet.json"
_METADATA = "rendering_metadata.txt"
# Share of a shape that each image must show. The nearest cameras cut off corners of long shapes.
_MIN_IN_VIEW = 0.5


class Pix2VoxSource:
    """The folders ShapeNetRendering and ShapeNetVox32, and the taxonomy with the split.

    Grids stay as published, with +y up, so that models trained elsewhere predict in the same frame.
    Grids of .mat files (variable `Volume`) have the same axes. Images keep their bytes, including
    transparency, which `ShapeDataset` later composites over a background. A shape in several lists
    belongs to the first of train, val, test.

    Args:
        renderings: folder of <class>/<model>/rendering/00.png, ... and rendering_metadata.txt.
        voxels: folder of <class>/<model>/model.binvox, or model.mat.
        taxonomy: JSON file of classes, each with `taxonomy_id`, `taxonomy_name` and its lists
            `train`, `val` and `test`.

    Raises:
        UserError: a folder or the taxonomy is missing or wrong, or no shape is usable.
    """

    name = "pix2vox"
    splits = "pix2vox"

    def __init__(self, renderings: str | Path, voxels: str | Path, taxonomy: str | Path):
        self.renderings, self.voxels = Path(renderings), Path(voxels)
        self.items: list[Item] = []
        self.skipped: dict[str, str] = {}
        for folder in (self.renderings, self.voxels):
            if not folder.is_dir():
                raise UserError(f"{folder}: no such folder")
        for entry in _read_taxonomy(Path(taxonomy)):
            self._add_class(entry)
        if not self.items:
            raise nothing_usable(taxonomy, "no listed shape has its folders", self.skipped)
        self.settings = {"shapes": list_digest(self.items)}

    @classmethod
    def from_folder(cls, root: str | Path) -> "Pix2VoxSource":
        """Makes the source from a folder that holds all three under their published names."""
        root = Path(root)
        taxonomies = [
            path for path in (root / _TAXONOMY, root / "datasets" / _TAXONOMY) if path.is_file()
        ]
        missing = [name for name in (_RENDERINGS, _VOXELS) if not (root / name).is_dir()]
        missing += [] if taxonomies else [_TAXONOMY]
        if missing:
            raise UserError(
                f"{root}: has no {' and no '.join(missing)}; give the folder that holds "
                f"{_RENDERINGS}, {_VOXELS} and {_TAXONOMY} (or datasets/{_TAXONOMY})"
            )
        return cls(root / _RENDERINGS, root / _VOXELS, taxonomies[0])

    def sample(self, index: int) -> Sample:
        item = self.items[index]
        folder = self.renderings / item.id / "rendering"
        grid, location, scale = self._read_grid(item.id)
        if not grid.any():
            raise UserError("shape is empty")
        names = sort_by_number([path.name for path in folder.glob("*.png")])
        images = [read_bytes(folder / name) for name in names]
        sizes = [image_size(*pair) for pair in zip(names, images, strict=True)]
        published = _read_cameras(folder / _METADATA, len(names))
        location, scale = _mesh_frame(grid, location, scale)
        extrinsics = unit_cube_extrinsics(published, location, scale)
        intrinsics = None
        if sizes:
            intrinsics = np.stack([_intrinsics(*size) for size in sizes])
            points = (np.argwhere(grid) + 0.5) / len(grid) - 0.5
            check_views(points, extrinsics, intrinsics, sizes, _MIN_IN_VIEW)
        return Sample(
            id=item.id,
            category=item.category,
            images=images,
            extrinsics=extrinsics,
            intrinsics=intrinsics,
            voxels={len(grid): grid},
            location=location,
            scale=scale,
        )

    def _add_class(self, entry: dict[str, Any]) -> None:
        name, category = entry["taxonomy_id"], entry["taxonomy_name"]
        rendered, voxelized = subfolders(self.renderings / name), subfolders(self.voxels / name)
        listed: dict[str, str] = {}
        for split in SPLITS:
            for model in entry.get(split, []):
                if model in listed:
                    reason = f"is already in {listed[model]}"
                    self.skipped[f"{name}/{model} of {split}"] = reason
                    continue
                listed[model] = split
                if model not in rendered or model not in voxelized:
                    where = self.renderings if model not in rendered else self.voxels
                    self.skipped[f"{name}/{model}"] = f"has no folder in {where.name}"
                else:
                    self.items.append(Item(f"{name}/{model}", category, split))
        self.skipped |= name_unlisted(name, (rendered & voxelized).difference(listed))

    def _read_grid(self, id: str) -> tuple[np.ndarray, np.ndarray, float]:
        """Voxels with the location and scale in their file. The scale is 0 if the file has none."""
        folder = self.voxels / id
        if (folder / "model.binvox").is_file():
            file = read_binvox(folder / "model.binvox")
            if len(set(file.voxels.shape)) != 1:
                raise UserError(f"model.binvox is {file.voxels.shape}; expected a cube")
            return file.voxels, file.translate + file.scale / 2, file.scale
        if (folder / "model.mat").is_file():
            return read_mat_grid(folder / "model.mat", "Volume"), np.zeros(3), 0.0
        raise UserError("has neither model.binvox nor model.mat")


def _read_taxonomy(path: Path) -> list[dict[str, Any]]:
    content = read_json(path)
    if not isinstance(content, list) or not content:
        raise UserError(f"{path}: expected a list of classes")
    for number, entry in enumerate(content):
        names = (
            [entry.get(key) for key in ("taxonomy_id", "taxonomy_name")]
            if isinstance(entry, dict)
            else []
        )
        if not names or not all(isinstance(name, str) and name for name in names):
            raise UserError(f"{path}: class {number} has no taxonomy_id and taxonomy_name")
        for split in SPLITS:
            models = entry.get(split, [])
            if not isinstance(models, list) or not all(isinstance(model, str) for model in models):
                raise UserError(f"{path}: '{split}' of class {number} is not a list of names")
    return content


def _read_cameras(path: Path, count: int) -> np.ndarray:
    """Reads the cameras of `count` images from a rendering_metadata.txt.

    Returns:
        Extrinsics (count, 3, 4), from coordinates of the mesh to camera coordinates.

    Raises:
        UserError: the file cannot be read, or does not hold one valid camera per image.
    """
    try:
        lines = [line for line in path.read_text().splitlines() if line.strip()]
        rows = np.array([[float(word) for word in line.split()] for line in lines])
    except (OSError, ValueError) as error:
        raise UserError(f"{path.name} cannot be read ({describe_error(error)})") from None
    if rows.ndim != 2 or rows.shape[1] < 4 or not np.isfinite(rows).all():
        raise UserError(
            f"{path.name}: expected lines with azimuth, elevation, in-plane angle, distance and fov"
        )
    if len(rows) != count:
        raise UserError(f"{path.name} has {len(rows)} lines for {count} images")
    if (np.abs(rows[:, 1]) >= 90).any() or (rows[:, 3] <= 0).any():
        raise UserError(f"{path.name}: expected elevations below 90 degrees and distances above 0")
    return choy_extrinsics(*rows[:, :4].T)


def _mesh_frame(grid: np.ndarray, location: np.ndarray, scale: float) -> tuple[np.ndarray, float]:
    """The frame of the grid's cube in the rendered mesh, where mesh = unit * scale + location.

    The bounding box of a ShapeNet mesh is centered on the origin and has a diagonal of 1. The frame
    therefore follows from the occupied cells, to within a cell. The location and scale in the file
    are exact, so they are used if they agree with that. They may be wrong if the grid was centered
    (binvox -cb), and .mat files have none.
    """
    cells = np.argwhere(grid)
    low, high = cells.min(0), cells.max(0) + 1
    diagonal = float(np.linalg.norm(high - low))
    center = (low + high) / 2 / len(grid) - 0.5
    estimate = len(grid) / diagonal
    size_agrees = abs(scale / estimate - 1) < 2 * np.sqrt(3) / diagonal  # two cells per axis
    if scale > 0 and size_agrees and np.abs(-location / scale - center).max() < 1.5 / len(grid):
        return location, scale
    return -center * estimate, estimate


def _intrinsics(width: int, height: int) -> np.ndarray:
    """Camera matrix (3, 3) for images of this size in pixels.

    As in Blender, the sensor width of 32 mm covers the longer side of the image.
    """
    focal = FOCAL_RATIO * max(width, height)
    return np.array([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])


FORMAT = Format(
    help="ShapeNetRendering, ShapeNetVox32 and ShapeNet.json of 3D-R2N2 and Pix2Vox",
    add_arguments=add_published_folder,
    make_source=lambda options: Pix2VoxSource.from_folder(options.root),
)

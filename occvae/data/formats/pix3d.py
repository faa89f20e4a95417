"""Imports Pix3D (Sun et al. 2018): photographs of furniture with models, masks and cameras."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from occvae.data.cameras import check_views, unit_cube_extrinsics
from occvae.data.formats import Format, add_published_folder
from occvae.data.readers.files import describe_error, read_bytes, read_json, read_mat_grid
from occvae.data.readers.listings import list_digest, nothing_usable
from occvae.data.sample import Sample
from occvae.data.sources import Item
from occvae.errors import UserError
from occvae.images.io import encode_png

# Resolutions of the stored grids. The published ones are 128^3.
RESOLUTIONS = (32, 128)
# Longer side of the bounding box over the edge of the image, as in the median of our renderings.
_BOX_SHARE = 0.7
_LARGEST_IMAGE = 512  # pixels; models take 137 or 224
# Width of the sensor in millimeters, for which `focal_length` is given.
_SENSOR_WIDTH = 32.0
# Models have x to the left and z away from the viewer, which is half a turn about y.
_TURN = np.diag([-1.0, 1.0, -1.0])
# Pix3D's cameras have x to the left and y up. OpenCV's have x to the right and y down.
_FLIP = np.diag([-1.0, -1.0, 1.0])
_HIDDEN = ("truncated", "occluded", "slightly_occluded")


@dataclass(frozen=True)
class _Annotation:
    """The used fields of an entry in pix3d.json."""

    image: str
    mask: str
    voxel: str
    model: str
    size: tuple[int, int]
    box: tuple[float, float, float, float]
    rotation: np.ndarray
    translation: np.ndarray
    focal_length: float


class Pix3DSource:
    """The folder with pix3d.json, img, mask and model. Each photograph is one test sample.

    Shapes are turned to this package's axes: +x right, +y up, +z to the front. The published grids
    have axes that point left, out of the front and up, so [x, y, z] = [-left, up, out]. The
    published models have axes that point left, up and inwards, so (x, y, z) = (-left, up,
    -inwards). The bounding box of the occupied cells is scaled to the unit cube, as in Pix3D's own
    evaluation. A cell of a coarser grid is occupied if any of its parts is. Photographs are cropped
    to a square around the bounding box, and are white where the mask is 0.

    Objects that are truncated, occluded or slightly occluded are skipped, as in the evaluation of
    the paper.

    Args:
        root: the folder with pix3d.json.

    Raises:
        UserError: it is another folder, or nothing in it is usable.
    """

    name = "pix3d"
    splits = "pix3d"

    def __init__(self, root: str | Path):
        self.root = Path(root)
        path = self.root / "pix3d.json"
        if not path.is_file():
            raise UserError(
                f"{path}: no such file; give the folder with pix3d.json, img, mask and model"
            )
        entries = read_json(path)
        if not isinstance(entries, list):
            raise UserError(f"{path}: expected a list of annotations")
        self.items: list[Item] = []
        self.skipped: dict[str, str] = {}
        self._annotations: list[_Annotation] = []
        seen: set[str] = set()
        for number, entry in enumerate(entries):
            self._add(number, entry, seen)
        if not self.items:
            raise nothing_usable(path, "no annotation is usable", self.skipped)
        self.settings = {"photographs": list_digest(self.items), "resolutions": list(RESOLUTIONS)}

    def sample(self, index: int) -> Sample:
        item, annotation = self.items[index], self._annotations[index]
        voxels = read_mat_grid(self.root / annotation.voxel, "voxel")
        if not voxels.any():
            raise UserError("shape is empty")
        grid = _fill_cube(np.flip(voxels.transpose(0, 2, 1), axis=0), max(RESOLUTIONS))
        location, scale = _model_frame(self.root / annotation.model)
        image, left, top, edge = _crop(self.root, annotation)
        original = np.concatenate(
            [_FLIP @ annotation.rotation @ _TURN, _FLIP @ annotation.translation[:, None]], axis=1
        )
        extrinsics = unit_cube_extrinsics(original[None], _TURN @ location, scale)
        intrinsics = _intrinsics(annotation, left, top, len(image) / edge)[None]
        points = (np.argwhere(grid) + 0.5) / len(grid) - 0.5
        check_views(points, extrinsics, intrinsics, [(len(image),) * 2], least=0.5)
        return Sample(
            id=item.id,
            category=item.category,
            images=[encode_png(image)],
            extrinsics=extrinsics,
            intrinsics=intrinsics,
            voxels={resolution: _coarsen(grid, resolution) for resolution in RESOLUTIONS},
            location=_TURN @ location,
            scale=scale,
        )

    def _add(self, number: int, entry: dict[str, Any], seen: set[str]) -> None:
        try:
            annotation = _read_annotation(entry)
            category, hidden = str(entry["category"]), _hidden(entry)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            self.skipped[f"annotation {number}"] = f"is incomplete or invalid ({error!r})"
            return
        id = annotation.image.removeprefix("img/")
        if id in seen:
            self.skipped[f"annotation {number}"] = f"is a second annotation of {annotation.image}"
        elif hidden:
            self.skipped[id] = f"is {hidden}"
        else:
            self.items.append(Item(id, category, "test"))
            self._annotations.append(annotation)
        seen.add(id)


def _read_annotation(entry: dict[str, Any]) -> _Annotation:
    image, mask, voxel, model = (_relative(entry[key]) for key in ("img", "mask", "voxel", "model"))
    width, height = map(int, _numbers(entry["img_size"], 2))
    left, top, right, bottom = _numbers(entry["bbox"], 4).tolist()
    annotation = _Annotation(
        image,
        mask,
        voxel,
        model,
        size=(width, height),
        box=(left, top, right, bottom),
        rotation=_numbers(entry["rot_mat"], 3, 3),
        translation=_numbers(entry["trans_mat"], 3),
        focal_length=float(_numbers(entry["focal_length"])),
    )
    if not np.allclose(annotation.rotation @ annotation.rotation.T, np.eye(3), atol=1e-3):
        raise ValueError("rot_mat is not a rotation")
    if annotation.focal_length <= 0 or min(annotation.size) <= 0:
        raise ValueError("focal_length and img_size must be positive")
    return annotation


def _relative(text: str) -> str:
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{text} is outside the folder")
    return str(path)


def _numbers(value: Any, *shape: int) -> np.ndarray:
    numbers = np.array(value, dtype=np.float64)
    if numbers.shape != shape or not np.isfinite(numbers).all():
        raise ValueError(f"{value} is not an array of finite numbers {shape}")
    return numbers


def _hidden(entry: dict[str, Any]) -> str:
    """Why only a part of the object is visible. Empty if all of it is."""
    found = [key for key in _HIDDEN if entry.get(key) in (True, "true")]
    return found[0].replace("_", " ") if found else ""


def _fill_cube(grid: np.ndarray, resolution: int) -> np.ndarray:
    """Scales a grid so that its occupied cells fill the cube (R, R, R), by nearest neighbor.

    A grid of that resolution whose occupied cells already fill it stays unchanged.
    """
    cells = np.argwhere(grid)
    low, high = cells.min(0), cells.max(0) + 1
    edge = (high - low).max()
    line = (np.arange(resolution) + 0.5) / resolution * edge
    places = [np.floor(start + line).astype(int) for start in (low + high - edge) / 2]
    inside = [(axis >= 0) & (axis < size) for axis, size in zip(places, grid.shape, strict=True)]
    filled = np.zeros((resolution,) * 3, dtype=bool)
    kept = [axis[mask] for axis, mask in zip(places, inside, strict=True)]
    filled[np.ix_(*inside)] = grid[np.ix_(*kept)]
    return filled


def _coarsen(grid: np.ndarray, resolution: int) -> np.ndarray:
    """Coarsens a grid to (R, R, R). Cells with any occupied part are occupied, for thin parts."""
    factor = len(grid) // resolution
    blocks = grid.reshape((resolution, factor) * 3)
    return np.any(blocks, axis=(1, 3, 5))


@lru_cache(maxsize=64)  # consecutive photographs often show the same model
def _model_frame(path: Path) -> tuple[np.ndarray, float]:
    """Center and longest edge of a model's bounding box."""
    lines = [line.split()[1:4] for line in read_bytes(path).splitlines() if line.startswith(b"v ")]
    try:
        vertices = np.array(lines, dtype=np.float64)
    except ValueError as error:
        raise UserError(f"{path.name} has an invalid vertex ({describe_error(error)})") from None
    if vertices.ndim != 2 or vertices.shape[1] != 3 or not np.isfinite(vertices).all():
        raise UserError(f"{path.name} has no vertices, or vertices that are not finite")
    low, high = vertices.min(0), vertices.max(0)
    if not (high > low).any():
        raise UserError(f"{path.name} has no extent: all vertices are at one point")
    return (low + high) / 2, float((high - low).max())


def _crop(root: Path, annotation: _Annotation) -> tuple[np.ndarray, int, int, int]:
    """The cropped image (S, S, 3) uint8 RGB, and the left, top and edge of its square."""
    photograph = _open(root / annotation.image, "RGB", annotation.size)
    mask = _open(root / annotation.mask, "L", annotation.size)
    width, height = annotation.size
    x0, y0, x1, y1 = np.clip(annotation.box, 0, [width, height, width, height])
    if x1 <= x0 or y1 <= y0:
        raise UserError(f"bbox {list(annotation.box)} is empty in an image of {width}x{height}")
    edge = int(np.ceil(max(x1 - x0, y1 - y0) / _BOX_SHARE))
    left, top = round((x0 + x1 - edge) / 2), round((y0 + y1 - edge) / 2)
    square = (left, top, left + edge, top + edge)
    if mask.crop(square).getextrema()[1] == 0:
        raise UserError(f"{Path(annotation.mask).name} is empty around bbox {list(annotation.box)}")
    white = Image.new("RGB", (edge, edge), (255, 255, 255))
    image = Image.composite(photograph.crop(square), white, mask.crop(square))
    if edge > _LARGEST_IMAGE:
        image = image.resize((_LARGEST_IMAGE,) * 2, Image.Resampling.BILINEAR)
    return np.asarray(image), left, top, edge


def _open(path: Path, mode: str, size: tuple[int, int]) -> Image.Image:
    try:
        with Image.open(path) as image:
            converted = image.convert(mode)
    except FileNotFoundError:
        raise UserError(f"{path.name} is missing") from None
    except Exception as error:  # decoders raise many kinds of errors on damaged files
        reason = describe_error(error)
        raise UserError(f"{path.name} cannot be read as an image ({reason})") from None
    if converted.size != size:
        raise UserError(f"{path.name} has the size {converted.size}, but pix3d.json says {size}")
    return converted


def _intrinsics(annotation: _Annotation, left: int, top: int, ratio: float) -> np.ndarray:
    """Camera matrix (3, 3) of the square, scaled by `ratio` pixels per pixel of the photograph."""
    width, height = annotation.size
    focal = annotation.focal_length / _SENSOR_WIDTH * width
    x, y = width / 2 - left, height / 2 - top
    matrix = np.array([[focal, 0.0, x], [0.0, focal, y], [0.0, 0.0, 1.0]])
    matrix[:2] *= ratio
    return matrix


FORMAT = Format(
    help="photographs of Pix3D, for testing only",
    add_arguments=add_published_folder,
    make_source=lambda options: Pix3DSource(options.root),
)

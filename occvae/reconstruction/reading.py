"""Reads the files of an object as what a model observes: images, a point cloud, a voxel grid."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from occvae.data.readers.voxel_files import read_voxel_file
from occvae.errors import UserError
from occvae.models.inputs import prepare_for
from occvae.models.protocol import Model
from occvae.observations.drawing import draw_observation
from occvae.observations.kinds import Mixture, Observation, PointCloud, VoxelGrid
from occvae.observations.scans import ENDINGS, load_scan
from occvae.reconstruction.file_kinds import Kind, file_kind
from occvae.reconstruction.files import Frame
from occvae.reconstruction.settings import ReconstructionSettings

CUT_OUT = "cut the object out with --background rembg, or accept the image with --background keep"
"""What to do about an image whose background is not removed."""
_DRAWN_SIZE = 224


class ObservedObject(NamedTuple):
    """An object as a model observes it."""

    name: str
    """Path of its first file."""
    arrays: dict[str, np.ndarray]
    """`images` (V, S, S, 3) uint8, `points` (N, 3) float32 in the unit cube, `voxels` (R, R, R)
    float32 in [0, 1], or several of them."""
    seen: np.ndarray
    """(V, S, S, 3) uint8: the images, and a drawing of the points or voxels."""
    notes: list[str]
    """What was done to the files, in phrases."""
    output: Path
    """Mesh file to write."""
    frame: Frame | None = None
    """Coordinates of the mesh; None for the unit cube."""
    warnings: tuple[str, ...] = ()
    """Why backgrounds were not removed, one per image, each with the path of the image."""

    @property
    def shapes(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Names and shapes of the arrays. Objects with the same ones fit into a batch."""
        return tuple((name, array.shape) for name, array in self.arrays.items())


def read_object(
    files: Sequence[str | Path], output: Path, model: Model, settings: ReconstructionSettings
) -> ObservedObject:
    """Reads the files of an object.

    Args:
        files: Images of the object, one scan, or one file with a voxel grid. Models of mixtures
            take several of them.
        output: Mesh file to write.
        model: Its observation determines what the files must be.
        settings: How images and scans are treated.

    Raises:
        UserError: A file cannot be read, or is not what the model observes.
    """
    observation = model.observation
    if isinstance(observation, PointCloud):
        return _read_scan(Path(files[0]), output, model, observation, settings)
    if isinstance(observation, VoxelGrid):
        return _read_grid(Path(files[0]), output, model, observation)
    if isinstance(observation, Mixture):
        return _read_mixture(files, output, model, observation, settings)
    return _read_images(files, output, model, settings)


def to_batch(
    objects: Sequence[ObservedObject], device: torch.device, observation: Observation
) -> Tensor | dict[str, Tensor]:
    """Returns objects with arrays of the same shapes as a batch of the observation on a device."""
    batch = {}
    for name in objects[0].arrays:
        batch[name] = torch.from_numpy(np.stack([item.arrays[name] for item in objects])).to(device)
    if "images" in batch:
        batch["images"] = batch["images"].permute(0, 1, 4, 2, 3).float() / 255.0
    if isinstance(observation, Mixture):
        return batch
    [tensor] = batch.values()
    return tensor


def _read_mixture(
    files: Sequence[str | Path],
    output: Path,
    model: Model,
    observation: Mixture,
    settings: ReconstructionSettings,
) -> ObservedObject:
    """Reads images, at most one scan and at most one grid. A scan determines the coordinates."""
    paths = _by_kind(files, model, observation)
    parts = []
    if "images" in paths:
        parts.append(_read_images(paths["images"], output, model, settings))
    if "points" in paths and observation.points is not None:
        parts.append(_read_scan(paths["points"][0], output, model, observation.points, settings))
    if "voxels" in paths and observation.voxels is not None:
        parts.append(_read_grid(paths["voxels"][0], output, model, observation.voxels))
    return ObservedObject(
        str(files[0]),
        {name: array for part in parts for name, array in part.arrays.items()},
        np.concatenate([_fitted(part.seen, len(parts[0].seen[0])) for part in parts]),
        [note for part in parts for note in part.notes],
        output,
        next((part.frame for part in parts if part.frame is not None), None),
        warnings=tuple(text for part in parts for text in part.warnings),
    )


def _by_kind(
    files: Sequence[str | Path], model: Model, observation: Mixture
) -> dict[Kind, list[Path]]:
    """The files of an object by kind.

    Raises:
        UserError: The model does not observe a kind, or there are several scans or grids.
    """
    paths: dict[Kind, list[Path]] = {}
    for file in files:
        kind = file_kind(file)
        if kind not in observation.kinds():
            observed = ", ".join(observation.kinds())
            raise UserError(f"{file}: {model.arch} observes {observed}, not {kind}")
        paths.setdefault(kind, []).append(Path(file))
    for kind, noun in (("points", "scan"), ("voxels", "voxel grid")):
        if len(several := paths.get(kind, [])) > 1:
            raise UserError(f"{several[1]}: an object has one {noun}, but {several[0]} is another")
    return paths


def _fitted(tiles: np.ndarray, size: int) -> np.ndarray:
    """Resizes images (V, S, S, 3) to (V, size, size, 3)."""
    if tiles.shape[1] == size:
        return tiles
    resized = [Image.fromarray(tile).resize((size, size)) for tile in tiles]
    return np.stack([np.asarray(image) for image in resized])


def _read_scan(
    path: Path,
    output: Path,
    model: Model,
    observation: PointCloud,
    settings: ReconstructionSettings,
) -> ObservedObject:
    if path.suffix.lower() not in ENDINGS:
        raise UserError(
            f"{path}: {model.arch} observes point clouds ({', '.join(ENDINGS)}); give one, or "
            "name a model of images with --model"
        )
    scan = load_scan(path, num_points=observation.num_points, box=settings.box, seed=settings.seed)
    notes = list(scan.notes)
    if len(scan.points) < observation.num_points:
        notes.append(
            f"only {len(scan.points)} points, fewer than the {observation.num_points} in training"
        )
    notes.append("the mesh has the coordinates of the scan")
    seen = _draw(observation, scan.points)
    frame = Frame(scan.location, scan.scale)
    return ObservedObject(str(path), {"points": scan.points}, seen, notes, output, frame)


def _read_grid(path: Path, output: Path, model: Model, observation: VoxelGrid) -> ObservedObject:
    voxels = read_voxel_file(path)["voxels"]
    edge = observation.resolution
    if voxels.shape != (1, edge, edge, edge):
        shape = " x ".join(map(str, voxels.shape))
        raise UserError(f"{path}: {model.arch} observes one voxel grid of {edge}^3, got {shape}")
    if voxels.dtype.kind not in "biuf":
        raise UserError(f"{path}: voxels must be numbers, got {voxels.dtype}")
    grid = np.array(voxels[0], np.float32)
    if not ((grid >= 0) & (grid <= 1)).all():
        raise UserError(f"{path}: voxels must be occupancies from 0 to 1")
    if not (grid >= 0.5).any():
        raise UserError(f"{path}: no voxel is occupied")
    notes = _off_center(grid >= 0.5)
    return ObservedObject(str(path), {"voxels": grid}, _draw(observation, grid), notes, output)


def _off_center(occupied: np.ndarray) -> list[str]:
    """A note if the box of the occupied voxels is not centered, as it is in training."""
    cells = np.argwhere(occupied)
    offset = (cells.min(0) + cells.max(0) + 1 - len(occupied)) / 2
    if (np.abs(offset) <= 1).all():
        return []
    words = ", ".join(f"{value:g}" for value in offset)
    return [f"the occupied voxels are off the center of the grid by ({words}) cells"]


def _draw(observation: Observation, array: np.ndarray) -> np.ndarray:
    return np.stack(draw_observation(observation, torch.from_numpy(array)[None], _DRAWN_SIZE))


def _read_images(
    images: Sequence[str | Path], output: Path, model: Model, settings: ReconstructionSettings
) -> ObservedObject:
    for image in images:
        if Path(image).suffix.lower() in ENDINGS:
            raise UserError(
                f"{image}: {model.arch} observes images; for a point cloud, name a model such as "
                "onet-points with --model"
            )
    prepared = [prepare_for(model, image, settings.background) for image in images]
    for image, view in zip(images, prepared, strict=True):
        if view.warning and settings.strict:
            raise UserError(f"{image}: {view.warning}; {CUT_OUT}")
    warnings = tuple(
        f"{image}: {view.warning}"
        for image, view in zip(images, prepared, strict=True)
        if view.warning
    )
    notes = list(dict.fromkeys(view.note for view in prepared if view.note))
    pixels = np.stack([view.pixels for view in prepared])
    return ObservedObject(
        str(images[0]), {"images": pixels}, pixels, notes, output, warnings=warnings
    )

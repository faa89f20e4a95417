"""Writes shapes that no file shows: samples of a model, and steps between two objects."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from occvae.errors import UserError
from occvae.geometry.mesh_checks import check_mesh
from occvae.models.inference import check_threshold
from occvae.models.latent_occupancy import ImplicitLatentModel
from occvae.models.protocol import GenerativeModel, ImplicitModel, Model
from occvae.ops.validation import suitable_coarse_resolution
from occvae.reconstruction.mesh_writer import mesh_files, write_mesh
from occvae.reconstruction.paths import FORMATS
from occvae.reconstruction.reading import read_object, to_batch
from occvae.reconstruction.settings import ReconstructionSettings
from occvae.system.atomic_write import check_writable, write_whole
from occvae.system.verbosity import note
from occvae.visualize.rendering import PREDICTION_ALBEDO, orbit_extrinsics, render_views
from occvae.visualize.sheet import make_sheet
from occvae.visualize.turntable import write_animation

if TYPE_CHECKING:
    import trimesh

_TILE, _COLUMNS = 224, 4
_CAMERA = orbit_extrinsics([30.0], [27.5], [1.8])
_MOST_SHAPES = 1000


def write_samples(
    model: Model,
    folder: Path,
    count: int,
    *,
    resolution: int = 128,
    threshold: float | None = None,
    seed: int = 0,
    format: str = "glb",
    overwrite: bool = True,
) -> None:
    """Draws new shapes, and writes their meshes and one sheet with a picture of each.

    Args:
        model: A model from `create_model` or `from_pretrained`.
        folder: Folder of `sample-01.glb`, ... and `samples.png`. It is created if absent.
        count: Number of shapes.
        resolution: Cells along each axis of the meshes.
        threshold: Probability at the surface. None selects the model's own.
        seed: Seed of the shapes.
        format: One of `occvae.reconstruction.FORMATS`.
        overwrite: Whether to replace files that exist.

    Raises:
        UserError: The model does not draw shapes, a setting is invalid, or a file cannot be
            written, or exists and `overwrite` is false.
    """
    if not isinstance(model, GenerativeModel):
        raise UserError(
            f"{model.arch} does not draw new shapes: name a model of occvae, onet-vae or "
            "pix2vox-vae with --model"
        )
    paths = _plan(folder, "sample", count, format, folder / "samples.png", overwrite)
    _check(model, resolution, threshold)
    generator = torch.Generator(model.device).manual_seed(seed)
    meshes = model.sample_meshes(count, resolution, threshold, generator)
    _write_meshes(paths, meshes)
    sheet = make_sheet([_picture(mesh) for mesh in meshes], min(_COLUMNS, count))
    write_whole(folder / "samples.png", sheet.save)
    note(f"pictures: {folder / 'samples.png'}")


def write_interpolation(
    model: Model,
    first: Path,
    second: Path,
    folder: Path,
    steps: int,
    *,
    settings: ReconstructionSettings,
    format: str = "glb",
    overwrite: bool = True,
) -> None:
    """Interpolates between two objects, and writes the meshes and an animation.

    The latents are on the straight line between the means of the two posteriors.

    Args:
        model: A model with a latent that reads files.
        first: Image, scan or voxel grid of the object at the start.
        second: The same of the object at the end.
        folder: Folder of `step-01.glb`, ... and `interpolation.gif`. It is created if absent.
        steps: Number of meshes, both ends included.
        settings: Resolution, threshold, and how images and scans are read.
        format: One of `occvae.reconstruction.FORMATS`.
        overwrite: Whether to replace files that exist.

    Raises:
        UserError: The model has no latent or reads no files, a setting is invalid, a file cannot be
            read or written, or exists and `overwrite` is false.
    """
    if not isinstance(model, ImplicitLatentModel):
        raise UserError(
            f"{model.arch} has no latent to interpolate: name a model of occvae with --model"
        )
    settings.check_files(model)
    animation = folder / "interpolation.gif"
    paths = _plan(folder, "step", steps, format, animation, overwrite)
    _check(model, settings.resolution, settings.threshold)
    ends = [_encode(model, file, folder, settings) for file in (first, second)]
    weights = torch.linspace(0.0, 1.0, steps, device=model.device)[:, None]
    latents = torch.lerp(ends[0], ends[1], weights)
    meshes = model.mesh_latents(latents, settings.resolution, settings.threshold)
    _write_meshes(paths, meshes)
    frames = [_picture(mesh) for mesh in meshes]
    there_and_back = np.stack(frames + frames[-2:0:-1])
    write_whole(animation, lambda path: write_animation(path, there_and_back, 150))
    note(f"animation: {animation}")


@torch.no_grad()
def _encode(
    model: ImplicitLatentModel, file: Path, folder: Path, settings: ReconstructionSettings
) -> torch.Tensor:
    """The mean of the posterior (1, D) of a file."""
    item = read_object([file], folder, model, settings)
    return model.eval().encode(to_batch([item], model.device, model.observation))


def _check(model: Model, resolution: int, threshold: float | None) -> None:
    if threshold is not None:
        check_threshold(threshold)
    try:
        if isinstance(model, ImplicitModel):
            suitable_coarse_resolution(resolution)
    except ValueError as error:
        raise UserError(str(error)) from None


def _plan(
    folder: Path, name: str, count: int, format: str, picture: Path, overwrite: bool
) -> list[Path]:
    """Returns the paths of the meshes, once all files are writable and new."""
    if not 1 <= count <= _MOST_SHAPES:
        raise UserError(f"the number of shapes must be from 1 to {_MOST_SHAPES}; got {count}")
    if format not in FORMATS:
        raise UserError(f"unknown mesh format {format!r}; choose from {', '.join(FORMATS)}")
    paths = [folder / f"{name}-{number + 1:02d}.{format}" for number in range(count)]
    for path in [picture, *(file for mesh in paths for file in mesh_files(mesh))]:
        check_writable(path)
        if path.exists() and not overwrite:
            raise UserError(f"{path} exists; replace it with -o {folder}, or give another folder")
    return paths


def _write_meshes(paths: list[Path], meshes: list[trimesh.Trimesh]) -> None:
    for path, mesh in zip(paths, meshes, strict=True):
        if not len(mesh.faces):
            note(f"{path}: no surface at this threshold, not written")
            continue
        write_mesh(path, mesh, path.stem)
        note(f"{path} ({len(mesh.faces)} faces, {check_mesh(mesh.vertices, mesh.faces)})")


def _picture(mesh: trimesh.Trimesh) -> Any:
    return render_views(mesh.vertices, mesh.faces, _CAMERA, _TILE, PREDICTION_ALBEDO)[0]

"""Pictures to mesh files, each with a preview beside it."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from occvae.data.images import load_image
from occvae.data.rendering import orbit_extrinsics, render_views
from occvae.errors import UserError
from occvae.meshing import ProgressBar

FORMATS = ("glb", "obj", "ply", "stl", "off")
_PREVIEW_SIZE = 224


def output_paths(images: list[str], output: str) -> list[Path]:
    """Where the mesh of each object goes, each named by its (first) picture.

    The file itself for one, a folder for several.
    """
    path = Path(output)
    suffix = path.suffix.lower().lstrip(".")
    if len(images) == 1 and suffix in FORMATS:
        return [path]
    if len(images) == 1 and suffix and not path.is_dir():
        raise UserError(f"{output}: unknown mesh format; choose from .{', .'.join(FORMATS)}")
    if suffix in FORMATS:
        raise UserError(
            f"{output}: {len(images)} pictures make {len(images)} meshes; give a folder"
        )
    names = [Path(image).stem for image in images]
    if len(set(names)) < len(names):
        raise UserError(f"{output}: pictures of the same name would overwrite each other's mesh")
    return [path / f"{name}.glb" for name in names]


def reconstruct_files(
    model,
    images: list[list[str]],
    outputs: list[Path],
    *,
    resolution: int,
    threshold: float | None,
    device: torch.device,
    blocks: bool = False,
) -> None:
    """Reconstructs objects from their pictures, and writes meshes and previews.

    Args:
        model: with `reconstruct` and `image_size`.
        images: picture files of each object.
        outputs: mesh files, of the format their suffix says; a .preview.png goes beside each.
        resolution: cells along each axis.
        threshold: probability of the surface; None takes the model's own.
        device: to compute on.
        blocks: a cube for each voxel, of models that make voxels.

    Raises:
        UserError: a picture cannot be read, the model refuses an argument, or there is no surface
            at that threshold, or memory runs out.
    """
    if blocks and model.target != "voxels":
        raise UserError(f"{model.arch} makes no voxels, so it has no blocks")
    options = {"blocks": True} if blocks else {}
    pictures = [
        np.stack([load_image(image, model.image_size) for image in views]) for views in images
    ]
    model = model.to(device).eval()
    for (image, *_), views, output in zip(images, pictures, outputs, strict=True):
        batch = torch.from_numpy(views.transpose(0, 3, 1, 2).copy())[None].to(device)
        bar = ProgressBar(image)
        try:
            [mesh] = model.reconstruct(
                batch.float() / 255.0, resolution, threshold, progress=bar, **options
            )
        except (ValueError, MemoryError) as error:
            raise UserError(f"{image}: {error}") from None
        except torch.OutOfMemoryError:
            raise UserError(
                f"{image}: {device} is out of memory; try a lower --resolution"
            ) from None
        finally:
            bar.close()
        if len(mesh.faces) == 0:
            raise UserError(f"{image}: the model sees no surface here; try a lower --threshold")
        output.parent.mkdir(parents=True, exist_ok=True)
        _write(output, mesh.export)
        # Not merely .png: that may be the very picture.
        preview = output.with_suffix(".preview.png")
        _write(preview, _preview(load_image(image, _PREVIEW_SIZE), mesh).save)
        print(f"{image} -> {output} ({len(mesh.faces)} faces), {preview}")


def _write(path: Path, save: Callable[[Path], object]) -> None:
    """Saves a file whole or, whatever interrupts it, not at all; `save` goes by the suffix."""
    temporary = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        save(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _preview(picture: np.ndarray, mesh) -> Image.Image:
    """The input and four views around the mesh."""
    cameras = orbit_extrinsics(
        np.array([30.0, 120.0, 210.0, 300.0]), np.full(4, 27.5), np.full(4, 1.8)
    )
    views = render_views(mesh.vertices, mesh.faces, cameras, _PREVIEW_SIZE, (0.45, 0.62, 0.80))
    return Image.fromarray(np.concatenate([picture, *views], axis=1))

"""Writes previews and turntables, and names all files of an object.

A file is complete or does not exist.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from occvae.reconstruction.mesh_writer import mesh_files
from occvae.system.atomic_write import write_whole
from occvae.visualize.rendering import orbit_extrinsics, render_views
from occvae.visualize.sheet import make_sheet
from occvae.visualize.turntable import mesh_albedo, write_turntable

if TYPE_CHECKING:
    import trimesh

_TILE = 224
_MOST_SEEN, _MOST_ROWS = 4, 8


class Frame(NamedTuple):
    """Coordinates of a scan: unit * scale + location."""

    location: np.ndarray
    """(3,) float64."""
    scale: float


def hypothesis_paths(output: Path, count: int | None) -> list[Path]:
    """Returns numbered paths for hypotheses (chair-1.glb, ...), or the path itself for None."""
    if count is None:
        return [output]
    return [output.with_name(f"{output.stem}-{i + 1}{output.suffix}") for i in range(count)]


def planned_files(output: Path, num_samples: int | None, turntable: str | None) -> list[Path]:
    """Returns the files of an object: meshes, turntables and the preview.

    Args:
        output: Path of the mesh.
        num_samples: As in `ReconstructionSettings`.
        turntable: As in `ReconstructionSettings`.
    """
    meshes = hypothesis_paths(output, num_samples)
    turntables = [_turntable_path(mesh, turntable) for mesh in meshes] if turntable else []
    files = [file for mesh in meshes for file in mesh_files(mesh)]
    return [*files, *turntables, _preview_path(output)]


def place(mesh: trimesh.Trimesh, frame: Frame) -> trimesh.Trimesh:
    """Returns a mesh of the unit cube in the coordinates of a scan."""
    placement = np.diag([frame.scale, frame.scale, frame.scale, 1.0])
    placement[:3, 3] = frame.location
    return mesh.copy().apply_transform(placement)


def write_previews(output: Path, pixels: np.ndarray, meshes: list[trimesh.Trimesh]) -> Path:
    """Writes a PNG with what the model saw and four views around each mesh.

    Args:
        output: Path of the mesh. The preview has the same name with the suffix .preview.png.
        pixels: (V, S, S, 3) uint8, the images that the model saw, or a drawing of the point
            cloud. The first four are shown.
        meshes: Meshes of the object, one row each. The first eight are shown.

    Returns:
        Path of the preview.
    """
    path = _preview_path(output)
    write_whole(path, preview_image(pixels, meshes).save)
    return path


def write_turntables(paths: list[Path], meshes: list[trimesh.Trimesh], kind: str) -> list[Path]:
    """Writes a turntable beside each mesh.

    Args:
        paths: Paths of the meshes.
        meshes: The meshes.
        kind: "gif" or "png", see `occvae.visualize.turntable`.

    Returns:
        Paths of the turntables.
    """
    turntables = [_turntable_path(path, kind) for path in paths]
    for turntable, mesh in zip(turntables, meshes, strict=True):

        def save(file: Path, mesh: trimesh.Trimesh = mesh) -> None:
            write_turntable(file, mesh)

        write_whole(turntable, save)
    return turntables


def _preview_path(output: Path) -> Path:
    # The suffix .png alone could overwrite the input image.
    return output.with_suffix(".preview.png")


def _turntable_path(mesh: Path, kind: str) -> Path:
    return mesh.with_suffix(f".turntable.{kind}")


def preview_image(pixels: np.ndarray, meshes: list[trimesh.Trimesh]) -> Image.Image:
    """Renders the image that `write_previews` writes, from the same arguments.

    There is one row per mesh, with four views around it. The input images are left of the first
    row.
    """
    seen = [
        np.asarray(Image.fromarray(view).resize((_TILE, _TILE), Image.Resampling.BILINEAR))
        for view in pixels[:_MOST_SEEN]
    ]
    cameras = orbit_extrinsics(
        np.array([30.0, 120.0, 210.0, 300.0]), np.full(4, 27.5), np.full(4, 1.8)
    )
    beside = [np.full_like(seen[0], 255)] * len(seen)
    tiles: list[np.ndarray] = []
    for mesh in meshes[:_MOST_ROWS]:
        tiles += beside if tiles else seen
        tiles += [*render_views(mesh.vertices, mesh.faces, cameras, _TILE, mesh_albedo(mesh))]
    return make_sheet(tiles, len(seen) + len(cameras))

"""Turntables: views all around a mesh, as an animated GIF or as a strip in one PNG."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from occvae.errors import UserError
from occvae.visualize.rendering import PREDICTION_ALBEDO, orbit_extrinsics, render_views
from occvae.visualize.sheet import make_sheet

if TYPE_CHECKING:
    import trimesh

# Frames per turn, by kind of file.
KINDS = {"gif": 36, "png": 12}
# From this distance the whole unit cube is visible from all sides.
_ELEVATION, _DISTANCE = 25.0, 2.2
_MILLISECONDS = 90  # per frame: a turn takes about three seconds


def turntable_frames(mesh: trimesh.Trimesh, num_frames: int, size: int = 224) -> np.ndarray:
    """Renders views around +y at equal angles, starting at the front (+z). Deterministic.

    Args:
        mesh: lies within [-0.55, 0.55]^3.
        num_frames: F, the number of views.
        size: S, the edge of a frame in pixels.

    Returns:
        (F, S, S, 3) uint8 RGB.
    """
    azimuths = np.arange(num_frames) * (360.0 / num_frames)
    heights, distances = np.full(num_frames, _ELEVATION), np.full(num_frames, _DISTANCE)
    cameras = orbit_extrinsics(azimuths, heights, distances)
    return render_views(mesh.vertices, mesh.faces, cameras, size, mesh_albedo(mesh))


def mesh_albedo(mesh: trimesh.Trimesh) -> np.ndarray:
    """Returns the color of each face (F, 3), or one for all (3,) if vertices have no colors."""
    visual: Any = mesh.visual
    if visual.kind != "vertex":
        return np.asarray(PREDICTION_ALBEDO)
    return np.asarray(visual.vertex_colors)[mesh.faces, :3].mean(axis=1) / 255.0


def write_turntable(path: str | Path, mesh: trimesh.Trimesh, size: int = 224) -> None:
    """Writes a GIF that repeats forever or a PNG strip. The suffix decides which.

    Args:
        path: ends in .gif or .png.
        mesh: see `turntable_frames`.
        size: edge of a frame in pixels.

    Raises:
        UserError: the path has another suffix.
    """
    kind = Path(path).suffix.lower().lstrip(".")
    if kind not in KINDS:
        raise UserError(f"{path}: a turntable must end in .{' or .'.join(KINDS)}")
    frames = turntable_frames(mesh, KINDS[kind], size)
    if kind == "png":
        make_sheet([*frames], len(frames)).save(path)
        return
    write_animation(path, frames, _MILLISECONDS)


def write_animation(path: str | Path, frames: np.ndarray, milliseconds: int) -> None:
    """Writes a GIF that repeats forever.

    Args:
        path: ends in .gif.
        frames: (F, S, S, 3) uint8 renderings with few shades.
        milliseconds: duration of a frame.
    """
    # One palette for all frames avoids flicker. It is enough, because the frames have few shades of
    # one color, or of the colors from gray to red.
    palette = make_sheet([*frames[:: max(1, len(frames) // 8)]], 1).quantize(255)
    first, *others = [
        Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
        for frame in frames
    ]
    first.save(path, save_all=True, append_images=others, duration=milliseconds, loop=0)

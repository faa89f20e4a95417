"""extract_mesh(): from an implicit function to triangle meshes in world units."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

import torch

from occvae.ops.marching_cubes import import_mcubes, marching_cubes, require_memory
from occvae.ops.mise import Field, Progress, check_resolutions, mise
from occvae.sparse_grid import DEFAULT_BOUNDS

if TYPE_CHECKING:
    import trimesh


def extract_mesh(
    field: Field,
    *,
    resolution: int = 256,
    coarse_resolution: int = 32,
    level: float = 0.0,
    num_shapes: int = 1,
    bounds: tuple[float, float] = DEFAULT_BOUNDS,
    max_points_per_call: int = 262_144,
    device: torch.device | str | None = None,
    backend: str = "auto",
    progress: Progress | None = None,
) -> list[trimesh.Trimesh]:
    """One closed mesh a shape: mise() and then marching_cubes(); the arguments are those of mise().

    Meshes are watertight with faces counter-clockwise seen from outside. Vertices are as marching
    cubes made them, shared between triangles, and nothing is merged or removed afterwards. A
    surface that leaves the bounds is closed there. A shape without a surface gives an empty mesh.

    Returns:
        `num_shapes` trimesh.Trimesh in the world units of `bounds`.

    Raises:
        ValueError, TypeError, RuntimeError: as mise().
        MemoryError: the dense grid of marching cubes would not fit; said before the field is used.
        ImportError: trimesh or PyMCubes is not installed; said before the field is used.

    Example:
        >>> (ball,) = extract_mesh(lambda points, shape: 0.4 - points.norm(dim=1), resolution=64)
        >>> ball.is_watertight
        True
    """
    trimesh = _import_trimesh()
    import_mcubes()
    resolution, coarse_resolution = check_resolutions(resolution, coarse_resolution)
    require_memory(resolution)
    grid = mise(
        field,
        resolution=resolution,
        coarse_resolution=coarse_resolution,
        level=level,
        num_shapes=num_shapes,
        bounds=bounds,
        max_points_per_call=max_points_per_call,
        device=device,
        backend=backend,
        progress=progress,
    )
    return [
        trimesh.Trimesh(vertices.cpu().numpy(), faces.cpu().numpy(), process=False)
        for vertices, faces in marching_cubes(grid)
    ]


def _import_trimesh() -> ModuleType:
    try:
        import trimesh
    except ImportError:
        raise ImportError("extract_mesh needs trimesh: pip install trimesh") from None
    return trimesh

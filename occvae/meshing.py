"""extract_mesh(): from an implicit function to triangle meshes in world units."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

import torch

from occvae.ops.evaluator import Field, Progress
from occvae.ops.marching_cubes import check_memory, marching_cubes
from occvae.ops.mise import check_resolutions, mise
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
    refine_vertices: int = 0,
) -> list[trimesh.Trimesh]:
    """One closed mesh a shape: mise() and then marching_cubes(), whose arguments these are.

    Meshes are watertight with faces counter-clockwise seen from outside. Vertices are as marching
    cubes made them, shared between triangles, and nothing is merged or removed afterwards. A
    surface that leaves the bounds is closed there. A shape without a surface gives an empty mesh.

    Returns:
        `num_shapes` trimesh.Trimesh in the world units of `bounds`.

    Raises:
        ValueError, TypeError, RuntimeError: as mise().
        MemoryError: what is needed would not fit; as far as known said before the field is used.
        ImportError: trimesh is not installed, or without kernels PyMCubes; said before that too.

    Example:
        >>> (ball,) = extract_mesh(lambda points, shape: 0.4 - points.norm(dim=1), resolution=64)
        >>> ball.is_watertight
        True
    """
    trimesh = _import_trimesh()
    resolution, coarse_resolution = check_resolutions(resolution, coarse_resolution)
    device = torch.get_default_device() if device is None else torch.device(device)
    check_memory(resolution, coarse_resolution, (coarse_resolution + 1) ** 3, device, backend)
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
    meshes = marching_cubes(
        grid,
        field=field,
        refine_vertices=refine_vertices,
        max_points_per_call=max_points_per_call,
        progress=progress,
        backend=backend,
    )
    return [
        trimesh.Trimesh(vertices.cpu().numpy(), faces.cpu().numpy(), process=False)
        for vertices, faces in meshes
    ]


def _import_trimesh() -> ModuleType:
    try:
        import trimesh
    except ImportError:
        raise ImportError("extract_mesh needs trimesh: pip install trimesh") from None
    return trimesh

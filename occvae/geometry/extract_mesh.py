"""extract_mesh(): from an implicit function to triangle meshes in world units."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

import torch
from torch import Tensor

from occvae.ops.caps import cap_normals
from occvae.ops.field import Field, Progress
from occvae.ops.field_normals import field_normals
from occvae.ops.marching_cubes import Mesh, check_memory, marching_cubes
from occvae.ops.mise import mise
from occvae.ops.sparse_grid import DEFAULT_BOUNDS, SparseGrid
from occvae.ops.validation import check_count, check_resolutions

if TYPE_CHECKING:
    import trimesh
    from tqdm import tqdm


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
    normals: bool = False,
) -> list[trimesh.Trimesh]:
    """One closed mesh a shape: mise() and then marching_cubes(), whose arguments these are.

    Meshes are watertight with faces counter-clockwise seen from outside. Vertices are as marching
    cubes made them, shared between triangles, and nothing is merged or removed afterwards. A
    surface that leaves the bounds is closed there. A shape without a surface gives an empty mesh.

    Args:
        progress: as in mise(); `ProgressBar()` shows a bar in the terminal.
        normals: also sets the meshes' vertex_normals, which .glb, .ply and .obj files keep. They
            are minus the direction of the field's gradient: by autograd where the values depend
            differentiably on the points, otherwise by central differences over half a cell to
            either side. Where the gradient is zero or not finite, vertices keep the normal that
            trimesh makes from the faces; where the bounds close the surface, that of the bounds.

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
    refine_vertices = check_count("refine_vertices", refine_vertices, least=0)
    device = torch.get_default_device() if device is None else torch.device(device)
    _check_memory(resolution, coarse_resolution, device, backend)
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
    results = [
        trimesh.Trimesh(vertices.cpu().numpy(), faces.cpu().numpy(), process=False)
        for vertices, faces in meshes
    ]
    if normals:
        first_round = len(grid.rounds) + refine_vertices
        found = _normals(grid, meshes, field, max_points_per_call, progress, first_round)
        for result, directions in zip(results, found, strict=True):
            if len(directions):  # trimesh refuses none
                _set_normals(result, directions)
    return results


def _check_memory(
    resolution: int, coarse_resolution: int, device: torch.device, backend: str
) -> None:
    """MemoryError where not even the coarse lattice could be marched; before the field is used."""
    resolution, coarse_resolution = check_resolutions(resolution, coarse_resolution)
    first = (coarse_resolution + 1) ** 3
    check_memory(resolution, first, device, backend, min(first, (resolution // 8 + 1) ** 3))


def _normals(
    grid: SparseGrid,
    meshes: list[Mesh],
    field: Field,
    max_points_per_call: int,
    progress: Progress | None,
    first_round: int,
) -> tuple[Tensor, ...]:
    """(V, 3) float64 for each mesh, 0 where the field has no normal; all meshes together."""
    vertices = torch.cat([vertices for vertices, _ in meshes])
    counts = [len(vertices) for vertices, _ in meshes]
    shapes = torch.arange(len(meshes), device=vertices.device)
    shape_index = shapes.repeat_interleave(torch.tensor(counts, device=vertices.device))
    normals = cap_normals(vertices, grid.resolution, grid.bounds)
    within = ~normals.any(1)
    lower, upper = grid.bounds
    normals[within] = field_normals(
        field,
        vertices[within],
        shape_index[within],
        step=0.5 * (upper - lower) / grid.resolution,
        bounds=grid.bounds,
        max_points_per_call=max_points_per_call,
        progress=progress,
        first_round=first_round,
    )
    return normals.split(counts)


def _set_normals(mesh: trimesh.Trimesh, directions: Tensor) -> None:
    normals = directions.cpu().numpy()
    unknown = ~normals.any(axis=1)
    if unknown.any():
        normals[unknown] = mesh.vertex_normals[unknown]
    mesh.vertex_normals = normals  # type: ignore[method-assign]  # a property, decorated twice


class ProgressBar:
    """Shows an extraction's progress on stderr, round by round; nothing where that is no terminal.

    Rounds of less than half a second pass unseen, and a round that is done leaves no trace.

    Example:
        >>> field = lambda points, shape: 0.4 - points.norm(dim=1)
        >>> (ball,) = extract_mesh(field, resolution=64, progress=ProgressBar())
    """

    def __init__(self, label: str = "extract_mesh"):
        self._label = label
        self._bar: tqdm[NoReturn] | None = None
        self._round = -1

    def __call__(self, round_: int, done: int, total: int) -> None:
        if self._bar is None or round_ != self._round:
            self.close()
            self._bar = self._open(round_, total)
        self._bar.update(done - self._bar.n)
        if done == total:
            self.close()

    def close(self) -> None:
        """Takes the bar away; only needed where an extraction was interrupted."""
        if self._bar is not None:
            self._bar.close()
        self._bar, self._round = None, -1

    def _open(self, round_: int, total: int) -> tqdm[NoReturn]:
        from tqdm import tqdm

        self._round = round_
        return tqdm(
            desc=f"{self._label}, round {round_ + 1}",
            total=total,
            unit=" points",
            unit_scale=True,
            leave=False,
            delay=0.5,
            disable=None,
        )


def _import_trimesh() -> ModuleType:
    try:
        import trimesh
    except ImportError:
        raise ImportError("extract_mesh needs trimesh: pip install trimesh") from None
    return trimesh

"""marching_cubes(): triangle meshes from a SparseGrid."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from occvae.sparse_grid import SparseGrid, lattice_to_world

# A vertex keeps at least this share of its edge to both of the edge's lattice points. Without it a
# value equal or very close to the level would put up to six vertices on one lattice point, and
# triangles without area between them. The error is at most a thousandth of a cell.
MIN_EDGE_FRACTION = 1e-3


def marching_cubes(grid: SparseGrid, level: float | None = None) -> list[tuple[Tensor, Tensor]]:
    """The surface of each shape of a grid as a closed triangle mesh.

    Marching cubes (Lorensen and Cline 1987) over all cells of the finest lattice. Inside means
    value >= level, exactly, ties and infinite values included; outside the lattice everything is
    outside, which closes surfaces that reach the domain's faces. On an edge between values a and b
    the vertex lies at the zero of the linear interpolation, except that it keeps 0.001 of the edge
    from either end (the middle when both are infinite; next to the finite one when one is).
    Vertices are distinct and shared, triangles counter-clockwise seen from outside. A vertex of a
    cap lies 0.001 cells beyond the bounds.

    Today the topology comes from PyMCubes on a dense array of one byte a lattice point. Points that
    MISE left unknown get the sign of their cell, which is the same for all its known points.

    Args:
        grid: from mise() or SparseGrid.from_dense().
        level: None means grid.level. Another level needs a grid whose every point is known.

    Returns:
        For each shape vertices (V, 3) float32 in world units and faces (F, 3) int64, on the grid's
        device; (0, 3) and (0, 3) where there is no surface.

    Raises:
        ValueError: a level that the grid was not refined for, a grid that lacks points next to its
            surface, NaN values.
        MemoryError: the dense array does not fit in this machine's free memory.
        ImportError: PyMCubes is not installed.
    """
    level = grid.level if level is None else float(level)
    if level != grid.level and grid.coarse_resolution != grid.resolution:
        raise ValueError(
            f"grid was refined at level {grid.level}; got level {level}: call mise(level={level})"
        )
    if grid.values.isnan().any():
        raise ValueError("grid.values must not be NaN")
    require_memory(grid.resolution)
    mcubes = import_mcubes()
    return [_one_shape(grid, shape, level, mcubes) for shape in range(grid.num_shapes)]


def require_memory(resolution: int) -> None:
    """MemoryError when the dense arrays of marching_cubes at this resolution would not fit."""
    # The padded array, the unpadded one and the last step of filling it, one byte a point each.
    needed = 3 * (resolution + 3) ** 3
    available = _available_memory()
    if available is not None and needed > available:
        raise MemoryError(
            f"marching cubes at resolution {resolution} needs {needed / 2**30:.1f} GiB for its "
            f"dense grid, {available / 2**30:.1f} GiB are free: choose a lower resolution"
        )


def _available_memory() -> int | None:
    """Free bytes of main memory, or None where the system does not tell (only Linux does)."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def import_mcubes() -> ModuleType:
    try:
        import mcubes
    except ImportError:
        raise ImportError("marching_cubes needs PyMCubes: pip install PyMCubes") from None
    return mcubes


def _one_shape(
    grid: SparseGrid, shape: int, level: float, mcubes: ModuleType
) -> tuple[Tensor, Tensor]:
    chosen = grid.shape_index == shape
    points = grid.points[chosen]
    # The sign of a float64 difference is exact, whatever the dtype of the values.
    heights = grid.values[chosen].to(torch.float64) - level
    inside = _fill(points, heights >= 0, grid.resolution, grid.coarse_resolution)
    padded = inside.new_zeros([grid.resolution + 3] * 3)
    padded[1:-1, 1:-1, 1:-1] = inside

    # Of PyMCubes we use the topology alone: on an array of 0 and 1 it puts each vertex in the
    # middle of its edge, which tells the edge.
    middles, faces = mcubes.marching_cubes(padded.cpu().numpy(), 0.5)
    middles = torch.from_numpy(middles).to(points.device) - 1
    vertices = _place_vertices(middles, points, heights, grid.resolution)
    vertices = lattice_to_world(vertices, grid.resolution, grid.bounds).to(torch.float32)
    return vertices, torch.from_numpy(faces.astype("int64")).to(points.device)


def _fill(points: Tensor, inside: Tensor, resolution: int, coarse_resolution: int) -> Tensor:
    """(R + 1)^3 bool: `inside` at the known points (M, 3), a consistent sign at the others.

    Level by level, an unknown point copies the next coarser lattice point below it. Both are in the
    closed cube of one leaf, down to that leaf's own corners, and in a leaf that was not split all
    known points have one sign.
    """
    step = resolution // coarse_resolution
    dense = inside.new_zeros([coarse_resolution + 1] * 3)
    while True:
        on_lattice = (points % step == 0).all(1)
        x, y, z = (points[on_lattice] // step).long().unbind(1)
        dense[x, y, z] = inside[on_lattice]
        if step == 1:
            return dense
        step //= 2
        below = torch.arange(2 * len(dense) - 1, device=dense.device) // 2
        for axis in (2, 1, 0):
            dense = dense.index_select(axis, below)


def _place_vertices(middles: Tensor, points: Tensor, heights: Tensor, resolution: int) -> Tensor:
    """(V, 3) float64 lattice positions of the zeros on the edges with the given (V, 3) middles."""
    lower = middles.floor()
    direction = (middles - lower) * 2  # 1 on the axis of the edge, 0 on the others
    # Edges that leave the domain carry the caps: their vertices go to the end inside the domain.
    fraction = (middles < 0).any(1).to(torch.float64)
    within = ((middles >= 0) & (middles <= resolution)).all(1)
    # Without infinities the differences below are numbers; a quarter leaves room for them.
    limit = torch.finfo(torch.float64).max / 4
    ends = torch.cat([lower[within], (lower + direction)[within]]).long()
    first, second = _look_up(ends, points, heights.clamp(-limit, limit), resolution).chunk(2)
    fraction[within] = first / (first - second)
    fraction.clamp_(MIN_EDGE_FRACTION, 1 - MIN_EDGE_FRACTION)
    return lower + fraction[:, None] * direction


def _look_up(wanted: Tensor, points: Tensor, heights: Tensor, resolution: int) -> Tensor:
    """(V,) heights of the lattice points `wanted` (V, 3), which must be among `points` (M, 3)."""
    edge = resolution + 1
    keys, wanted_keys = (
        (lattice[:, 0].long() * edge + lattice[:, 1]) * edge + lattice[:, 2]
        for lattice in (points, wanted)
    )
    keys, order = keys.sort()
    found = torch.searchsorted(keys, wanted_keys).clamp(max=len(keys) - 1)
    missing = int((keys[found] != wanted_keys).count_nonzero())
    if missing:
        raise ValueError(
            f"grid lacks {missing} ends of edges that cross its surface: it is not a complete "
            "result of mise()"
        )
    return heights[order[found]]

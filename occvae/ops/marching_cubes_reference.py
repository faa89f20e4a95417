"""Reference implementation of marching cubes: the topology of PyMCubes on a dense array.

The array has one byte per lattice point. Points that MISE left unknown get the sign of their cell,
which is the same at all known points of the cell.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from occvae.errors import MissingPackageError
from occvae.ops.lattice import Lattice
from occvae.ops.validation import MIN_EDGE_FRACTION


def march_shapes(
    points: Tensor,
    values: Tensor,
    shape_index: Tensor,
    num_shapes: int,
    resolution: int,
    coarse_resolution: int,
    level: float,
    lower: float,
    upper: float,
    with_edges: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Reference implementation of `occvae::marching_cubes`; see `occvae.ops.marching_cubes`."""
    parts = []
    for shape in range(num_shapes):
        chosen = shape_index == shape if num_shapes > 1 else slice(None)
        parts.append(
            march(
                *(points[chosen], values[chosen], resolution, coarse_resolution),
                *(level, lower, upper, with_edges),
            )
        )
    vertices, faces, edges, ends, problems = zip(*parts, strict=True)
    sizes = [[len(vertices), len(faces)] for vertices, faces, *_ in parts]
    return (
        torch.cat(vertices),
        torch.cat(faces),
        torch.cat(edges),
        torch.cat(ends),
        torch.tensor(sizes, device="cpu"),
        torch.stack(problems).sum(0),
    )


def march(
    points: Tensor,
    values: Tensor,
    resolution: int,
    coarse_resolution: int,
    level: float,
    lower: float,
    upper: float,
    with_edges: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Vertices, faces, edges, ends and problems of one shape, as of `occvae::marching_cubes`."""
    outside = int(((points < 0) | (points > resolution)).any(1).count_nonzero())
    if outside:
        return _nothing(points, outside)
    # The sign of a float64 difference is exact, whatever the dtype of the values.
    heights = values.to(torch.float64) - level
    inside = _fill(points, heights >= 0, resolution, coarse_resolution)
    padded = inside.new_zeros([resolution + 3] * 3)
    padded[1:-1, 1:-1, 1:-1] = inside

    # PyMCubes provides the topology only. On an array of 0 and 1 it puts each vertex in the middle
    # of its edge, which identifies the edge.
    middles, faces = import_mcubes().marching_cubes(padded.cpu().numpy(), 0.5)
    middles = torch.from_numpy(middles).to(points.device) - 1
    lows = middles.floor()
    axes = ((middles - lows) * 2).argmax(1).to(torch.int32)
    edges = torch.cat([lows.to(torch.int32), axes[:, None]], 1).view(-1, 4)
    lattice = Lattice(resolution, (lower, upper))
    ends, missing = _heights_of_ends(edges, points, heights, lattice)
    vertices = vertices_on_edges(edges, edge_fractions(edges, ends, lattice), lattice)
    repeated = len(points) - len(points.unique(dim=0))
    problems = torch.tensor([missing, repeated, int(values.isnan().sum()), 0], device="cpu")
    triangles = torch.from_numpy(faces.astype("int64")).to(points.device)
    if not with_edges:
        edges, ends = edges[:0], ends[:0]
    return vertices, triangles, edges, ends, problems


def _nothing(points: Tensor, outside: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    none = points[:0]
    ends = points.new_empty((0, 2), dtype=torch.float64)
    problems = torch.tensor([0, 0, 0, outside], device="cpu")
    return none.float(), none.long(), points.new_empty((0, 4)), ends, problems


def import_mcubes() -> ModuleType:
    """Imports PyMCubes.

    Raises:
        MissingPackageError: it is not installed. It has no wheels for all systems.
    """
    try:
        import mcubes
    except ImportError:
        raise MissingPackageError(
            "marching_cubes needs its kernel, which `occvae info` says how to get, or PyMCubes: "
            "pip install PyMCubes"
        ) from None
    return mcubes


def within_bounds(edges: Tensor, lattice: Lattice) -> Tensor:
    """Whether edges (V, 4) lie within the bounds, (V,) bool. The others carry the caps."""
    lows, axes = edges[:, :3], edges[:, 3].long()
    along = lows.gather(1, axes[:, None])[:, 0]
    return (along >= 0) & (along < lattice.last_along(axes))


def edge_fractions(edges: Tensor, ends: Tensor, lattice: Lattice) -> Tensor:
    """Position of each vertex along its edge, (V,) float64 from 0 to 1.

    Args:
        edges: (V, 4) int32, lower end and axis.
        ends: (V, 2) float64, value - level at both ends.
        lattice: the lattice of the edges and its bounds.
    """
    # Edges that leave the bounds carry the caps. Their vertices go to the end within the bounds.
    fractions = (edges[:, :3] < 0).any(1).to(torch.float64)
    within = within_bounds(edges, lattice)
    # Differences of infinities would be NaN. A quarter of the maximum lets differences stay finite.
    limit = torch.finfo(torch.float64).max / 4
    first, second = ends[within].clamp(-limit, limit).unbind(1)
    fractions[within] = first / (first - second)
    return fractions.clamp(MIN_EDGE_FRACTION, 1 - MIN_EDGE_FRACTION)


def vertices_on_edges(edges: Tensor, fractions: Tensor, lattice: Lattice) -> Tensor:
    """World positions (V, 3) float32 at `fractions` (V,) along edges (V, 4)."""
    positions = edges[:, :3].to(torch.float64)
    positions.scatter_add_(1, edges[:, 3:].long(), fractions[:, None])
    return lattice.to_world(positions).to(torch.float32)


def _fill(points: Tensor, inside: Tensor, resolution: int, coarse_resolution: int) -> Tensor:
    """Dense signs (R + 1)^3 bool: `inside` at known points (M, 3), a consistent sign at others.

    Level by level, an unknown point copies the next coarser lattice point below it. Both points
    are in the closed cube of one leaf. All known points of a leaf have the same sign, because a
    leaf with both signs would have been split.
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


def _heights_of_ends(
    edges: Tensor, points: Tensor, heights: Tensor, lattice: Lattice
) -> tuple[Tensor, int]:
    """Heights (V, 2) float64 at both ends of edges (V, 4), and the number of unknown ends.

    Edges of caps have height 0.
    """
    within = within_bounds(edges, lattice)
    lows = edges[within, :3].long()
    highs = lows.scatter_add(1, edges[within, 3:].long(), torch.ones_like(lows[:, :1]))
    side = lattice.resolution + 1
    keys, wanted = (
        (where[:, 0].long() * side + where[:, 1]) * side + where[:, 2]
        for where in (points, torch.cat([lows, highs]))
    )
    keys, order = keys.sort()
    found = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    missing = int((keys[found] != wanted).count_nonzero())
    ends = heights.new_zeros((len(edges), 2))
    ends[within] = heights[order[found]].view(2, -1).T
    return ends, missing

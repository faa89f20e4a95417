"""Moves the vertices of marching cubes along their edges to where the field equals its level."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from occvae.ops.lattice import Lattice
from occvae.ops.marching_cubes_reference import (
    edge_fractions,
    vertices_on_edges,
    within_bounds,
)
from occvae.ops.validation import MIN_EDGE_FRACTION
from occvae.system.memory import require_memory

# Each step stays at least this share of the bracket away from its ends. Without the margin the
# bracket would hardly shrink where one height is far larger than the other, as with saturated
# logits.
_MARGIN = 0.02
# Peak bytes per vertex beside its edge and ends: mostly brackets and points in float64, and masks.
_VERTEX_BYTES = 450


def refine_vertices(
    evaluate: Callable[[Tensor, Tensor], Tensor],
    edges: Tensor,
    ends: Tensor,
    shape_index: Tensor,
    *,
    steps: int,
    level: float,
    lattice: Lattice,
) -> Tensor:
    """Moves all vertices of all shapes by `steps` steps of root finding along their edges.

    Uses the method of Anderson and Bjorck (1973), a false position that converges fast. The zero
    stays bracketed, so a vertex never leaves its edge. Vertices of caps do not move.

    Args:
        evaluate: (points (N, 3) float64 lattice coordinates, shape_index (N,)) -> (N,) values.
            Called only with points within the bounds.
        edges: (V, 4) int32, lower end and axis.
        ends: (V, 2) float64, value - level at both ends.
        shape_index: (V,) int64.
        steps: calls of `evaluate`, each with all vertices within the domain.
        level: value of the field at the surface.
        lattice: the lattice of the edges and its bounds.

    Returns:
        (V, 3) float32 in world units.

    Raises:
        MemoryError: the vertices would not fit. Raised before the field is called for them.
    """
    require_memory(
        _VERTEX_BYTES * len(edges),
        edges.device,
        f"refinement of {len(edges)} vertices",
        "choose a lower resolution, or refine_vertices=0",
    )
    fractions = edge_fractions(edges, ends, lattice)
    within = within_bounds(edges, lattice)
    if steps and bool(within.any()):
        moving, shapes = edges[within], shape_index[within]
        lows, axes = moving[:, :3].to(torch.float64), moving[:, 3:].long()

        def heights_at(fraction: Tensor) -> Tensor:
            points = lows.scatter_add(1, axes, fraction[:, None])
            return evaluate(points, shapes).to(torch.float64) - level

        root = _find_zeros(heights_at, ends[within], steps)
        fractions[within] = root.clamp(MIN_EDGE_FRACTION, 1 - MIN_EDGE_FRACTION)
    return vertices_on_edges(edges, fractions, lattice)


def _find_zeros(heights_at: Callable[[Tensor], Tensor], ends: Tensor, steps: int) -> Tensor:
    """Approximates a zero in [0, 1] of each of N functions, with `steps` evaluations.

    Args:
        heights_at: maps positions (N,) to the values (N,) of the functions there.
        ends: (N, 2), their values at 0 and 1, one of them inside (>= 0) and one outside.
        steps: calls of `heights_at`.

    Returns:
        Positions (N,) of the zeros.
    """
    # Infinite heights are clamped so that their differences stay finite.
    limit = torch.finfo(torch.float64).max / 4
    # The method reduces the height of an end that stays in place for two steps in a row.
    weights = ends.clamp(-limit, limit)
    bracket = torch.tensor([0.0, 1.0], dtype=ends.dtype, device=ends.device).expand_as(ends).clone()
    starts_inside = ends[:, 0] >= 0
    last = torch.full_like(starts_inside, 2, dtype=torch.int64)
    for _ in range(steps):
        position = _share(weights).clamp(_MARGIN, 1 - _MARGIN)
        where = _between(bracket, position)
        height = heights_at(where).clamp(-limit, limit)
        side = ((height >= 0) != starts_inside).long()  # the end that moves
        moved, kept = side[:, None], 1 - side[:, None]
        factor = 1 - height / weights.gather(1, moved)[:, 0]
        factor = torch.where(factor > 0, factor, 0.5).where(side == last, 1.0)
        weights.scatter_(1, kept, weights.gather(1, kept) * factor[:, None])
        weights.scatter_(1, moved, height[:, None])
        bracket.scatter_(1, moved, where[:, None])
        last = side
    return _between(bracket, _share(weights))


def _between(bracket: Tensor, share: Tensor) -> Tensor:
    """Positions (N,) at a share of brackets (N, 2).

    torch.lerp rounds once on CUDA and on some CPUs, and twice on others. This rounds alike on all.
    """
    low, high = bracket.unbind(1)
    return low + (high - low) * share


def _share(heights: Tensor) -> Tensor:
    """Zeros (N,) in [0, 1] of lines, given their values `heights` (N, 2) at 0 and 1.

    The two values of a line have opposite signs.
    """
    first, second = heights.unbind(1)
    difference = first - second
    return torch.where(difference == 0, 0.5, first / difference)

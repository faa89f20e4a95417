"""Reference implementation of exact MISE in PyTorch, on any device.

Cells of level 0 are those of the coarse lattice. Children of cells of level l are of level l + 1.
Refinement keeps dense arrays over the cells of each level above the finest. The finest lattice
itself is never stored densely: the largest array has (resolution / 2)^3 entries per shape, and all
arrays together take about 0.75 bytes per finest cell and shape.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

from occvae.ops.mise_memory import MiseMemory

# The 27 neighbors of a cell in lexicographic order: 0..12 precede the cell, 13 is the cell itself.
_NEIGHBORS = list(product((-1, 0, 1), (-1, 0, 1), (-1, 0, 1)))
# Bytes per new point while it is marked: int64 indices of the point and of the cells around it.
_WORKING_BYTES = 160
# Points that a split adds, in half edges from the cell's lower corner: 12 middles of edges, 6
# centers of faces and 1 center of the cell. The 8 corners were known before.
_NEW_POINTS = [offset for offset in product((0, 1, 2), (0, 1, 2), (0, 1, 2)) if 1 in offset]


def refine(
    evaluate: Callable[[Tensor, Tensor], Tensor],
    *,
    resolution: int,
    coarse_resolution: int,
    level: float,
    num_shapes: int,
    device: torch.device,
) -> tuple[Tensor, Tensor, Tensor, list[int]]:
    """Evaluates the smallest set of lattice points that is closed under the rule of exact MISE.

    The rule is that of Mescheder et al. (CVPR 2019), section 3.3, made exact. A leaf cell above the
    finest level is split into 8 if its closed cube holds known points on both sides of `level`.
    Points equal to `level` are on both sides. Known points are the coarse lattice and the 27 points
    of every split cell, so points that a finer neighbor added on a leaf's faces and edges count.

    More known points never remove a reason to split. Every order of splitting therefore ends in the
    same set. Here each round splits all leaves that qualify.

    Args:
        evaluate: (points (N, 3) int32 lattice coordinates, shape_index (N,) int64) -> (N,) values
            without NaN. Called once per round, with the new points of all shapes.
        resolution: cells along an edge of the finest lattice, a power of two times
            `coarse_resolution`.
        coarse_resolution: cells along an edge of the coarse lattice.
        level: value that separates the two sides.
        num_shapes: shapes refined together.
        device: device of the points and of the state.

    Returns:
        Points (M, 3) int32, values (M,), shape_index (M,) int64 and the number of points of each
        round.

    Raises:
        MemoryError: the state or the next round would not fit. Raised before evaluating it.
    """
    memory = MiseMemory(resolution, coarse_resolution, num_shapes, device, _WORKING_BYTES)
    depth = (resolution // coarse_resolution).bit_length() - 1
    memory.require_state(num_shapes * _state_bytes(coarse_resolution, depth))
    cells = _Cells(coarse_resolution, depth, num_shapes, device)
    points, shape_index = coarse_lattice(coarse_resolution, 1 << depth, num_shapes, device)
    rounds: list[tuple[Tensor, Tensor, Tensor]] = []
    known = 0
    while len(points):
        values = evaluate(points, shape_index)
        rounds.append((points, values, shape_index))
        if depth == 0:
            break
        # In float64 the comparison is exact for every dtype of the values.
        wide = values.to(torch.float64)
        cells.mark(points, shape_index, wide >= level, wide <= level)
        known += len(points)
        points, shape_index = cells.split_active()
        memory.require_round(known, len(points), values.itemsize)
    all_points, all_values, all_shapes = (torch.cat(parts) for parts in zip(*rounds, strict=True))
    return all_points, all_values, all_shapes, [len(part[0]) for part in rounds]


def coarse_lattice(
    coarse_resolution: int, step: int, num_shapes: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    axis = torch.arange(coarse_resolution + 1, device=device, dtype=torch.int32) * step
    lattice = torch.cartesian_prod(axis, axis, axis)
    shape_index = torch.arange(num_shapes, device=device).repeat_interleave(len(lattice))
    return lattice.repeat(num_shapes, 1), shape_index


def _state_bytes(coarse_resolution: int, depth: int) -> int:
    """Bytes per shape of the arrays of _Cells and of the temporary ones of _active_leaves."""
    edges = [coarse_resolution << level for level in range(depth)]
    arrays = sum(n**3 + (n + 2) ** 3 for n in edges)
    return arrays + (2 * (edges[-1] + 2) ** 3 + 4 * edges[-1] ** 3 if edges else 0)


class _Cells:
    """State of all cells above the finest level, one dense array per level.

    `_split` and `_marks` have a border of one cell around the domain. The border replaces the
    missing neighbors at the domain's faces: it is never split, and its marks are never read.
    """

    def __init__(self, coarse_resolution: int, depth: int, num_shapes: int, device: torch.device):
        self._depth = depth
        edges = [coarse_resolution << level for level in range(depth)]

        def zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        # Cells that exist and have no children.
        self._leaf = [zeros((num_shapes, n, n, n), torch.bool) for n in edges]
        # 0: not split, 1: split in an earlier round, 2: split in this round.
        self._split = [zeros((num_shapes, n + 2, n + 2, n + 2), torch.uint8) for n in edges]
        if depth:
            self._leaf[0].fill_(True)
            # Sides of known points in the closed cube of each cell of the finest of these levels:
            # [0] is >= level, [1] is <= level. Coarser levels need no marks of their own, because a
            # closed cube is the union of its children's closed cubes. A cell can collect marks
            # before it exists.
            self._marks = zeros((2, *self._split[-1].shape), torch.bool)

    def mark(self, points: Tensor, shape_index: Tensor, above: Tensor, below: Tensor) -> None:
        """Marks new points (N, 3) in all cells of the finest level that touch them."""
        edge = self._marks.shape[-1]
        for side, chosen in enumerate((above, below)):
            marks = self._marks[side].view(-1)
            where = points[chosen].long()
            shape = shape_index[chosen] * edge
            # These cells are 2 edges wide: an odd coordinate touches one cell, an even one two.
            # Both indices include the border's offset of 1.
            touching = ((where + 1) >> 1, (where >> 1) + 1)
            for first, second, third in product(touching, repeat=3):
                cell = ((shape + first[:, 0]) * edge + second[:, 1]) * edge + third[:, 2]
                marks[cell] = True

    def split_active(self) -> tuple[Tensor, Tensor]:
        """Splits every leaf with points on both sides. Returns the added points and shapes."""
        active = self._active_leaves()
        new = [self._split_level(level, cells) for level, cells in enumerate(active)]
        points, shapes = zip(*new, strict=True)
        return torch.cat(points), torch.cat(shapes)

    def _active_leaves(self) -> list[Tensor]:
        """Leaves to split: (n, 4) int64 indices [shape, x, y, z] per level."""
        active: list[Tensor] = []
        marks = self._marks[..., 1:-1, 1:-1, 1:-1]
        for level in reversed(range(self._depth)):
            active.append((marks[0] & marks[1] & self._leaf[level]).nonzero())
            if level:
                marks = marks[..., ::2, :, :] | marks[..., 1::2, :, :]
                marks = marks[..., ::2, :] | marks[..., 1::2, :]
                marks = marks[..., ::2] | marks[..., 1::2]
        return active[::-1]

    def _split_level(self, level: int, cells: Tensor) -> tuple[Tensor, Tensor]:
        shape, x, y, z = cells.unbind(1)
        self._leaf[level][shape, x, y, z] = False
        if level + 1 < self._depth:
            children = self._leaf[level + 1]
            for i, j, k in product((0, 1), repeat=3):
                children[shape, 2 * x + i, 2 * y + j, 2 * z + k] = True
        split = self._split[level]
        edge = split.shape[-1]
        flat = ((shape * edge + x + 1) * edge + y + 1) * edge + z + 1
        split = split.view(-1)
        split[flat] = 2
        points, owners = _unshared_points(split, flat, edge)
        split[flat] = 1
        step = 1 << (self._depth - level - 1)
        points = (2 * cells[owners, 1:] + points) * step
        return points.to(torch.int32), shape[owners]


def _unshared_points(split: Tensor, flat: Tensor, edge: int) -> tuple[Tensor, Tensor]:
    """Finds the new points of the cells split in this round, each exactly once.

    A point that a split of level l adds was known before if and only if a level-l cell around it
    was split earlier. If several cells around it are split now, the first in lexicographic order
    owns it. This needs neither a set of known points nor a sort.

    Args:
        split: flattened states of one level, as in _Cells.
        flat: (n,) indices into `split` of the cells that are split now.

    Returns:
        (p, 3) int64 points, in half edges from the lower corner of their owner, and (p,) the
        owners as indices into `flat`.
    """
    takes: dict[tuple[int, int, int], Tensor] = {}
    for position, neighbor in enumerate(_NEIGHBORS):
        dx, dy, dz = neighbor
        state = split[flat + (dx * edge + dy) * edge + dz]
        takes[neighbor] = state > 0 if position < 13 else state == 1
    owned = torch.stack(
        [~torch.stack([takes[n] for n in _cells_around(point)]).any(0) for point in _NEW_POINTS], 1
    )
    owners, which = owned.nonzero().unbind(1)
    offsets = torch.tensor(_NEW_POINTS, device=flat.device)
    return offsets[which], owners


def _cells_around(point: tuple[int, int, int]) -> list[tuple[int, int, int]]:
    """Neighbors, the cell itself included, that touch one of the 27 points of a cell."""
    sides: dict[int, tuple[int, ...]] = {0: (-1, 0), 1: (0,), 2: (0, 1)}
    x, y, z = point
    return list(product(sides[x], sides[y], sides[z]))

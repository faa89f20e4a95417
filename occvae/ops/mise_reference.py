"""Exact MISE in plain PyTorch, on any device: the oracle of the native kernels and their fallback.

Cells of level 0 are those of the coarse lattice, the children of level l are of level l + 1. For
each level above the finest, refinement keeps dense arrays over the cells of that level. The finest
lattice itself is never stored densely: the largest array has (resolution / 2)^3 entries a shape,
and all arrays together take about 0.75 bytes for each finest cell of each shape.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

from occvae.ops.mise_memory import MiseMemory

# The 27 neighbors of a cell in lexicographic order: 0..12 precede the cell, 13 is the cell itself.
_NEIGHBORS = list(product((-1, 0, 1), (-1, 0, 1), (-1, 0, 1)))
# While new points are marked each takes indices in int64 of itself and of the cells around it.
_WORKING_BYTES = 160
# The points a split adds, in half edges from the cell's lower corner: 12 edge middles, 6 face
# middles, 1 center. The 8 corners were known before.
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
    """Evaluates the least set of lattice points that is closed under the rule of exact MISE.

    Rule (Mescheder et al. 2019, section 3.3, made exact): a leaf cell above the finest level whose
    closed cube holds known points on both sides of `level` is split into 8; points equal to
    `level` are on both sides. Known points are the coarse lattice and the 27 points of every split
    cell. Points on a leaf's faces and edges that a finer neighbor added count as well. Knowing
    more points never takes a reason to split away, so every order of splitting ends in the same
    set; here each round splits all leaves that qualify.

    Args:
        evaluate: (points (N, 3) int32 lattice coordinates, shape_index (N,) int64) -> (N,) values
            without NaN. Called once a round, with all new points of all shapes.
        resolution, coarse_resolution: cells along an edge, with ratio a power of two.

    Returns:
        points (M, 3) int32, values (M,), shape_index (M,) int64 and the points of each round.

    Raises:
        MemoryError: the state or the next round would not fit; said before evaluating it.
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
        # In float64 the comparison is exact whatever the dtype of the values.
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
    """Of _Cells for one shape, and of what _active_leaves makes of it: bytes, one for each flag."""
    edges = [coarse_resolution << level for level in range(depth)]
    arrays = sum(n**3 + (n + 2) ** 3 for n in edges)
    return arrays + (2 * (edges[-1] + 2) ** 3 + 4 * edges[-1] ** 3 if edges else 0)


class _Cells:
    """State of all cells above the finest level, one dense array a level.

    `_split` and `_marks` have a border of one cell around the domain, which is never split and
    whose marks nobody reads: it stands for the missing neighbors at the domain's faces.
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
            # Sides seen in the closed cube of each cell of the finest of these levels: [0] is
            # >= level, [1] is <= level. A closed cube is the union of its children's closed cubes,
            # so coarser levels follow; a cell may collect marks before it comes to exist.
            self._marks = zeros((2, *self._split[-1].shape), torch.bool)

    def mark(self, points: Tensor, shape_index: Tensor, above: Tensor, below: Tensor) -> None:
        """Records new points (N, 3) in all cells of the finest level whose closed cube has them."""
        edge = self._marks.shape[-1]
        for side, chosen in enumerate((above, below)):
            marks = self._marks[side].view(-1)
            where = points[chosen].long()
            shape = shape_index[chosen] * edge
            # These cells are 2 points wide: an odd coordinate touches one, an even one touches two.
            # Both indices include the border's offset of 1.
            touching = ((where + 1) >> 1, (where >> 1) + 1)
            for first, second, third in product(touching, repeat=3):
                cell = ((shape + first[:, 0]) * edge + second[:, 1]) * edge + third[:, 2]
                marks[cell] = True

    def split_active(self) -> tuple[Tensor, Tensor]:
        """Splits every leaf that has both sides; returns the points this adds and their shapes."""
        active = self._active_leaves()
        new = [self._split_level(level, cells) for level, cells in enumerate(active)]
        points, shapes = zip(*new, strict=True)
        return torch.cat(points), torch.cat(shapes)

    def _active_leaves(self) -> list[Tensor]:
        """(n, 4) int64 indices [shape, x, y, z] of the leaves to split, for each level."""
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
    """The new points of cells split in this round, each exactly once.

    A point that a split of level l adds is known before if and only if a level-l cell around it was
    split earlier. If several cells around it are split now, the first in lexicographic order owns
    it. This needs neither a set of known points nor a sort.

    Args:
        split: states of one level as in _Cells, flattened; flat: (n,) indices of the cells in it.

    Returns:
        (p, 3) int64 points in half edges from the lower corner of their cell, and (p,) the cell,
        as an index into `flat`, that owns each.
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
    """Neighbors (and the cell itself) whose closed cube has a point of a cell's 27-stencil."""
    sides: dict[int, tuple[int, ...]] = {0: (-1, 0), 1: (0,), 2: (0, 1)}
    x, y, z = point
    return list(product(sides[x], sides[y], sides[z]))

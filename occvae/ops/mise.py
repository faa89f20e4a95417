"""mise(): evaluates a field densely near its surface and coarsely elsewhere."""

from __future__ import annotations

import torch

from occvae.ops import _extension, mise_native, mise_reference
from occvae.ops.field import Evaluator, Field, Progress
from occvae.ops.sparse_grid import DEFAULT_BOUNDS, SparseGrid
from occvae.ops.validation import (
    check_bounds,
    check_callable,
    check_count,
    check_level,
    check_progress,
    check_resolutions,
)


def mise(
    field: Field,
    *,
    resolution: int,
    coarse_resolution: int = 32,
    level: float = 0.0,
    num_shapes: int = 1,
    bounds: tuple[float, float] = DEFAULT_BOUNDS,
    max_points_per_call: int = 262_144,
    device: torch.device | str | None = None,
    backend: str = "auto",
    progress: Progress | None = None,
) -> SparseGrid:
    """Evaluates `field` on a coarse lattice, and finer only where the surface passes.

    Exact multiresolution isosurface extraction (MISE, Mescheder et al., "Occupancy Networks", CVPR
    2019): a cell is split in 8 while known lattice points of its closed cube, points added by finer
    neighbors included, lie on both sides of `level`. A value equal to `level` is on both sides.
    The points evaluated are the least set closed under this rule. What it cannot find is a part
    that lies within coarse cells, touches no coarse lattice point and no refined cell: choose a
    larger `coarse_resolution` for parts thinner than a coarse cell.

    Args:
        field: any callable (points (N, 3) float32 in world units, shape_index (N,) int64) -> (N,)
            floating values on the same device; larger is inside. It is called without gradients and
            must be a function of the point. Infinite values are allowed.
        resolution: cells along an edge of the finest lattice: coarse_resolution * 2**k, k >= 0.
            It is never changed silently; resolution == coarse_resolution evaluates every point.
            At most 2**24.
        coarse_resolution: cells along an edge of the first lattice.
        level: the value at the surface, in the field's own units.
        num_shapes: shapes refined together; each round is one pass of the field over all of them.
        bounds: world coordinates of the first and last lattice point, the same on the three axes.
            A thousandth of a cell must be two steps of float32 there: (-0.55, 0.55) do for
            resolutions up to 9,227, and (10, 11) up to 524.
        max_points_per_call: a pass over more points calls the field several times.
        device: where the points are made; None means PyTorch's default device.
        backend: "reference" is plain PyTorch on any device, "native" the compiled kernels, "auto"
            the kernels where they are built. For a device without kernels those of the CPU keep the
            books, and points and values are copied.
        progress: called as progress(round, done, total) after each call of the field, with the
            round's number from 0 and the points evaluated and to evaluate in this round.

    Returns:
        SparseGrid on `device`.

    Raises:
        ValueError: an argument out of range, a field that returns NaN or the wrong shape or device.
        TypeError: an argument, or the field's values, of the wrong type.
        RuntimeError: backend="native" where it is not available.
        MemoryError: the state, which takes bits for each cell with the kernels and about a byte
            without, or the next round's points would not fit; said before the field is called.

    Example:
        >>> grid = mise(lambda points, shape: 0.4 - points.norm(dim=1), resolution=64)
        >>> grid.rounds
        [35937, 25298]
    """
    resolution, coarse_resolution = check_resolutions(resolution, coarse_resolution)
    level = check_level(level)
    num_shapes = check_count("num_shapes", num_shapes)
    bounds = check_bounds(bounds, resolution)
    max_points_per_call = check_count("max_points_per_call", max_points_per_call)
    check_callable("field", field)
    check_progress(progress)
    device = torch.get_default_device() if device is None else torch.device(device)
    books = _extension.kernel_device("mise_mark", device)
    native = _extension.use_native("mise_mark", books, backend)

    evaluate = Evaluator(field, resolution, bounds, max_points_per_call, progress)
    refine = mise_native.refine if native else mise_reference.refine
    points, values, shape_index, rounds = refine(
        evaluate,
        resolution=resolution,
        coarse_resolution=coarse_resolution,
        level=level,
        num_shapes=num_shapes,
        device=device,
    )
    return SparseGrid(
        points=points,
        values=values,
        shape_index=shape_index,
        rounds=rounds,
        resolution=resolution,
        coarse_resolution=coarse_resolution,
        bounds=bounds,
        level=level,
        num_shapes=num_shapes,
    )

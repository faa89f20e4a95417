"""mise(): evaluates a field finely near its surface and coarsely elsewhere."""

from __future__ import annotations

import torch

from occvae.ops import _extension, mise_native, mise_reference
from occvae.ops.field import Evaluator, Progress, choose_points_per_call
from occvae.ops.lattice import DEFAULT_BOUNDS, Bounds, Lattice
from occvae.ops.sparse_grid import SparseGrid
from occvae.ops.uniform_field import Field, uniform_field
from occvae.ops.validation import (
    check_bounds,
    check_coarse_box,
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
    bounds: Bounds = DEFAULT_BOUNDS,
    max_points_per_call: int | None = None,
    device: torch.device | str | None = None,
    backend: str = "auto",
    progress: Progress | None = None,
) -> SparseGrid:
    """Evaluates `field` on a coarse lattice, and on finer ones only near the surface.

    Implements multiresolution isosurface extraction (MISE, Mescheder et al., "Occupancy Networks",
    CVPR 2019) exactly. A cell is split into 8 if its known lattice points lie on both sides of
    `level`. All points of the closed cube count, including those that finer neighbors added on
    its faces and edges. A value equal to `level` is on both sides. Each round splits all such cells
    and evaluates the points this adds, until no cell qualifies.

    A part of the surface is missed if it touches neither a coarse lattice point nor a refined
    cell. Choose a larger `coarse_resolution` for parts thinner than a coarse cell.

    The field alone determines which points are evaluated, on every backend. With the kernels, the
    order of points does not depend on the device or the number of threads. The values carry no
    gradients.

    Args:
        field: any callable (points (N, 3) float32 in world units), or (points, shape_index (N,)
            int64), to (N,) or (N, 1) floating values, with tensors or NumPy arrays. See
            `extract_mesh` for its forms. Larger values are inside. Values must be on the device of
            the points and always of one dtype. The field is called under `torch.no_grad`, and its
            value must depend on the point and shape only. Infinite values are allowed.
        resolution: cells along the longest side of the bounds, at most 2**24. It must be
            `coarse_resolution * 2**k` with k >= 0 and is never changed silently. If both
            resolutions are equal, every lattice point is evaluated.
        coarse_resolution: the same for the first lattice, which is evaluated in full.
        level: the value of the field at the surface, in the field's own units.
        num_shapes: number of shapes. All are refined together: each round is one pass of the field
            over the new points of all shapes. In each call, `shape_index` is in ascending order.
        bounds: world coordinates of the first and last lattice point of every axis, or the lower
            and upper corner ((x, y, z), (x, y, z)) of a box. The field is evaluated within the
            bounds only, and everything beyond them is outside. Near the bounds, a thousandth of a
            cell must be at least two float32 steps. (-0.55, 0.55) allows resolutions up to 9,227,
            and (10, 11) up to 524. See `extract_mesh` for boxes.
        max_points_per_call: the field is called with at most this many points. A pass over more
            points calls it several times. None means 262,144, and 1,048,576 on a GPU with 32 GiB
            or more.
        device: device of the points that the field receives; None means PyTorch's default device.
        backend: "auto", "native" (compiled kernels) or "reference" (PyTorch, on any device). For a
            device without kernels, bookkeeping runs on the CPU and tensors are copied.
        progress: called as `progress(round, done, total)` after each call of the field. `round`
            counts from 0. `done` and `total` are the evaluated points and all points of the round.

    Returns:
        The evaluated points and their values, on `device`. For a box also the points beyond it
        that refinement added, with the value -inf.

    Raises:
        ValueError: an argument is out of range, or the field returns NaN, a wrong shape or values
            on another device.
        TypeError: an argument or the field's return value has the wrong type.
        RuntimeError: `backend="native"`, but there is no kernel for the device.
        MemoryError: the state of the cells or the points of the next round would not fit in free
            memory. Raised before the field is called for them. The state takes bits per cell with
            the kernels, and about 0.75 bytes per cell of the finest lattice without.

    Example:
        >>> grid = mise(lambda points: 0.4 - points.norm(dim=1), resolution=64)
        >>> grid.rounds
        [35937, 25298]
    """
    resolution, coarse_resolution = check_resolutions(resolution, coarse_resolution)
    level = check_level(level)
    num_shapes = check_count("num_shapes", num_shapes)
    bounds = check_bounds(bounds, resolution)
    lattice = Lattice(resolution, bounds)
    if not lattice.is_full:
        check_coarse_box(lattice, coarse_resolution)
    field = uniform_field(field)
    check_progress(progress)
    device = torch.get_default_device() if device is None else torch.device(device)
    max_points_per_call = choose_points_per_call(max_points_per_call, device)
    books = _extension.kernel_device("mise_mark", device)
    native = _extension.use_native("mise_mark", books, backend)

    evaluate = Evaluator(field, lattice, max_points_per_call, progress)
    refine = mise_native.refine if native else mise_reference.refine
    points, values, shape_index, rounds = refine(
        evaluate,
        resolution=resolution,
        coarse_resolution=coarse_resolution,
        level=level,
        num_shapes=num_shapes,
        device=device,
    )
    within = lattice.contains(points)
    if within is not None:
        rounds = [int(part.count_nonzero()) for part in within.split(rounds)]
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

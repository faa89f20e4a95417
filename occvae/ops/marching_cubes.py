"""marching_cubes(): extracts triangle meshes from a SparseGrid."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from occvae.ops import _extension
from occvae.ops.caps import count_cap_points
from occvae.ops.field import Evaluator, Progress, choose_points_per_call
from occvae.ops.lattice import corners
from occvae.ops.marching_cubes_reference import (
    edge_fractions,
    import_mcubes,
    march_shapes,
    vertices_on_edges,
)
from occvae.ops.sparse_grid import SparseGrid
from occvae.ops.uniform_field import Field, uniform_field
from occvae.ops.validation import check_count, check_level, check_progress
from occvae.ops.vertex_refinement import refine_vertices as move_vertices
from occvae.system.memory import require_memory

Mesh = tuple[Tensor, Tensor]
_Parts = tuple[Tensor, Tensor, Tensor, Tensor]  # vertices, faces, edges, ends

_ADVICE = "choose a lower resolution"
_MOST_PLACES = 2**26  # of bricks, with 5 bytes each


@torch.no_grad()
def marching_cubes(
    grid: SparseGrid,
    level: float | None = None,
    *,
    field: Field | None = None,
    refine_vertices: int = 0,
    max_points_per_call: int | None = None,
    progress: Progress | None = None,
    backend: str = "auto",
) -> list[Mesh]:
    """Extracts the surface of each shape of a grid as a closed triangle mesh.

    Applies marching cubes (Lorensen and Cline, SIGGRAPH 1987) to the cells of the finest lattice.
    A lattice point is inside if its value is >= `level`. The comparison is exact for every dtype.
    Infinite values are allowed. Everything beyond the lattice counts as outside, so a surface that
    reaches the bounds is closed there by a cap, 0.001 cells beyond them.

    Each vertex lies on a lattice edge between an inside and an outside point, where the linear
    interpolation of their values equals `level`. It is then moved to at least 0.001 of the edge
    from both ends, so all vertices are distinct. If both values are infinite, the vertex is in the
    middle. If only one is infinite, the vertex is next to the point with the finite value.
    Triangles share vertices and are counter-clockwise seen from outside.

    The kernel visits only cells with known corners: memory and time grow with the surface, not
    with the volume. The reference implementation takes the topology from PyMCubes on a dense array
    of one byte per lattice point. Both find the same vertices. Where a face of a cell is ambiguous,
    both connect its inside corners. They differ in the order of vertices and faces, and in the
    diagonals that divide the polygons of a cell into triangles. Diagonals of the kernel never lie
    in a face of a cell. Its meshes therefore have exactly two triangles at every edge, even on
    random signs.

    Equal grids give equal meshes: the kernels' order of vertices and faces does not depend on the
    device, the number of threads or the order of points. The result is not differentiable: vertices
    never require gradients, also if the values of the grid do.

    Args:
        grid: from `mise` or `SparseGrid.from_dense`.
        level: value at the surface; None means `grid.level`. Another level needs a grid in which
            every lattice point is known.
        field: the field that the grid was made from. Only `refine_vertices` needs it.
        refine_vertices: steps of root finding that move each vertex along its edge to where the
            field itself equals `level`. Logits, for example, are far from linear between lattice
            points. Each step evaluates the field once per vertex.
        max_points_per_call: the field is called with at most this many points. None
            takes the default of `mise`.
        progress: called after each call of the field as in `mise`. Rounds continue those of the
            grid.
        backend: "auto", "native" (compiled kernel) or "reference" (PyTorch and PyMCubes). A grid
            on a device without a kernel is copied to the CPU, and its mesh is copied back.

    Returns:
        For each shape a tuple of vertices (V, 3) float32 in world units and faces (F, 3) int64,
        on the grid's device. V and F are 0 for a shape without a surface.

    Raises:
        ValueError: the grid was not refined for `level`, lacks points next to its surface, has a
            point twice or outside its lattice, or has NaN values; `refine_vertices` without a
            field; or a number out of range.
        TypeError: an argument has the wrong type.
        RuntimeError: `backend="native"`, but there is no kernel for the device.
        MemoryError: the mesh would not fit in free memory.
        ImportError: there is no kernel and PyMCubes is not installed.

    Example:
        >>> dense = torch.full((1, 9, 9, 9), -1.0)  # one point inside, all others outside
        >>> dense[0, 4, 4, 4] = 1.0
        >>> ((vertices, faces),) = marching_cubes(SparseGrid.from_dense(dense))
        >>> len(vertices), len(faces)  # an octahedron
        (6, 8)
    """
    level = grid.level if level is None else check_level(level)
    if level != grid.level and grid.coarse_resolution != grid.resolution:
        raise ValueError(
            f"grid was refined at level {grid.level}; got level {level}: call mise(level={level})"
        )
    refine_vertices = check_count("refine_vertices", refine_vertices, least=0)
    max_points_per_call = choose_points_per_call(max_points_per_call, grid.points.device)
    check_progress(progress)
    if refine_vertices and field is None:
        raise ValueError(f"refine_vertices={refine_vertices} needs the field; pass field=...")
    field = uniform_field(field) if refine_vertices and field is not None else None
    _check_grid_memory(grid, level, backend)
    parts = _march(grid, level, field is not None, backend)
    if field is None:
        return [(vertices, faces) for vertices, faces, _, _ in parts]
    evaluate = Evaluator(field, grid.lattice, max_points_per_call, progress, len(grid.rounds))
    vertices = _refine(grid, level, parts, evaluate, refine_vertices)
    return [(moved, faces) for moved, (_, faces, _, _) in zip(vertices, parts, strict=True)]


def _check_grid_memory(grid: SparseGrid, level: float, backend: str) -> None:
    sizes = (grid.resolution, len(grid.points), grid.points.device, backend)
    shapes = grid.num_shapes
    most_cap_points = shapes * 6 * (grid.resolution + 1) ** 2
    try:
        check_memory(*sizes, len(grid.points), most_cap_points, shapes)
    except MemoryError:  # exact counts come second: counting can take as long as the mesh
        check_memory(*sizes, count_bricks(grid), count_cap_points(grid, level), shapes)


def count_bricks(grid: SparseGrid) -> int:
    """Number of the kernel's bricks of 8^3 points that hold known points.

    It counts known points with coordinates divisible by 8, the first point of each brick. That
    point is known if any other point of the brick is: the others were added by splits of cells of
    8^3 or less, and corners of their parents are known. Some bricks at the upper end of the domain
    are not counted.
    """
    first = [((part & 7) == 0).all(1).count_nonzero() for part in grid.points.split(2**20)]
    return int(torch.stack(first).sum()) if first else 0


def check_memory(
    resolution: int,
    points: int,
    device: torch.device,
    backend: str,
    bricks: int,
    cap_points: int = 0,
    num_shapes: int = 1,
) -> None:
    """Checks that marching cubes of a grid would fit in free memory.

    Args:
        resolution: cells along an edge of the finest lattice.
        points: known lattice points of all shapes.
        device: device of the grid.
        backend: as in `marching_cubes`.
        bricks: upper limit for the kernel's bricks that hold known points.
        cap_points: upper limit for the inside lattice points on the domain's faces.
        num_shapes: shapes of the grid.

    Raises:
        MemoryError: it would not fit.
        ImportError: there is no kernel and PyMCubes is not installed.
    """
    cpu = torch.device("cpu")
    if _extension.use_native("marching_cubes", _kernel_device(device), backend):
        # Table of bricks, bricks, values, and a mesh of about 0.3 vertices per point.
        places = min(num_shapes, _group_size(resolution)) * _brick_places(resolution)
        needed = 5 * places + 408 * min(bricks, places) + 64 * points
        needed += 88 * cap_points  # one vertex and two triangles each, and bricks
        purpose = f"marching cubes at resolution {resolution}"
        require_memory(needed, _kernel_device(device), purpose, _ADVICE)
    else:
        import_mcubes()
        # Three dense arrays of one byte per point: padded, unpadded, and the last step of filling.
        # Then the search for the ends of edges, and the mesh from PyMCubes beside the result.
        needed = 3 * (resolution + 3) ** 3 + 320 * points + 370 * cap_points
        purpose = f"marching cubes at resolution {resolution} on a dense grid"
        require_memory(needed, cpu, purpose, _ADVICE)


def _kernel_device(device: torch.device) -> torch.device:
    return _extension.kernel_device("marching_cubes", device)


def _march(grid: SparseGrid, level: float, with_edges: bool, backend: str) -> list[_Parts]:
    """The mesh of each shape. All shapes of a group are marched together."""
    size = _group_size(grid.resolution)
    if size >= grid.num_shapes:
        return _march_group(grid, level, with_edges, backend)
    parts = []
    for first in range(0, grid.num_shapes, size):
        shapes = range(first, min(first + size, grid.num_shapes))
        parts += _march_group(_select(grid, shapes), level, with_edges, backend, first)
    return parts


def _group_size(resolution: int) -> int:
    """Shapes that are marched together. It limits the table of the kernel to 335 MB."""
    return max(1, _MOST_PLACES // _brick_places(resolution))


def _brick_places(resolution: int) -> int:
    """Possible places for bricks in each shape, as in the kernel."""
    return ((resolution + 10) // 8 + 1) ** 3


def _select(grid: SparseGrid, shapes: range) -> SparseGrid:
    """The part of a grid that belongs to some shapes, numbered from 0."""
    chosen = (grid.shape_index >= shapes.start) & (grid.shape_index < shapes.stop)
    return replace(
        grid,
        points=grid.points[chosen],
        values=grid.values[chosen],
        shape_index=grid.shape_index[chosen] - shapes.start,
        num_shapes=len(shapes),
    )


def _march_group(
    grid: SparseGrid, level: float, with_edges: bool, backend: str, first_shape: int = 0
) -> list[_Parts]:
    is_box = isinstance(grid.bounds[0], tuple)
    *parts, sizes, problems = _run(grid, level, with_edges or is_box, backend)
    if problems.any():
        _refuse(grid, level, backend, first_shape)
    vertices, faces, edges, ends = (part.to(grid.points.device) for part in parts)
    if is_box and not with_edges:  # the op knows cubes only
        vertices = vertices_on_edges(edges, edge_fractions(edges, ends, grid.lattice), grid.lattice)
    num_vertices, num_faces = sizes.t().tolist()
    by_edge = num_vertices if len(edges) else [0] * grid.num_shapes
    return list(
        zip(
            vertices.split(num_vertices),
            faces.split(num_faces),
            edges.split(by_edge),
            ends.split(by_edge),
            strict=True,
        )
    )


def _run(grid: SparseGrid, level: float, with_edges: bool, backend: str) -> tuple[Tensor, ...]:
    device = grid.points.device
    run = march_shapes
    if _extension.use_native("marching_cubes", _kernel_device(device), backend):
        run, device = _op, _kernel_device(device)
    lower, upper = corners(grid.bounds)
    shape_index = grid.shape_index if grid.num_shapes > 1 else grid.shape_index[:0]
    return run(
        grid.points.to(device),
        grid.values.detach().to(device),
        shape_index.to(device),
        grid.num_shapes,
        *(grid.resolution, grid.coarse_resolution, level, lower[0], upper[0], with_edges),
    )


def _refuse(grid: SparseGrid, level: float, backend: str, first_shape: int) -> None:
    """Raises ValueError for a grid with problems. Finds the first shape that has any."""
    for shape in range(grid.num_shapes):
        alone = grid if grid.num_shapes == 1 else _select(grid, range(shape, shape + 1))
        missing, repeated, nan, outside = _run(alone, level, False, backend)[-1].tolist()
        number = first_shape + shape
        if outside:
            raise ValueError(f"grid has {outside} points of shape {number} outside its lattice")
        if nan:
            raise ValueError("grid.values must not be NaN")
        if repeated:
            raise ValueError(f"grid has {repeated} points of shape {number} more than once")
        if missing:
            raise ValueError(
                f"grid lacks {missing} ends of edges that cross the surface of shape {number}; "
                "pass the complete result of mise() or SparseGrid.from_dense()"
            )
    raise ValueError(f"grid.shape_index must be in [0, {grid.num_shapes}), the shapes of the grid")


def _refine(
    grid: SparseGrid, level: float, parts: list[_Parts], evaluate: Evaluator, steps: int
) -> tuple[Tensor, ...]:
    """Moved vertices of each shape. The field is called with the vertices of all shapes."""
    counts = [len(vertices) for vertices, *_ in parts]
    device = grid.points.device
    vertices = move_vertices(
        evaluate,
        torch.cat([edges for _, _, edges, _ in parts]),
        torch.cat([ends for *_, ends in parts]),
        torch.arange(len(parts), device=device).repeat_interleave(
            torch.tensor(counts, device=device)
        ),
        steps=steps,
        level=level,
        lattice=grid.lattice,
    )
    return vertices.split(counts)


def _fake(
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
    context = torch.library.get_ctx()
    vertices, faces = context.new_dynamic_size(), context.new_dynamic_size()
    edges = vertices if with_edges else 0
    return (
        points.new_empty((vertices, 3), dtype=torch.float32),
        points.new_empty((faces, 3), dtype=torch.int64),
        points.new_empty((edges, 4)),
        points.new_empty((edges, 2), dtype=torch.float64),
        torch.empty((num_shapes, 2), dtype=torch.int64, device="cpu"),
        torch.empty(4, dtype=torch.int64, device="cpu"),
    )


# The op has no autograd formula: the topology of a mesh is not differentiable.
_op = _extension.declare(
    "marching_cubes(Tensor points, Tensor values, Tensor shape_index, int num_shapes,"
    " int resolution, int coarse_resolution, float level, float lower, float upper,"
    " bool with_edges=False) -> (Tensor vertices, Tensor faces, Tensor edges, Tensor ends,"
    " Tensor sizes, Tensor problems)",
    march_shapes,
    _fake,
)

"""marching_cubes(): triangle meshes from a SparseGrid."""

from __future__ import annotations

import torch
from torch import Tensor

from occvae.ops import _extension
from occvae.ops.caps import count_cap_points
from occvae.ops.field import Evaluator, Field, Progress
from occvae.ops.marching_cubes_reference import import_mcubes, march
from occvae.ops.sparse_grid import SparseGrid
from occvae.ops.validation import check_callable, check_count, check_level, check_progress
from occvae.ops.vertex_refinement import refine_vertices as move_vertices
from occvae.system.memory import require_memory

Mesh = tuple[Tensor, Tensor]
_Parts = tuple[Tensor, Tensor, Tensor, Tensor]  # vertices, faces, edges, ends

_ADVICE = "choose a lower resolution"


def marching_cubes(
    grid: SparseGrid,
    level: float | None = None,
    *,
    field: Field | None = None,
    refine_vertices: int = 0,
    max_points_per_call: int = 262_144,
    progress: Progress | None = None,
    backend: str = "auto",
) -> list[Mesh]:
    """The surface of each shape of a grid as a closed triangle mesh.

    Marching cubes (Lorensen and Cline 1987) over all cells of the finest lattice. Inside means
    value >= level, exactly, ties and infinite values included; outside the lattice everything is
    outside, which closes surfaces that reach the domain's faces. On an edge between values a and b
    the vertex lies at the zero of the linear interpolation, except that it keeps 0.001 of the edge
    from either end (the middle when both are infinite; next to the finite one when one is).
    Vertices are distinct and shared, triangles counter-clockwise seen from outside. A vertex of a
    cap lies 0.001 cells beyond the bounds.

    The kernel looks at cells with known corners only; memory and time follow the surface. The
    reference takes the topology from PyMCubes on a dense array of one byte a lattice point. Both
    have the same vertices and cut every cell along the same lines, connecting the inside where a
    face of a cell is ambiguous; they differ in the order of vertices and faces, and in which
    diagonals make triangles of the polygons in a cell. The kernel's never lie in a face of the
    cell, so that every edge has exactly two triangles, on random signs as well.

    Args:
        grid: from mise() or SparseGrid.from_dense().
        level: None means grid.level. Another level needs a grid whose every point is known.
        field: the function that the grid was made from; needed for refine_vertices only.
        refine_vertices: steps of root finding that move each vertex along its edge to where the
            field itself has its level, as logits are far from linear between lattice points. Each
            step calls the field once for every vertex.
        max_points_per_call, progress: as in mise(), for these steps; rounds go on from the grid's.
        backend: "native", "reference" or "auto". A grid on a device without a kernel is copied to
            the CPU and its mesh back.

    Returns:
        For each shape vertices (V, 3) float32 in world units and faces (F, 3) int64, on the grid's
        device; (0, 3) and (0, 3) where there is no surface.

    Raises:
        ValueError: a level that the grid was not refined for, a grid that lacks points next to its
            surface, has some twice or outside its lattice, NaN values, refine_vertices without a
            field, a number out of range.
        TypeError: an argument of the wrong type.
        MemoryError: what it needs does not fit in free memory.
        ImportError: PyMCubes is not installed and there is no kernel.

    Example:
        >>> dense = torch.full((1, 9, 9, 9), -1.0)  # outside but for the point in the middle
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
    max_points_per_call = check_count("max_points_per_call", max_points_per_call)
    check_progress(progress)
    if refine_vertices and field is None:
        raise ValueError(f"refine_vertices={refine_vertices} needs the field")
    if refine_vertices:
        check_callable("field", field)
    _check_grid_memory(grid, level, backend)
    parts = [
        _one_shape(grid, shape, level, refine_vertices > 0, backend)
        for shape in range(grid.num_shapes)
    ]
    if not refine_vertices or field is None:
        return [(vertices, faces) for vertices, faces, _, _ in parts]
    evaluate = Evaluator(
        field, grid.resolution, grid.bounds, max_points_per_call, progress, len(grid.rounds)
    )
    vertices = _refine(grid, level, parts, evaluate, refine_vertices)
    return [(moved, faces) for moved, (_, faces, _, _) in zip(vertices, parts, strict=True)]


def _check_grid_memory(grid: SparseGrid, level: float, backend: str) -> None:
    sizes = (grid.resolution, len(grid.points), grid.points.device, backend)
    most_cap_points = grid.num_shapes * 6 * (grid.resolution + 1) ** 2
    try:
        check_memory(*sizes, len(grid.points), most_cap_points)
    except MemoryError:  # counting them can take as long as the mesh
        check_memory(*sizes, count_bricks(grid), count_cap_points(grid, level))


def count_bricks(grid: SparseGrid) -> int:
    """The kernel's bricks of 8^3 points that know points, but for those at some ends of the domain.

    A brick's points are around its first one, which is known where one of the others is: that came
    from a split of a cell of 8^3 or less, whose parents' corners are known.
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
) -> None:
    """MemoryError when marching_cubes of a grid with so many points would not fit.

    Args:
        bricks: at most so many bricks of the kernel know points.
        cap_points: lattice points of the domain's faces that are inside, known or not.

    Raises:
        ImportError: this needs PyMCubes, which is not installed.
    """
    cpu = torch.device("cpu")
    if _extension.use_native("marching_cubes", _kernel_device(device), backend):
        # Places of bricks, bricks, values, and the mesh with about 0.3 vertices a point.
        places = ((resolution + 3) // 8 + 2) ** 3
        needed = 5 * places + 408 * min(bricks, places) + 64 * points
        needed += 88 * cap_points  # a vertex and two triangles each, and bricks
        purpose = f"marching cubes at resolution {resolution}"
        require_memory(needed, _kernel_device(device), purpose, _ADVICE)
    else:
        import_mcubes()
        # The padded array, the unpadded one and the last step of filling it, one byte a point each.
        # Then the search for the ends of edges, and the mesh as PyMCubes returns it and as we do.
        needed = 3 * (resolution + 3) ** 3 + 320 * points + 370 * cap_points
        purpose = f"marching cubes at resolution {resolution} on a dense grid"
        require_memory(needed, cpu, purpose, _ADVICE)


def _kernel_device(device: torch.device) -> torch.device:
    return _extension.kernel_device("marching_cubes", device)


def _one_shape(
    grid: SparseGrid, shape: int, level: float, with_edges: bool, backend: str
) -> _Parts:
    points, values = grid.points, grid.values
    if grid.num_shapes > 1:
        chosen = grid.shape_index == shape
        points, values = points[chosen], values[chosen]
    run, device = march, points.device
    if _extension.use_native("marching_cubes", _kernel_device(device), backend):
        run, device = _op, _kernel_device(device)
    sizes = (grid.resolution, grid.coarse_resolution)
    vertices, faces, edges, ends, problems = run(
        points.to(device), values.to(device), *sizes, level, *grid.bounds, with_edges
    )
    missing, repeated, nan, outside = problems.tolist()
    if outside:
        raise ValueError(f"grid has {outside} points of shape {shape} outside its lattice")
    if nan:
        raise ValueError("grid.values must not be NaN")
    if repeated:
        raise ValueError(f"grid has {repeated} points of shape {shape} more than once")
    if missing:
        raise ValueError(
            f"grid lacks {missing} ends of edges that cross its surface: it is not a complete "
            "result of mise()"
        )
    home = grid.points.device
    return vertices.to(home), faces.to(home), edges.to(home), ends.to(home)


def _refine(
    grid: SparseGrid, level: float, parts: list[_Parts], evaluate: Evaluator, steps: int
) -> tuple[Tensor, ...]:
    """The moved vertices of each shape; the field sees those of all shapes together."""
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
        resolution=grid.resolution,
        bounds=grid.bounds,
    )
    return vertices.split(counts)


def _fake(
    points: Tensor,
    values: Tensor,
    resolution: int,
    coarse_resolution: int,
    level: float,
    lower: float,
    upper: float,
    with_edges: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    context = torch.library.get_ctx()
    vertices, faces = context.new_dynamic_size(), context.new_dynamic_size()
    edges = vertices if with_edges else 0
    return (
        points.new_empty((vertices, 3), dtype=torch.float32),
        points.new_empty((faces, 3), dtype=torch.int64),
        points.new_empty((edges, 4)),
        points.new_empty((edges, 2), dtype=torch.float64),
        torch.empty(4, dtype=torch.int64, device="cpu"),
    )


# Not differentiable: topology is not, and for vertices there is refine_vertices.
_op = _extension.declare(
    "marching_cubes(Tensor points, Tensor values, int resolution, int coarse_resolution,"
    " float level, float lower, float upper, bool with_edges=False)"
    " -> (Tensor vertices, Tensor faces, Tensor edges, Tensor ends, Tensor problems)",
    march,
    _fake,
)

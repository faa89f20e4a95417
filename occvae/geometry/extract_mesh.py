"""extract_mesh(): turns an implicit field into triangle meshes in world units."""

from __future__ import annotations

import warnings
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

import torch
from torch import Tensor

from occvae.ops.caps import cap_normals
from occvae.ops.field import Progress, choose_points_per_call
from occvae.ops.field_normals import field_normals
from occvae.ops.lattice import DEFAULT_BOUNDS, Bounds
from occvae.ops.marching_cubes import Mesh, check_memory, marching_cubes
from occvae.ops.mise import mise
from occvae.ops.sparse_grid import SparseGrid
from occvae.ops.uniform_field import Field, UniformField
from occvae.ops.validation import check_count, check_level, check_resolutions

if TYPE_CHECKING:
    import trimesh
    from tqdm import tqdm


def extract_mesh(
    field: Field,
    *,
    resolution: int = 256,
    coarse_resolution: int = 32,
    level: float = 0.0,
    inside: str = "positive",
    num_shapes: int = 1,
    bounds: Bounds = DEFAULT_BOUNDS,
    max_points_per_call: int | None = None,
    device: torch.device | str | None = None,
    backend: str = "auto",
    progress: Progress | None = None,
    refine_vertices: int = 0,
    normals: bool = False,
) -> list[trimesh.Trimesh]:
    """Extracts the surface `field == level` as one closed triangle mesh per shape.

    Runs `mise`, which evaluates the field densely near the surface only, and then
    `marching_cubes` (Mescheder et al., "Occupancy Networks", CVPR 2019). Meshes are watertight.
    Their triangles share vertices and are counter-clockwise seen from outside. A surface that
    leaves the bounds is closed there. A shape without a surface gives an empty mesh.

    With the compiled kernels, equal field values give equal meshes, bit for bit, on every device
    and with any number of threads. The result is not differentiable.

    Args:
        field: a function or module that takes points (N, 3) float32 in world units, or points and
            shape_index (N,) int64. It returns (N,) or (N, 1) floating values, always of one dtype.

            It gets `shape_index` if two of its parameters have no default, or if the second one is
            called `shape_index`. For a module the parameters of `forward` count. If they do not
            tell, as with `*args`, the first call tries both arguments and then the points alone.

            The first call passes tensors on `device`. If it raises TypeError, AttributeError or
            ValueError, or does not return usable values, it is repeated with NumPy arrays. Later
            calls pass what worked. A field may return tensors, on the device of the points, or
            arrays, whatever it gets. It must not change `shape_index` in place.
        resolution: cells along the longest side of the bounds, on the finest lattice. It must be
            `coarse_resolution * 2**k` with k >= 0.
        coarse_resolution: the same for the first lattice, which is evaluated in full. Parts thinner
            than its cells can be missed: increase it for thin parts.
        level: the value of the field at the surface, in the field's own units: 0 for logits and
            signed distances, a threshold for probabilities.
        inside: "positive" if values are larger inside, as logits are, or "negative" if they are
            smaller inside, as most signed distances are.
        num_shapes: number of shapes. All are refined together, in common calls of the field.
        bounds: world coordinates of the lower and upper end on every axis, or the lower and upper
            corner ((x, y, z), (x, y, z)) of a box. The field is evaluated within the bounds only.
            Cells are cubes. If a side of a box is not a whole number of them, the last layer of
            cells along it is 0.5 to 1.5 cells thick.
        max_points_per_call: the field is called with at most this many points. It bounds the
            memory that the field needs. None means 262,144, and 1,048,576 on a GPU with 32 GiB or
            more.
        device: device of the points that the field receives; None means PyTorch's default device.
        backend: "auto", "native" (compiled kernels) or "reference" (PyTorch and PyMCubes).
        progress: called as `progress(round, done, total)` after each call of the field, see
            `mise`. Steps of `refine_vertices` and normals are further rounds. `ProgressBar()`
            shows a bar in the terminal.
        refine_vertices: steps of root finding that move each vertex to where the field itself
            equals `level`, see `marching_cubes`. 0 keeps the linear interpolation.
        normals: also sets `vertex_normals` of the meshes, which .glb, .ply and .obj files keep.
            A normal is minus the direction of the field's gradient. The gradient comes from
            autograd where the values depend differentiably on the points, otherwise from central
            differences over half a cell. Vertices where it is zero or not finite keep the normal
            that trimesh computes from the faces. Where the bounds close the surface, normals are
            those of the bounds.

    Returns:
        `num_shapes` trimesh.Trimesh on the CPU, in the world units of `bounds`.

    Warns:
        UserWarning: all corners of the bounds are inside, so the signs are probably swapped.

    Raises:
        ValueError: an argument is out of range, or the field returns NaN, a wrong shape or values
            on another device.
        TypeError: an argument or the field's return value has the wrong type.
        RuntimeError: `backend="native"`, but there is no kernel for the device.
        MemoryError: the extraction would not fit in free memory. What is known from the arguments
            is checked before the first call of the field, the rest before the step that needs it.
        ImportError: trimesh is not installed, or the kernels are missing and PyMCubes is not
            installed. Raised before the first call of the field.

    Example:
        >>> (ball,) = extract_mesh(lambda points: 0.4 - points.norm(dim=1), resolution=64)
        >>> ball.is_watertight
        True
    """
    trimesh = _import_trimesh()
    field = UniformField(field, inside)
    level = check_level(level) if inside == "positive" else -check_level(level)
    refine_vertices = check_count("refine_vertices", refine_vertices, least=0)
    device = torch.get_default_device() if device is None else torch.device(device)
    max_points_per_call = choose_points_per_call(max_points_per_call, device)
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
    on_cpu = [(vertices.cpu(), faces.cpu()) for vertices, faces in meshes]
    _warn_if_inside_out(grid, on_cpu, inside)
    results = [
        trimesh.Trimesh(vertices.numpy(), faces.numpy(), process=False)
        for vertices, faces in on_cpu
    ]
    if normals:
        first_round = len(grid.rounds) + refine_vertices
        found = _normals(grid, meshes, field, max_points_per_call, progress, first_round)
        for result, directions in zip(results, found, strict=True):
            if len(directions):  # trimesh does not accept empty vertex_normals
                _set_normals(result, directions)
    return results


def _check_memory(
    resolution: int, coarse_resolution: int, device: torch.device, backend: str
) -> None:
    """Raises MemoryError if marching cubes of the coarse lattice alone would not fit."""
    resolution, coarse_resolution = check_resolutions(resolution, coarse_resolution)
    first = (coarse_resolution + 1) ** 3
    check_memory(resolution, first, device, backend, min(first, (resolution // 8 + 1) ** 3))


def _warn_if_inside_out(grid: SparseGrid, meshes: list[Mesh], inside: str) -> None:
    """Warns about shapes that contain all corners of the bounds: the signs are probably swapped."""
    lattice = grid.lattice
    advice = (
        'if values are smaller inside, as most signed distances are, pass inside="negative"'
        if inside == "positive"
        else 'if values are larger inside, leave out inside="negative"'
    )
    for shape, (vertices, _) in enumerate(meshes):
        ends = [vertices.new_tensor(end) for end in (lattice.lower, lattice.upper)]
        # Most meshes end here, because they do not touch all sides.
        if not len(vertices) or ((vertices.amin(0) > ends[0]) | (vertices.amax(0) < ends[1])).any():
            continue
        corners = torch.cartesian_prod(*torch.stack(ends, dim=1))
        if all((vertices - corner).abs().amax(1).min() < lattice.cell / 2 for corner in corners):
            warnings.warn(
                f"shape {shape}: all corners of the bounds are inside; {advice}", stacklevel=3
            )


def _normals(
    grid: SparseGrid,
    meshes: list[Mesh],
    field: UniformField,
    max_points_per_call: int,
    progress: Progress | None,
    first_round: int,
) -> tuple[Tensor, ...]:
    """Normals (V, 3) float64 of each mesh, 0 where the field has none."""
    vertices = torch.cat([vertices for vertices, _ in meshes])
    counts = [len(vertices) for vertices, _ in meshes]
    shapes = torch.arange(len(meshes), device=vertices.device)
    shape_index = shapes.repeat_interleave(torch.tensor(counts, device=vertices.device))
    normals = cap_normals(vertices, grid.lattice)
    within = ~normals.any(1)
    normals[within] = field_normals(
        field,
        vertices[within],
        shape_index[within],
        lattice=grid.lattice,
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
    # mypy does not recognize trimesh's decorated property.
    mesh.vertex_normals = normals  # type: ignore[method-assign]


class ProgressBar:
    """Shows the progress of an extraction as a bar on stderr, one bar per round.

    Pass it as `progress` to `extract_mesh`, `mise` or `marching_cubes`. Rounds shorter than half a
    second show no bar, and a finished bar disappears. Nothing is shown if stderr is not a terminal.

    Args:
        label: text in front of the bar.

    Example:
        >>> field = lambda points: 0.4 - points.norm(dim=1)
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
        """Removes the bar. Needed only after an extraction was interrupted."""
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

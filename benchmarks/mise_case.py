"""One extraction of mise_bench: times of its stages, checks of its result, and the baselines."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from timing import growth_at_peak, summarize
from occvae.ops.lattice import DEFAULT_BOUNDS, Lattice
from occvae.ops.marching_cubes import marching_cubes
from occvae.ops.mise import Field, mise
from occvae.ops.sparse_grid import SparseGrid

Mesh = tuple[Tensor, Tensor]
_STAGES = ", stages"


@dataclass(frozen=True, eq=False)
class Case:
    """A field and a resolution. All ways to extract its mesh use the same chunk size."""

    name: str
    field: Field
    resolution: int
    coarse_resolution: int
    device: str
    chunk: int = 262_144

    def refine(self, backend: str, field: Field | None = None) -> SparseGrid:
        return mise(
            field or self.field,
            resolution=self.resolution,
            coarse_resolution=self.coarse_resolution,
            max_points_per_call=self.chunk,
            device=self.device,
            backend=backend,
        )

    def mesh(self, backend: str) -> Mesh:
        return marching_cubes(self.refine(backend), backend=backend)[0]

    def evaluate_all(self) -> np.ndarray:
        """Evaluates the field on all (R + 1)^3 lattice points, in the chunks that MISE uses."""
        axis = torch.arange(self.resolution + 1, device=self.device, dtype=torch.int32)
        points = torch.cartesian_prod(axis, axis, axis)
        lattice = Lattice(self.resolution, DEFAULT_BOUNDS)
        shape_index = torch.zeros(self.chunk, dtype=torch.int64, device=self.device)
        values = [
            self.field(lattice.to_world(part), shape_index[: len(part)])
            for part in points.split(self.chunk)
        ]
        return torch.cat(values).view([self.resolution + 1] * 3).cpu().numpy()

    def peak_memory(self) -> int | None:
        """Returns the peak bytes of a native extraction, including its points and mesh."""
        if self.device == "cpu":
            return growth_at_peak(lambda: self.mesh("native"))
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        self.mesh("native")
        return torch.cuda.max_memory_allocated() - before


class Stages:
    """Runs native extractions and keeps the seconds of the stages field, refine and extract.

    On CUDA the clock synchronizes after each stage and each call of the field. The stages together
    then take longer than an extraction.
    """

    def __init__(self, case: Case, field: Field | None = None):
        self._case, self._field = case, field or case.field
        self.seconds: dict[str, list[float]] = {"field": [], "refine": [], "extract": []}
        self.counts = {"points": 0, "vertices": 0}

    def run(self) -> Mesh:
        in_field = 0.0

        def field(points: Tensor, shape_index: Tensor) -> Tensor:
            nonlocal in_field
            start = self._now()
            values = self._field(points, shape_index)
            in_field += self._now() - start
            return values

        start = self._now()
        grid = self._case.refine("native", field)
        refined = self._now()
        (mesh,) = marching_cubes(grid, backend="native")
        done = self._now()
        spent = (in_field, refined - start - in_field, done - refined)
        for stage, seconds in zip(self.seconds.values(), spent, strict=True):
            stage.append(seconds)
        self.counts = {"points": len(grid.points), "vertices": len(mesh[0])}
        return mesh

    def candidates(self, name: str) -> dict[str, Callable[[], object]]:
        """Returns candidates for `interleave`. On CUDA, `name` has no clock between stages."""
        if self._case.device == "cpu":
            return {name: self.run}
        return {name: lambda: self._case.mesh("native"), name + _STAGES: self.run}

    def summary(self, repeats: int) -> dict[str, dict[str, float]]:
        """Summarizes the seconds of each stage over the last `repeats` runs."""
        return {name: summarize(seconds[-repeats:]) for name, seconds in self.seconds.items()}

    def _now(self) -> float:
        if self._case.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def without_stages(results: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Drops the runs whose only purpose is the times of stages."""
    return {name: row for name, row in results.items() if not name.endswith(_STAGES)}


def point_keys(grid: SparseGrid) -> Tensor:
    """Returns sorted int64 keys of the points. Two sets of points are equal if their keys are."""
    x, y, z = grid.points.long().unbind(1)
    side = grid.resolution + 1
    return ((x * side + y) * side + z).sort().values.cpu()


def count_different_points(a: SparseGrid, b: SparseGrid) -> int:
    """Counts the points that are in only one of two grids."""
    _, counts = torch.cat([point_keys(a), point_keys(b)]).unique(return_counts=True)
    return int((counts == 1).sum())


def differences_from_cpu(case: Case) -> list[str]:
    """Names the results of the native kernels that differ from those of the CPU in any bit.

    Both evaluate the field on the CPU, so that its values are equal.
    """

    def on_cpu(points: Tensor, shape_index: Tensor) -> Tensor:
        return case.field(points.cpu(), shape_index.cpu()).to(points.device)

    found = []
    for device in (case.device, "cpu"):
        grid = replace(case, device=device).refine("native", on_cpu)
        ((vertices, faces),) = marching_cubes(grid, backend="native")
        parts = dict(points=grid.points, values=grid.values, vertices=vertices, faces=faces)
        found.append({name: part.cpu() for name, part in parts.items()})
    first, second = found
    return [name for name in first if not torch.equal(first[name], second[name])]


def mesh_facts(mesh: Mesh) -> dict[str, int]:
    """Returns counts of a mesh. Without open edges it is watertight and consistently oriented."""
    vertices, faces = mesh
    first, second = faces, faces.roll(-1, 1)
    keys = torch.minimum(first, second) * max(len(vertices), 1) + torch.maximum(first, second)
    _, edge, triangles = keys.flatten().unique(return_inverse=True, return_counts=True)
    balance = torch.zeros_like(
        triangles
    )  # uses of an edge in one direction minus those in the other
    balance.index_add_(0, edge, (first < second).flatten().to(balance.dtype) * 2 - 1)
    return dict(
        vertices=len(vertices),
        faces=len(faces),
        open_edges=int(balance.count_nonzero()),
        nonmanifold=int((triangles != 2).sum()),
        euler=len(vertices) - len(triangles) + len(faces),
    )


def dense_baselines(case: Case) -> tuple[dict[str, Callable[[], object]], list[str]]:
    """Returns candidates on the full grid for `interleave`, and a line per missing library.

    They make meshes as the 2019 code does: one layer of padding around the grid, then a library.
    "Alone" is the library on values computed before.
    """
    values = pad(case.evaluate_all())
    runs: dict[str, Callable[[], object]] = {}
    absent = []
    mcubes, skimage = import_or_none("mcubes"), import_or_none("skimage.measure")
    if mcubes is None:
        runs["every point, no mesh"] = case.evaluate_all
        absent.append("PyMCubes: not installed; run `pip install PyMCubes`")
    else:
        runs["every point and PyMCubes"] = lambda: mcubes.marching_cubes(
            pad(case.evaluate_all()), 0.0
        )
        runs["PyMCubes alone on the full grid"] = lambda: mcubes.marching_cubes(values, 0.0)
    if skimage is None:
        absent.append("scikit-image: not installed; run `pip install scikit-image`")
    else:
        runs["scikit-image alone on the full grid"] = lambda: skimage.marching_cubes(values, 0.0)
    if import_or_none("vtkmodules") is None:
        absent.append("VTK: not installed; run `pip install vtk`")
    else:
        runs["VTK FlyingEdges3D alone on the full grid"] = lambda: flying_edges(values)
    return runs, absent


def flying_edges(values: np.ndarray) -> tuple[int, int]:
    """Runs VTK's FlyingEdges3D on all threads. Returns the numbers of vertices and faces.

    VTK indexes [z, y, x], so its mesh is a mirror image of ours. That does not change the work.
    """
    from vtkmodules.util.numpy_support import numpy_to_vtk
    from vtkmodules.vtkCommonCore import vtkSMPTools
    from vtkmodules.vtkCommonDataModel import vtkImageData
    from vtkmodules.vtkFiltersCore import vtkFlyingEdges3D

    vtkSMPTools.SetBackend("STDThread")
    vtkSMPTools.Initialize(torch.get_num_threads())
    image = vtkImageData()
    image.SetDimensions(values.shape[::-1])
    image.GetPointData().SetScalars(numpy_to_vtk(values.reshape(-1)))
    edges = vtkFlyingEdges3D()
    edges.SetInputData(image)
    edges.SetValue(0, 0.0)
    edges.ComputeNormalsOff()
    edges.ComputeGradientsOff()
    edges.ComputeScalarsOff()
    edges.Update()
    mesh = edges.GetOutput()
    return mesh.GetNumberOfPoints(), mesh.GetNumberOfPolys()


def pad(values: np.ndarray) -> np.ndarray:
    """Adds one layer of outside points around the grid."""
    return np.pad(values, 1, constant_values=-1e6)


def import_or_none(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None

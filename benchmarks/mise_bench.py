"""Meshes of implicit functions: MISE and marching cubes, compiled, in PyTorch, and without MISE.

python benchmarks/mise_bench.py [--field sphere chair] [--resolution 128 256 512] [--device cuda]

A check comes before every timing. The analytic fields cost next to nothing a point and their time
is left out of "refine", which is bookkeeping alone; "end to end" lines have everything. Memory is
the growth of the process at its peak.
"""

import ctypes
import time
from collections.abc import Callable
from pathlib import Path

import mcubes
import numpy as np
import torch
import trimesh
from torch import Tensor

from timing import environment, header, interleave, parser, summarise, table, write_json
from occvae.ops.marching_cubes import marching_cubes
from occvae.ops.mise import mise
from occvae.sparse_grid import DEFAULT_BOUNDS, SparseGrid, lattice_to_world
from tests.fields import gyroid, sphere, thin_chair, torus

FIELDS = {"sphere": sphere(), "torus": torus(), "chair": thin_chair, "gyroid": gyroid}
CHUNK = 262_144
NATIVE, REFERENCE, DENSE = "native", "pure PyTorch + PyMCubes", "every point + PyMCubes"


class TimedField:
    """A field that adds up the time spent in it."""

    def __init__(self, field, device: str):
        self._field, self._device = field, device
        self.seconds = 0.0

    def __call__(self, points: Tensor, shape_index: Tensor) -> Tensor:
        self._synchronise()
        start = time.perf_counter()
        values = self._field(points, shape_index)
        self._synchronise()
        self.seconds += time.perf_counter() - start
        return values

    def _synchronise(self) -> None:
        if self._device == "cuda":
            torch.cuda.synchronize()


class Case:
    """One field at one resolution."""

    def __init__(self, name: str, resolution: int, args):
        self.field, self.resolution, self.device = FIELDS[name], resolution, args.device
        self.coarse_resolution = args.coarse_resolution

    def refine(self, backend: str, field=None) -> SparseGrid:
        return mise(
            field or self.field,
            resolution=self.resolution,
            coarse_resolution=self.coarse_resolution,
            max_points_per_call=CHUNK,
            device=self.device,
            backend=backend,
        )

    def mesh(self, backend: str) -> tuple[Tensor, Tensor]:
        return marching_cubes(self.refine(backend), backend=backend)[0]

    def evaluate_all(self) -> np.ndarray:
        """The field on every lattice point, (R + 1)^3, in chunks as MISE takes them."""
        axis = torch.arange(self.resolution + 1, device=self.device, dtype=torch.int32)
        lattice = torch.cartesian_prod(axis, axis, axis)
        shape_index = torch.zeros(CHUNK, dtype=torch.int64, device=self.device)
        values = [
            self.field(
                lattice_to_world(part, self.resolution, DEFAULT_BOUNDS), shape_index[: len(part)]
            )
            for part in lattice.split(CHUNK)
        ]
        return torch.cat(values).view([self.resolution + 1] * 3).cpu().numpy()

    def mesh_all(self) -> tuple[np.ndarray, np.ndarray]:
        """As the 2019 code makes meshes: one layer of padding, then PyMCubes."""
        return mcubes.marching_cubes(np.pad(self.evaluate_all(), 1, constant_values=-1e6), 0.0)


def same_points(a: SparseGrid, b: SparseGrid) -> bool:
    keys = [
        ((p[:, 0] * 4099 + p[:, 1]) * 4099 + p[:, 2]).sort().values for p in map(_points, (a, b))
    ]
    return a.rounds == b.rounds and torch.equal(*keys)


def _points(grid: SparseGrid) -> Tensor:
    return grid.points.long()


def growth_at_peak(run: Callable[[], object]) -> int | None:
    """Bytes by which the process grows while it runs, or None where that is not Linux's."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what earlier runs freed would be used again
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again here
        before = _status("VmRSS")
        run()
        return _status("VmHWM") - before
    except OSError:
        return None


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def check(case: Case, args) -> dict:
    """Prints what must hold before times mean anything; returns it for the records."""
    memory = growth_at_peak(lambda: case.mesh(NATIVE))
    grid = case.refine(NATIVE)
    vertices, faces = marching_cubes(grid, backend=NATIVE)[0]
    mesh = trimesh.Trimesh(vertices.cpu().numpy(), faces.cpu().numpy(), process=False)
    facts = dict(
        points=len(grid.points),
        share=len(grid.points) / (case.resolution + 1) ** 3,
        rounds=grid.rounds,
        vertices=len(vertices),
        faces=len(faces),
        watertight=mesh.is_watertight and mesh.is_winding_consistent,
        euler=int(mesh.euler_number),
        same_points=None,
        memory=memory,
    )
    if case.resolution <= args.reference_up_to:
        facts["same_points"] = same_points(grid, case.refine("reference"))
    print(f"  points {facts['points']:,} ({facts['share']:.2%})  rounds {grid.rounds}")
    print(f"  check  set equals the PyTorch fixpoint: {facts['same_points']}", end="  ")
    print(f"mesh V {len(vertices):,} F {len(faces):,}", end=" ")
    print(f"watertight {facts['watertight']} euler {facts['euler']}")
    if facts["memory"] is not None:
        print(f"  memory {facts['memory'] / 2**20:.0f} MiB at the peak, points and mesh included")
    if facts["same_points"] is False or not facts["watertight"]:
        raise SystemExit("the check failed: no times")
    return facts


def bookkeeping(case: Case, repeats: int) -> dict[str, float]:
    """Seconds of mise() outside the field."""
    seconds = []
    for _ in range(repeats + 1):
        field = TimedField(case.field, case.device)
        start = time.perf_counter()
        case.refine(NATIVE, field)
        seconds.append(time.perf_counter() - start - field.seconds)
    return summarise(seconds[1:])


def measure(name: str, resolution: int, args) -> list[dict]:
    case = Case(name, resolution, args)
    print(f"\n{name}  {args.coarse_resolution} -> {resolution}")
    facts = check(case, args)
    grid = case.refine(NATIVE)
    runs = {
        f"{NATIVE}, end to end": lambda: case.mesh(NATIVE),
        f"{NATIVE} marching cubes": lambda: marching_cubes(grid, backend=NATIVE),
    }
    if resolution <= args.reference_up_to:
        runs[REFERENCE] = lambda: case.mesh("reference")
    if resolution <= args.dense_up_to:
        runs[DENSE] = case.mesh_all
    results = interleave(runs, repeats=args.repeats, device=args.device, warmup=1)
    results[f"{NATIVE} refine"] = refine = bookkeeping(case, args.repeats)
    print(table(results, unit=f"{NATIVE}, end to end"))
    print(f"  refine takes {1e9 * refine['median'] / facts['points']:.0f} ns a point", flush=True)
    size = dict(field=name, resolution=resolution, coarse_resolution=args.coarse_resolution)
    size |= dict(device=args.device, **facts)
    return [dict(candidate=candidate, **size, **row) for candidate, row in results.items()]


def main() -> None:
    options = parser(__doc__)
    options.set_defaults(repeats=3)
    options.add_argument("--field", nargs="+", choices=FIELDS, default=list(FIELDS))
    options.add_argument("--resolution", nargs="+", type=int, default=[128, 256])
    options.add_argument("--coarse-resolution", type=int, default=32)
    options.add_argument("--reference-up-to", type=int, default=512, metavar="R")
    options.add_argument("--dense-up-to", type=int, default=256, metavar="R")
    args = options.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    facts = environment(args.device)
    print(header("mise_bench", facts))
    for resolution in args.resolution:
        for name in args.field:
            rows = measure(name, resolution, args)
            if args.json:
                write_json(args.json, "mise", facts, rows)


if __name__ == "__main__":
    main()

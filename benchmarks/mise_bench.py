"""Meshes of fields, stage by stage, against pure PyTorch and against dense evaluation.

python benchmarks/mise_bench.py                       # about two minutes on 2 cores
python benchmarks/mise_bench.py --resolution 256 --scaling 128 256 512 1024 \\
    --scaling-field sphere torus chair gyroid         # the long tables
python benchmarks/mise_bench.py --only scaling --scaling 2048 --scaling-field sphere
python benchmarks/mise_bench.py --device cuda --json mise.json

The sections are fields, scaling, decoder and image. A check comes before every timing, and a failed
check ends the benchmark. On CUDA, one check compares all bits with the CPU. "field" is the time in
the field, "refine" is MISE without the field, "extract" is marching cubes, and "total" is an
extraction without a clock between these stages. Memory is the peak growth of the process, including
points and mesh. On CUDA it is the peak growth of PyTorch's allocations.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from timing import environment, header, interleave, parser, write_json
from mise_case import (
    Case,
    Stages,
    count_different_points,
    dense_baselines,
    differences_from_cpu,
    import_or_none,
    mesh_facts,
    without_stages,
)
from mise_fields import FIELDS, FittedDecoder, FittedTriplane
from occvae.ops import _extension
from occvae.ops.marching_cubes import marching_cubes
from occvae.ops.sparse_grid import SparseGrid

NATIVE, PURE = "native", "pure PyTorch"
SECTIONS = ("fields", "scaling", "decoder", "image")
RATES = {  # stage -> what n counts, and how n and the seconds are shown as a rate
    "field": ("points", lambda n, seconds: f"{n / seconds / 1e3:,.0f} k points/s"),
    "refine": ("points", lambda n, seconds: f"{1e9 * seconds / n:.0f} ns/point"),
    "extract": ("vertices", lambda n, seconds: f"{n / seconds / 1e3:,.0f} k vertices/s"),
}


def check_grid(case: Case, grid: SparseGrid, other: SparseGrid | None, tolerated: int = 0) -> dict:
    """Checks and prints facts of points and mesh, without which times would mean nothing."""
    total = (case.resolution + 1) ** 3
    facts = dict(points=len(grid.points), share=len(grid.points) / total, rounds=grid.rounds)
    line = f"check  points {len(grid.points):,}"
    if other is not None:
        facts["different_points"] = count_different_points(grid, other)
        line += f"  {PURE} {len(other.points):,}, in one only {facts['different_points']}"
    print(f"{line}  rounds {grid.rounds}")
    facts |= mesh_facts(marching_cubes(grid, backend=NATIVE)[0])
    print(
        f"check  mesh V {facts['vertices']:,} F {facts['faces']:,}  open edges "
        f"{facts['open_edges']}  nonmanifold {facts['nonmanifold']}  euler {facts['euler']}"
    )
    if facts["open_edges"] or facts.get("different_points", 0) > tolerated:
        raise SystemExit("the check failed: no times")
    return facts


def check_device(case: Case) -> None:
    """Ends the benchmark unless the kernels of a GPU give the same bits as those of the CPU."""
    if case.device == "cpu":
        return
    if names := differences_from_cpu(case):
        raise SystemExit(f"{', '.join(names)} differ from those of the CPU: no times")
    print(f"check  {case.name} {case.resolution}^3 is equal on {case.device} and the CPU")


def print_stages(stages: Stages, times: dict[str, dict[str, float]], total: dict) -> None:
    print(f"{'stage':<9}{'n':>12}{'median':>12}   {'p20 - p80':<19}{'rate':<22}share")
    whole = sum(row["median"] for row in times.values())
    for name, row in times.items():
        unit, rate = RATES[name]
        n = stages.counts[unit]
        share = f"{row['median'] / whole:6.1%}"
        print(f"{name:<9}{n:>12,}{format_times(row)}{rate(n, row['median']):<22}{share}")
    print(f"{'total':<9}{'':>12}{format_times(total)}n {total['n']}")


def format_times(row: dict[str, float]) -> str:
    low, middle, high = (f"{1e3 * row[key]:.2f}" for key in ("p20", "median", "p80"))
    return f"{middle:>9} ms   {low + ' - ' + high:<19}"


def print_baselines(results: dict[str, dict[str, float]], total: dict[str, float]) -> None:
    for name, row in results.items():
        ratio = row["median"] / total["median"]
        print(f"{'baseline':<10}{name:<36}{format_times(row)}{ratio:7.1f}x  n {row['n']}")


def print_size(case: Case, facts: dict) -> None:
    memory = facts["memory"]
    peak = "unknown here" if memory is None else f"{memory / 2**20:.0f} MiB"
    total = (case.resolution + 1) ** 3
    print(f"dense grid {total:,} points: {1 / facts['share']:.1f}x more  memory peak {peak}")


class Records:
    """Appends rows to the JSON file as they come. Does nothing without a file."""

    def __init__(self, path: str | None, environment: dict):
        self._path, self._environment = path, environment

    def add(self, section: str, case: Case, facts: dict, results: dict[str, dict]) -> None:
        if self._path is None:
            return
        size = dict(section=section, field=case.name, resolution=case.resolution)
        size |= dict(coarse_resolution=case.coarse_resolution, device=case.device)
        rows = [dict(candidate=name, **size, **facts, **row) for name, row in results.items()]
        write_json(self._path, "mise", self._environment, rows)


def measure_field(case: Case, args: argparse.Namespace, records: Records) -> None:
    """Times the native stages, pure PyTorch, and dense evaluation with each installed library."""
    title = f"field {case.name}  R0 {case.coarse_resolution}  R {case.resolution}  level 0"
    print(f"\n{title}")
    check_device(case)
    facts = check_grid(case, case.refine(NATIVE), case.refine("reference"))
    facts["memory"] = case.peak_memory()
    stages = Stages(case)
    runs = stages.candidates(NATIVE)
    if import_or_none("mcubes"):
        runs[f"{PURE} and PyMCubes"] = lambda: case.mesh("reference")
    else:
        runs[f"{PURE}, mise alone"] = lambda: case.refine("reference")
    dense, absent = dense_baselines(case) if case.resolution <= args.dense_up_to else ({}, [])
    results = without_stages(
        interleave(runs | dense, repeats=args.repeats, device=case.device, warmup=1)
    )
    total = results.pop(NATIVE)
    times = stages.summary(args.repeats)
    print_stages(stages, times, total)
    print_baselines(results, total)
    for name in absent:
        print(f"{'baseline':<10}{name}")
    print_size(case, facts)
    records.add("fields", case, facts, times | {"total": total} | results)


def measure_scaling(name: str, args: argparse.Namespace, records: Records) -> None:
    """Prints one line per resolution: times per stage, and refine and extract per vertex."""
    print(f"\nscaling {name}  R0 {args.coarse_resolution}")
    columns = ("R", "points", "of dense", "vertices", "euler", "field", "refine", "extract")
    columns += ("total ms", "ns/vertex", "MiB", PURE)
    widths = (6, 12, 9, 12, 6, 9, 9, 9, 10, 12, 8, 13)
    print("".join(f"{column:>{width}}" for column, width in zip(columns, widths, strict=True)))
    for resolution in args.scaling:
        case = make_case(name, resolution, args)
        check_device(case)
        grid = case.refine(NATIVE)
        facts = dict(points=len(grid.points), share=len(grid.points) / (resolution + 1) ** 3)
        facts |= mesh_facts(marching_cubes(grid, backend=NATIVE)[0])
        del grid
        if facts["open_edges"]:
            raise SystemExit(f"{resolution}: {facts['open_edges']} open edges: no times")
        facts["memory"] = case.peak_memory()
        stages = Stages(case)
        runs = stages.candidates(NATIVE)
        if resolution <= args.reference_up_to and import_or_none("mcubes"):
            runs[PURE] = lambda case=case: case.mesh("reference")
        results = without_stages(
            interleave(runs, repeats=args.repeats, device=case.device, warmup=1)
        )
        total, times = results.pop(NATIVE), stages.summary(args.repeats)
        ms = {stage: 1e3 * row["median"] for stage, row in times.items()}
        ratio = f"{results[PURE]['median'] / total['median']:.1f}x" if PURE in results else "-"
        cells = (
            *(resolution, f"{facts['points']:,}", f"{facts['share']:.2%}"),
            *(f"{facts['vertices']:,}", facts["euler"]),
            *(f"{value:.1f}" for value in ms.values()),
            f"{1e3 * total['median']:.1f}",
            f"{1e6 * (ms['refine'] + ms['extract']) / facts['vertices']:.0f}",
            "?" if facts["memory"] is None else f"{facts['memory'] / 2**20:.0f}",
            ratio,
        )
        line = "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        print(line, flush=True)
        records.add("scaling", case, facts, times | {"total": total} | results)


def measure_decoder(args: argparse.Namespace, records: Records) -> None:
    """Times a network as the field: in pure PyTorch, and native with an eager or packed decoder."""
    fitted = FittedDecoder(args.device)
    resolution = args.decoder_resolution
    print(f"\nfield decoder:torus  R0 {args.coarse_resolution}  R {resolution}  level 0")
    print(f"       width 256, 5 blocks, seed 0, fitted IoU {fitted.iou:.3f}", flush=True)
    check_device(make_case("torus", resolution, args))
    chunk = 32_768  # 32 MB of activations per layer
    eager = make_case("decoder:torus", resolution, args, fitted.eager, chunk)
    pure = eager.refine("reference")
    # With a BLAS, the rounding of a point's value may depend on the other points of the batch.
    facts = check_grid(eager, eager.refine(NATIVE), pure, tolerated=len(pure.points) // 1000)
    ways = {"native, eager decoder": eager}
    for precision in ("fp32", "bf16") if args.device == "cpu" else ("fp32", "fp16", "bf16"):
        field = fitted.packed(precision)
        case = make_case("decoder:torus", resolution, args, field)
        print(f"packed {precision}: {describe_error(fitted, field, pure)}")
        packed = case.refine(NATIVE)
        check_grid(case, packed, pure, tolerated=len(pure.points) // 20)
        ways[f"native, packed {precision}"] = case
    del pure
    stages = {name: Stages(case) for name, case in ways.items()}
    runs = {}
    for name, way in stages.items():
        runs |= way.candidates(name)
    if import_or_none("mcubes"):
        runs[f"{PURE} and PyMCubes, eager"] = lambda: eager.mesh("reference")
    else:
        runs[f"{PURE}, mise alone, eager"] = lambda: eager.refine("reference")
    repeats = args.decoder_repeats
    results = without_stages(interleave(runs, repeats=repeats, device=args.device, warmup=0))
    for name, way in stages.items():
        print(f"{name}")
        times = way.summary(repeats)
        print_stages(way, times, results[name])
        records.add("decoder", ways[name], facts | dict(way=name, iou=fitted.iou), times)
    fastest = min(stages, key=lambda name: results[name]["median"])
    print(f"ratios to {fastest}")
    print_baselines(results, results[fastest])
    records.add("decoder", eager, facts | dict(iou=fitted.iou), results)


def measure_image(args: argparse.Namespace, records: Records) -> None:
    """Times a triplane model from an image to its watertight mesh, encoder included."""
    model = FittedTriplane().to(args.device)
    image = torch.rand(1, 1, 3, model.image_size, model.image_size, device=args.device)
    print(f"\nimage to mesh, triplane 64^2 x 32, MLP 64-64, fitted IoU {model.iou:.3f}")
    print_row("encoder alone", time_one(partial(model.encode, image), args))
    for resolution in args.image_resolution:
        [mesh] = model.reconstruct(image, resolution)
        if not mesh.is_watertight:
            raise SystemExit(f"{resolution}: the mesh is not watertight: no times")
        runs = {
            precision: partial(image_to_mesh, model, image, resolution, precision)
            for precision in ("fp32", "bf16")
        }
        results = interleave(runs, repeats=args.repeats, device=args.device, warmup=1)
        for precision, row in results.items():
            print_row(f"{resolution}^3, {precision}", row)
        case = make_case("triplane:torus", resolution, args, FIELDS["torus"])
        records.add("image", case, dict(iou=model.iou, faces=len(mesh.faces)), results)


def time_one(run: Callable[[], object], args: argparse.Namespace) -> dict[str, float]:
    return interleave({"": run}, repeats=args.repeats, device=args.device, warmup=1)[""]


def print_row(name: str, row: dict[str, float]) -> None:
    print(f"{name:<16}{format_times(row)} n {row['n']}", flush=True)


def image_to_mesh(model: FittedTriplane, image: Tensor, resolution: int, precision: str) -> None:
    model.precision = precision
    model.reconstruct(image, resolution)


def describe_error(fitted: FittedDecoder, field, grid: SparseGrid) -> str:
    """Compares a field with the decoder in PyTorch, at the points that an extraction evaluates."""
    points = grid.world_points()[:: max(1, len(grid.points) // 32_768)]
    ours, theirs = field(points, None), fitted.eager(points, None)
    error = float((ours - theirs).norm() / theirs.norm())
    flips = int(((ours >= 0) != (theirs >= 0)).sum())
    return f"check  relative error {error:.1e}  other signs {flips} of {len(points):,}"


def make_case(name: str, resolution: int, args, field=None, chunk: int = 262_144) -> Case:
    return Case(name, field or FIELDS[name], resolution, args.coarse_resolution, args.device, chunk)


def main() -> None:
    options = parser(__doc__)
    options.set_defaults(repeats=3)
    options.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    options.add_argument("--field", nargs="+", choices=FIELDS, default=list(FIELDS))
    options.add_argument("--resolution", nargs="+", type=int, default=[128])
    options.add_argument("--coarse-resolution", type=int, default=32)
    options.add_argument("--dense-up-to", type=int, default=256, metavar="R")
    options.add_argument("--scaling", nargs="+", type=int, default=[128, 256, 512], metavar="R")
    options.add_argument("--scaling-field", nargs="+", choices=FIELDS, default=["sphere", "chair"])
    options.add_argument("--reference-up-to", type=int, default=256, metavar="R")
    options.add_argument("--decoder-resolution", type=int, default=256, metavar="R")
    options.add_argument("--decoder-repeats", type=int, default=2)
    options.add_argument(
        "--image-resolution", nargs="+", type=int, default=[256, 512, 1024], metavar="R"
    )
    args = options.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    facts = environment(args.device) | dict(isa=_extension.cpu_isa())
    print(header("mise_bench", facts))
    records = Records(args.json, facts)
    if "fields" in args.only:
        for resolution in args.resolution:
            for name in args.field:
                measure_field(make_case(name, resolution, args), args, records)
    if "scaling" in args.only:
        for name in args.scaling_field:
            measure_scaling(name, args, records)
    if "decoder" in args.only:
        measure_decoder(args, records)
    if "image" in args.only:
        measure_image(args, records)


if __name__ == "__main__":
    main()

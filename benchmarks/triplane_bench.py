"""Triplane queries: the fused kernels against PyTorch, eager and compiled.

python benchmarks/triplane_bench.py [--quick] [--channels 64] [--layers 1] [--device cuda]

The planes are smooth random fields, and the layers are random. Every candidate is first compared
with float64 on the CPU, on some points. A candidate with a larger error than its precision allows
is not timed, and the exit status is then 1.
Candidates and peaks are timed in turns, in one process. "of peak" compares the arithmetic with
multiply-adds in registers. "of reads" compares the bytes of the 12 corners of each point with
reading all planes in order, again and again.

"random" are uniform points of the padded cube. "mise" are the points that `mise` asks for, round by
round, in its order. "mise, shuffled" and "mise, sorted" are the same points in random order and
along a space-filling curve.

PyTorch is measured in two forms: `grid_sample` on planes with the channels first, and rows gathered
from planes with the channels last. --quick leaves out torch.compile.
--cpu-time counts the CPU time of the process, for one thread on a machine that runs other programs.
"""

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from timing import environment, header, interleave, parser, write_json
from occvae.ops import _extension
from occvae.ops.mise import mise
from occvae.ops.query_triplane import query_triplane, query_triplane_shapes
from peak import peaks, read_peak
from tests.ops.triplane_oracle import BARS, DTYPES, Triplane

CHECKED = 2000  # points that are compared with float64
PYTORCH_BARS = {"fp32": 1e-4, "bf16": 1e-1}  # PyTorch rounds the points and sums, too
MAX_AUTOTUNE = {"options": {"max_autotune": True, "freezing": True}}
COMPILED = {"torch.compile": {}, "torch.compile max-autotune": MAX_AUTOTUNE}
AXES = ([0, 1], [0, 2], [1, 2])


def smooth(channels: int, layers: int, shapes: int, nodes: int) -> Triplane:
    """A random decoder with planes like those of a shape: neighboring nodes are similar."""
    triplane = Triplane.random(channels, layers, shapes, nodes)
    coarse = torch.randn(3 * shapes, channels, 6, 6, generator=torch.Generator().manual_seed(1))
    fine = F.interpolate(coarse, (nodes, nodes), mode="bicubic", align_corners=True)
    planes = fine.permute(0, 2, 3, 1).reshape(shapes, 3, nodes, nodes, channels)
    triplane.planes = planes + 0.05 * triplane.planes
    return triplane


class GridSample:
    """The decoder in PyTorch, with `grid_sample`. Planes have the channels first, as it wants."""

    def __init__(self, triplane: Triplane, dtype: torch.dtype):
        planes, self.weights, self.biases, self.head = (part.to(dtype) for part in triplane.parts)
        self.planes = planes.flatten(0, 1).permute(0, 3, 1, 2).contiguous()
        self.dtype = dtype

    def sample(self, points: Tensor) -> Tensor:
        places = (points / 0.55).to(self.dtype)
        grid = torch.stack([places[..., axes].flip(2) for axes in AXES], dim=1)
        grid = grid.flatten(0, 1)[:, None]
        samples = F.grid_sample(self.planes, grid, padding_mode="border", align_corners=True)
        return samples.unflatten(0, (-1, 3)).sum(dim=1)[:, :, 0].transpose(1, 2)

    def __call__(self, points: Tensor) -> Tensor:
        h = self.sample(points).relu()
        for weight, bias in zip(self.weights, self.biases, strict=True):
            h = F.linear(h, weight, bias).relu()
        return (h @ self.head[:-1] + self.head[-1]).float()


class Gather(GridSample):
    """The same with rows of planes that have the channels last."""

    def __init__(self, triplane: Triplane, dtype: torch.dtype):
        super().__init__(triplane, dtype)
        self.nodes, channels = triplane.planes.shape[2], triplane.planes.shape[4]
        self.planes = triplane.planes.to(dtype).reshape(-1, channels)

    def sample(self, points: Tensor) -> Tensor:
        shape = torch.arange(len(points), device=points.device)[:, None]
        lattice = (points.clamp(-0.55, 0.55) + 0.55) / 1.1 * (self.nodes - 1)
        lower = lattice.floor().clamp(0, self.nodes - 2)
        node, fraction = lower.long(), (lattice - lower).to(self.dtype)
        total = 0.0
        for plane, (a, b) in enumerate(AXES):
            first = ((3 * shape + plane) * self.nodes + node[..., a]) * self.nodes + node[..., b]
            u, v = fraction[..., a, None], fraction[..., b, None]
            low = (1 - v) * self.planes[first] + v * self.planes[first + 1]
            first = first + self.nodes
            high = (1 - v) * self.planes[first] + v * self.planes[first + 1]
            total = total + (1 - u) * low + u * high
        return total


@dataclass
class Candidate:
    run: Callable[[], Tensor]
    points: str
    precision: str
    bar: float
    peak: str
    compile_seconds: float | None = None


class Case:
    """A decoder, points in several orders, and the candidates that evaluate it there."""

    def __init__(self, args):
        self.args, self.device = args, args.device
        self.triplane = smooth(args.channels, args.layers, args.shapes, args.nodes)
        self.on_device = self.triplane.to(args.device)
        generator = torch.Generator().manual_seed(0)
        random = torch.rand(args.shapes, args.points, 3, generator=generator) * 1.1 - 0.55
        self.random = random.to(args.device)
        self.rounds = self._mise_rounds() if args.shapes == 1 else {}

    def _mise_rounds(self) -> dict[str, list[Tensor]]:
        """The points of each round of MISE, in three orders."""
        packed = self.on_device.pack("fp32")
        sample = query_triplane(self.random[:, :1000], packed)
        rounds: list[Tensor] = []

        def field(points: Tensor, shape_index: Tensor) -> Tensor:
            rounds.append(points.clone())
            return query_triplane_shapes(points, shape_index, packed, is_sorted=True)

        level = float(sample.median() + sample.std())
        mise(field, resolution=self.args.resolution, coarse_resolution=32, level=level)
        generator = torch.Generator().manual_seed(0)
        shuffled = [each[torch.randperm(len(each), generator=generator)] for each in rounds]
        return {
            "mise": rounds,
            "mise, shuffled": shuffled,
            "mise, sorted": [each[morton_order(each)] for each in rounds],
        }

    @property
    def operations(self) -> int:
        """Floating-point operations per point: samples, layers and head."""
        c = self.args.channels
        return 2 * (12 * c + self.args.layers * c * c + c)

    def bytes_read(self, precision: str) -> int:
        """Bytes of the corners of a point."""
        return 12 * self.args.channels * DTYPES[precision].itemsize

    def candidates(self) -> dict[str, Candidate]:
        result = self._fused()
        for form in (GridSample, Gather):
            for precision in ("fp32", "bf16"):
                run = form(self.on_device, DTYPES[precision])
                name = f"PyTorch {form.__name__}, {precision}"
                result[name] = self._pytorch(run, precision)
        torch.compiler.reset()
        for form in () if self.args.quick else (GridSample, Gather):
            for title, options in COMPILED.items():
                for precision in ("fp32", "bf16"):
                    run = torch.compile(form(self.on_device, DTYPES[precision]), **options)
                    name = f"{title} {form.__name__}, {precision}"
                    result[name] = self._pytorch(run, precision)
        return result

    def _pytorch(self, run: Callable[[Tensor], Tensor], precision: str) -> Candidate:
        bar, peak = PYTORCH_BARS[precision], self._peak(precision)
        return Candidate(lambda: run(self.random), "random", precision, bar, peak)

    def _peak(self, precision: str, isa: str | None = None) -> str:
        if self.device == "cuda":
            return f"product {precision}"
        isa = isa or _extension.cpu_isa() or "portable"
        if precision == "bf16" and isa == "avx512_bf16":
            return "dot bf16"
        return "fma avx512" if isa.startswith("avx512") else f"fma {isa}"

    def _fused(self) -> dict[str, Candidate]:
        if self.device == "cuda" or _extension.cpu_isa() is None:
            isas = [None]
        else:
            best = _extension.cpu_isa()
            isas = [best, *(isa for isa in ("avx2", "portable") if isa != best)]
        result = {}
        for isa in isas:
            for precision in DTYPES:
                if isa == "portable" and precision == "fp16":
                    continue  # it converts fp16 in software
                packed = self.on_device.pack(precision)
                name = f"{packed.path} {precision}" + (f", {isa}" if isa else "")

                def at_random(packed=packed, isa=isa) -> Tensor:
                    with limited(isa):
                        return query_triplane(self.random, packed)

                def in_rounds(rounds: list[Tensor], packed=packed, isa=isa) -> None:
                    with limited(isa):
                        for points in rounds:
                            query_triplane(points[None], packed)

                bar, peak = BARS[precision] * 2, self._peak(precision, isa)
                result[name] = Candidate(at_random, "random", precision, bar, peak)
                for order, rounds in self.rounds.items() if isa == isas[0] else ():
                    run = lambda rounds=rounds, run=in_rounds: run(rounds)  # noqa: E731
                    result[f"{name}, {order}"] = Candidate(run, order, precision, bar, peak)
        return result

    def count(self, order: str) -> int:
        if order == "random":
            return self.random.shape[:2].numel()
        return sum(map(len, self.rounds[order]))

    @torch.no_grad()
    def check(self, candidates: dict[str, Candidate]) -> dict[str, float]:
        """Returns the relative L2 error of each against float64 on the CPU. Compiles, too.

        Removes candidates whose error is too large.
        """
        step = max(1, self.args.points // CHECKED) | 1  # odd, to reach every place in a tile
        expected = self.triplane.logits(self.random[:, ::step])
        errors = {}
        for name, candidate in list(candidates.items()):
            start = time.perf_counter()
            found = candidate.run()
            if name.startswith("torch.compile"):
                candidate.compile_seconds = time.perf_counter() - start
            if candidate.points != "random":
                errors[name] = math.nan  # the same kernel as at random points
                continue
            error = found[:, ::step].cpu().double() - expected
            errors[name] = float(error.norm() / expected.norm())
            if not errors[name] <= candidate.bar:
                print(f"FAILED  {name}: error {errors[name]:.1e} > {candidate.bar}: no times")
                del candidates[name]
        return errors


def limited(isa: str | None):
    return _extension.limit_cpu_isa(isa or _extension.ISA_NAMES[-1])


def morton_order(points: Tensor) -> Tensor:
    """The order of points along a Morton curve of 1024 steps per axis."""
    steps = ((points + 0.55) / 1.1 * 1023).clamp(0, 1023).long()
    code = torch.zeros(len(points), dtype=torch.int64, device=points.device)
    for bit in range(10):
        for axis in range(3):
            code |= (steps[:, axis] >> bit & 1) << (3 * bit + axis)
    return code.argsort()


def measure(args) -> tuple[list[dict], bool]:
    """Returns a row per candidate, and whether every candidate was accurate."""
    case = Case(args)
    print(f"\nplanes {args.nodes}^2 x {args.channels}  layers {args.layers}  shapes {args.shapes}")
    print(
        f"{case.operations / 1e3:.1f} kFLOP and {case.bytes_read('fp32')} bytes of fp32 per point"
    )
    print("points  " + "  ".join(f"{order} {case.count(order):,}" for order in orders(case)))
    candidates = case.candidates()
    errors = case.check(candidates)
    runs = {name: candidate.run for name, candidate in candidates.items()}
    limits = peaks(args.device)
    for precision in ("fp32", "bf16") if args.device == "cpu" else ():
        planes = case.on_device.planes.to(DTYPES[precision])
        if read := read_peak(planes):
            limits[f"read {precision}"] = read
    runs |= {f"peak {name}": limit.run for name, limit in limits.items()}
    clock = time.process_time if args.cpu_time else time.perf_counter
    with torch.no_grad():
        results = interleave(runs, repeats=args.repeats, device=args.device, warmup=1, clock=clock)
    rates = {name: limits[name].operations / results[f"peak {name}"]["median"] for name in limits}
    print("peaks  " + "  ".join(f"{name} {rate / 1e9:.0f} G/s" for name, rate in rates.items()))
    rows = []
    for name, candidate in candidates.items():
        rate = case.count(candidate.points) / results[name]["median"]
        read = "read fp32" if candidate.precision == "fp32" else "read bf16"
        flops, bandwidth = case.operations * rate, case.bytes_read(candidate.precision) * rate
        rows.append(
            dict(
                candidate=name,
                nodes=args.nodes,
                channels=args.channels,
                layers=args.layers,
                shapes=args.shapes,
                points=case.count(candidate.points),
                order=candidate.points,
                device=args.device,
                precision=candidate.precision,
                error=errors[name],
                points_per_second=rate,
                share=flops / rates[candidate.peak] if candidate.peak in rates else None,
                share_of_reads=bandwidth / rates[read] if read in rates else None,
                compile_seconds=candidate.compile_seconds,
                **results[name],
            )
        )
    print(table(rows), flush=True)
    return rows, len(errors) == len(candidates)


def orders(case: Case) -> list[str]:
    return ["random", *case.rounds]


def table(rows: list[dict]) -> str:
    width = max(len(row["candidate"]) for row in rows)
    pytorch = [row for row in rows if row["candidate"].startswith(("PyTorch", "torch.compile"))]
    best = max((row["points_per_second"] for row in pytorch), default=None)
    lines = [
        f"{'':<{width}}  {'error':>7}  {'M points/s':>10}  {'ns/point':>8}  {'of peak':>7}  "
        f"{'of reads':>8}  {'x PyTorch':>9}"
    ]
    for row in rows:
        rate = row["points_per_second"]
        error = "" if math.isnan(row["error"]) else f"{row['error']:.1e}"
        shares = (
            "" if row[key] is None else f"{row[key]:.0%}" for key in ("share", "share_of_reads")
        )
        of_peak, of_reads = shares
        ratio = "" if best is None else f"{rate / best:.1f}"
        compiled = row["compile_seconds"]
        lines.append(
            f"{row['candidate']:<{width}}  {error:>7}  {rate / 1e6:10.2f}  {1e9 / rate:8.1f}  "
            f"{of_peak:>7}  {of_reads:>8}  {ratio:>9}"
            + (f"  compiled in {compiled:.0f} s" if compiled is not None else "")
        )
    return "\n".join(lines) + "\n'x PyTorch' is relative to the fastest of PyTorch."


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--channels", type=int, default=64)
    options.add_argument("--layers", type=int, default=1)
    options.add_argument("--nodes", type=int, default=64, help="per axis of a plane")
    options.add_argument("--shapes", type=int, default=1)
    options.add_argument("--points", type=int, default=100_000, help="per shape, in random order")
    options.add_argument("--resolution", type=int, default=128, help="of MISE")
    options.add_argument("--quick", action="store_true", help="nothing compiled")
    options.add_argument("--cpu-time", action="store_true", help="time of the process")
    args = options.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    facts = environment(args.device) | dict(isa=_extension.cpu_isa(), cpu_time=args.cpu_time)
    print(header("triplane_bench", facts))
    rows, all_accurate = measure(args)
    if args.json:
        write_json(args.json, "triplane", facts, rows)
    sys.exit(not all_accurate)


if __name__ == "__main__":
    main()

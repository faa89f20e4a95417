"""Occupancy queries: the fused kernels against the decoder in PyTorch, eager and compiled.

python benchmarks/query_bench.py [--quick] [--hidden 128 256 512] [--device cuda] [--json FILE]

The decoder has random weights, statistics and norms. Every candidate is first compared with the
decoder in float64 on the CPU. A candidate with a larger error than its precision allows is not
timed, and the exit status is then 1.
Candidates and the peak are timed in turns, in one process. A share is relative to the peak of the
candidate's arithmetic. "As published" is the decoder of the 2019 code, channels first.

--quick takes about a minute. It measures one width and leaves out torch.compile, which compiles for
minutes. On a GPU use millions of points, because fewer measure mainly the kernel launches. There
--kernels chooses the fused kernels, for example to run wgmma in a process of its own.
"""

import copy
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from timing import environment, header, interleave, parser, write_json
from occvae.models.batch_norm import ConditionalBatchNorm
from occvae.models.decoders import CbnDecoder
from occvae.ops import _extension
from occvae.ops.query_occupancy import PackedDecoder, query_occupancy
from peak import peaks
from tests.builders import random_decoder
from tests.ops.query_oracle import BARS, limit_cuda_kernel

# QueryKernel of csrc/cuda/query_kernels.cuh
CUDA_KERNELS = {"fma": 1, "mma": 2, "wgmma": 3, "wgmma-deep": 4, "wgmma-pairs": 5}
CHECKED = 2000  # points per shape that are compared with float64
PYTORCH_BARS = {"fp32": 1e-2, "bf16": 1e-1}  # PyTorch may use TF32, and rounds the points, too
PUBLISHED, EAGER = "PyTorch eager, as published", "PyTorch eager"
CHUNK = {"cpu": 512, "cuda": 32_768}  # points whose activations stay in a cache
MAX_AUTOTUNE = {"options": {"max_autotune": True, "freezing": True}}
COMPILED = {  # name -> precision and options
    "torch.compile, bf16": ("bf16", {}),
    "torch.compile": ("fp32", {}),
    "torch.compile max-autotune": ("fp32", MAX_AUTOTUNE),
    "torch.compile max-autotune, bf16": ("bf16", MAX_AUTOTUNE),
}


def as_published(decoder: CbnDecoder, points: Tensor, conditioning: Tensor) -> Tensor:
    """Computes the decoder like the 2019 code: channels first, every step on its own."""

    def convolution(layer: nn.Linear, x: Tensor) -> Tensor:
        return F.conv1d(x, layer.weight[:, :, None], layer.bias)

    def norm_relu(norm: ConditionalBatchNorm, x: Tensor) -> Tensor:
        statistics = norm.norm
        x = F.batch_norm(x, statistics.running_mean, statistics.running_var, eps=statistics.eps)
        gamma, beta = norm.gamma(conditioning)[:, :, None], norm.beta(conditioning)[:, :, None]
        return F.relu(gamma * x + beta)

    x = convolution(decoder.linear_in, points.transpose(1, 2))
    for block in decoder.blocks:
        update = convolution(block.linear_0, norm_relu(block.norm_0, x))
        x = x + convolution(block.linear_1, norm_relu(block.norm_1, update))
    return convolution(decoder.linear_out, norm_relu(decoder.norm_out, x)).squeeze(1)


@dataclass
class Candidate:
    run: Callable[[Tensor], Tensor]  # points (B, N, 3) -> logits (B, N)
    precision: str
    peak: str  # name of the peak that it is compared with
    bar: float
    compile_seconds: float | None = None


class Case:
    """A decoder, its conditioning and points, and the candidates that evaluate it."""

    def __init__(self, hidden_size: int, args):
        self.device, self.hidden_size, self.blocks = args.device, hidden_size, args.blocks
        self.kernels = args.kernels
        self.decoder = random_decoder(hidden_size, args.blocks, embedding_size=256)
        self.decoder.to(args.device).requires_grad_(False)
        generator = torch.Generator().manual_seed(0)
        points = torch.rand(args.shapes, args.points, 3, generator=generator) * 1.1 - 0.55
        self.points = points.to(args.device)
        self.conditioning = torch.randn(args.shapes, 256, generator=generator).to(args.device)

    @property
    def operations(self) -> int:
        """Floating-point operations per point, without scales, shifts and ReLUs."""
        c = self.hidden_size
        return 2 * (3 * c + 2 * self.blocks * c * c + c)

    def pytorch(self, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Tensor]:
        return copy.deepcopy(self.decoder).to(dtype), self.conditioning.to(dtype)

    def candidates(self, compiled: list[str]) -> dict[str, Candidate]:
        """Returns all candidates, of COMPILED only the named ones."""
        result = self._native_on_gpu() if self.device == "cuda" else self._native_on_cpu()
        plain, conditioning = self.pytorch()
        half, half_conditioning = self.pytorch(torch.bfloat16)
        fp32, bf16 = self._machine_peaks()

        def chunked(points: Tensor) -> Tensor:
            parts = points.split(CHUNK[self.device], dim=1)
            return torch.cat([plain(part, conditioning) for part in parts], dim=1)

        def in_bf16(points: Tensor) -> Tensor:
            return half(points.bfloat16(), half_conditioning).float()

        def in_fp32(points: Tensor) -> Tensor:
            return plain(points, conditioning)

        def published(points: Tensor) -> Tensor:
            return as_published(plain, points, conditioning)

        bars = PYTORCH_BARS
        result[PUBLISHED] = Candidate(published, "fp32", fp32, bars["fp32"])
        result[EAGER] = Candidate(in_fp32, "fp32", fp32, bars["fp32"])
        result[f"{EAGER}, bf16"] = Candidate(in_bf16, "bf16", bf16, bars["bf16"])
        result["PyTorch in chunks"] = Candidate(chunked, "fp32", fp32, bars["fp32"])
        torch.compiler.reset()  # otherwise graphs of other widths count toward its limit
        for name in compiled:
            precision, options = COMPILED[name]
            run, peak = (in_bf16, bf16) if precision == "bf16" else (in_fp32, fp32)
            result[name] = Candidate(
                torch.compile(run, **options), precision, peak, bars[precision]
            )
        return result

    def _machine_peaks(self) -> tuple[str, str]:
        if self.device == "cuda":
            return "product fp32", "product bf16"
        isa = _extension.cpu_isa()
        fp32 = "fma avx2" if isa == "avx2" else "fma avx512"
        return fp32, "dot bf16" if isa == "avx512_bf16" else fp32

    def _native_on_cpu(self) -> dict[str, Candidate]:
        best = _extension.cpu_isa()
        isas = _extension.ISA_NAMES[: _extension.ISA_NAMES.index(best) + 1]
        fp32, bf16 = self._machine_peaks()
        chosen = [("fp32", best, fp32), ("fp16", best, fp32), ("bf16", best, bf16)]
        chosen += [("fp32", isa, f"fma {isa}") for isa in isas if isa in ("portable", "avx2")]
        result = {}
        for precision, isa, peak in chosen:
            packed = self.decoder.pack(self.conditioning, precision, "native")

            def run(points: Tensor, packed=packed, isa=isa) -> Tensor:
                with _extension.limit_cpu_isa(isa):
                    return query_occupancy(points, packed)

            shown = "avx512" if isa == "avx512_bf16" and precision != "bf16" else isa
            name = f"fused {precision}, {shown}"
            result[name] = Candidate(run, precision, peak, BARS[precision])
        return result

    def _native_on_gpu(self) -> dict[str, Candidate]:
        """Returns every kernel of the GPU for this width, or the reference if there is none."""
        if not _extension.has_kernel("query_occupancy", "cuda"):
            packed = self.decoder.pack(self.conditioning, "fp32")
            return {"reference fp32": self._on_gpu(packed)}
        result = {}
        for kernel in self.kernels:
            limit = CUDA_KERNELS[kernel]
            for precision in ("fp32",) if kernel == "fma" else ("fp16", "bf16"):
                with limit_cuda_kernel(limit) as found:
                    packed = self.decoder.pack(self.conditioning, precision)
                # Otherwise another kernel runs, because the GPU or the width has none of this name.
                has_width = limit < 3 or self.hidden_size == 256
                if found == limit and packed.precision == precision and has_width:
                    result[f"fused {precision}, {kernel}"] = self._on_gpu(packed, limit)
        return result

    @staticmethod
    def _on_gpu(packed: PackedDecoder, limit: int | None = None) -> Candidate:
        def run(points: Tensor) -> Tensor:
            # The limit chooses the variant of wgmma.
            with nullcontext() if limit is None else limit_cuda_kernel(limit):
                return query_occupancy(points, packed)

        precision = packed.precision
        peak, bar = f"product {precision}", BARS[precision]
        return Candidate(run, precision, peak, bar)

    @torch.no_grad()
    def check(self, candidates: dict[str, Candidate]) -> dict[str, float]:
        """Returns the relative L2 error of each against float64 on the CPU, on some points.

        Removes candidates whose error is too large. Compiles, too.
        """
        step = max(1, self.points.shape[1] // CHECKED) | 1  # odd, to reach every place in a tile
        double, conditioning = self.pytorch(torch.float64)
        some = self.points[:, ::step].cpu().double()
        expected = double.cpu()(some, conditioning.cpu()).to(self.device)
        errors = {}
        for name, candidate in list(candidates.items()):
            start = time.perf_counter()
            found = candidate.run(self.points)[:, ::step]
            if name.startswith("torch.compile"):
                candidate.compile_seconds = time.perf_counter() - start
            errors[name] = float((found - expected).norm() / expected.norm())
            if not errors[name] <= candidate.bar:
                print(f"FAILED  {name}: error {errors[name]:.1e} > {candidate.bar}: no times")
                del candidates[name]
        if missing := {EAGER, PUBLISHED} - candidates.keys():
            raise SystemExit(f"nothing to compare with: {', '.join(sorted(missing))} failed")
        return errors


def measure(hidden_size: int, args) -> tuple[list[dict], bool]:
    """Returns the rows of a width, and whether every candidate was accurate."""
    case = Case(hidden_size, args)
    count = case.points.shape[:2].numel()
    print(f"\nwidth {hidden_size}  blocks {args.blocks}  shapes {args.shapes}", end="  ")
    print(f"points {count:,}  {case.operations / 1e6:.4f} MFLOP per point", flush=True)
    candidates = case.candidates(args.compiled)
    errors = case.check(candidates)
    runs = {name: lambda each=each: each.run(case.points) for name, each in candidates.items()}
    limits = peaks(args.device)
    runs |= {f"peak {name}": limit.run for name, limit in limits.items()}
    with torch.no_grad():
        results = interleave(runs, repeats=args.repeats, device=args.device, warmup=1)
    rates = {name: limits[name].operations / results[f"peak {name}"]["median"] for name in limits}
    print("peaks  " + "  ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in rates.items()))
    rows = []
    for name, candidate in candidates.items():
        median = results[name]["median"]
        speed = case.operations * count / median
        rows.append(
            dict(
                candidate=name,
                hidden_size=hidden_size,
                blocks=args.blocks,
                shapes=args.shapes,
                points=count,
                device=args.device,
                precision=candidate.precision,
                error=errors[name],
                points_per_second=count / median,
                flops=speed,
                peak=candidate.peak,
                share=speed / rates[candidate.peak] if candidate.peak in rates else None,
                speedup=results[EAGER]["median"] / median,
                speedup_published=results[PUBLISHED]["median"] / median,
                compile_seconds=candidate.compile_seconds,
                **results[name],
            )
        )
    print(table(rows), flush=True)
    return rows, len(errors) == len(candidates)


def table(rows: list[dict]) -> str:
    width = max(len(row["candidate"]) for row in rows)
    lines = [
        f"{'':<{width}}  {'error':>7}  {'median':>10}  {'k points/s':>10}  {'GFLOP/s':>8}  "
        f"{'of peak':>7}  {'x eager':>7}  {'x published':>11}"
    ]
    for row in rows:
        share = "" if row["share"] is None else f"{row['share']:.0%}"
        compiled = row["compile_seconds"]
        lines.append(
            f"{row['candidate']:<{width}}  {row['error']:7.1e}  {1e3 * row['median']:7.1f} ms  "
            f"{row['points_per_second'] / 1e3:10.1f}  {row['flops'] / 1e9:8.1f}  "
            f"{share:>7}  {row['speedup']:7.2f}  {row['speedup_published']:11.2f}"
            + (f"  compiled in {compiled:.0f} s" if compiled is not None else "")
        )
    return "\n".join(lines)


def main() -> None:
    options = parser(__doc__)
    options.set_defaults(repeats=5)
    options.add_argument("--hidden", nargs="+", type=int, default=[128, 256, 512])
    options.add_argument("--blocks", type=int, default=5)
    options.add_argument("--shapes", type=int, default=1)
    options.add_argument("--points", type=int, default=100_000, help="points per shape")
    options.add_argument("--quick", action="store_true", help="only width 256, nothing compiled")
    options.add_argument("--compiled", nargs="*", choices=COMPILED, help="uses of torch.compile")
    options.add_argument("--kernels", nargs="+", choices=CUDA_KERNELS, default=list(CUDA_KERNELS))
    args = options.parse_args()
    if args.quick:
        args.hidden, args.repeats = [256], min(args.repeats, 3)
    if args.compiled is None:
        args.compiled = [] if args.quick else list(COMPILED)
    if args.threads:
        torch.set_num_threads(args.threads)
    facts = environment(args.device) | dict(isa=_extension.cpu_isa())
    print(header("query_bench", facts))
    all_accurate = True
    for hidden_size in args.hidden:
        rows, are_accurate = measure(hidden_size, args)
        all_accurate &= are_accurate
        if args.json:
            write_json(args.json, "query", facts, rows)
    sys.exit(not all_accurate)


if __name__ == "__main__":
    main()

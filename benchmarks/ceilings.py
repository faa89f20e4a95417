"""What this machine reaches at best: copies of memory, and matrix products of the vendor's library.

python benchmarks/ceilings.py [--device cuda] [--json FILE]

Products are of random numbers, because zeros take less power and run faster. A copy counts the
bytes read and those written.
"""

from collections.abc import Callable

import torch

from timing import environment, header, interleave, parser, write_json

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "TF32": torch.float32,
          "fp32": torch.float32}  # fmt: skip


def product(name: str, size: int, device: str) -> Callable[[], object]:
    """A product of two (size, size) matrices, in the precision of this name."""
    a, b = (torch.randn(size, size, device=device).to(DTYPES[name]) for _ in range(2))
    out = torch.empty_like(a)

    def run() -> None:
        torch.set_float32_matmul_precision("high" if name == "TF32" else "highest")
        torch.mm(a, b, out=out)

    return run


def check(size: int, device: str) -> dict[str, float]:
    """Relative errors of the products, which show that each runs in the precision of its name."""
    errors = {}
    for name, dtype in DTYPES.items():
        if device == "cpu" and name == "TF32":
            continue
        torch.set_float32_matmul_precision("high" if name == "TF32" else "highest")
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        exact = a.double() @ b.double()
        errors[name] = float(((a @ b).double() - exact).norm() / exact.norm())
    return errors


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--size", type=int, help="rows of a matrix; default 8192, CPU 1024")
    options.add_argument("--megabytes", type=int, help="of a copy; default 4096, CPU 256")
    args = options.parse_args()
    on_gpu = args.device == "cuda"
    size = args.size or (8192 if on_gpu else 1024)
    megabytes = args.megabytes or (4096 if on_gpu else 256)
    facts = environment(args.device)
    print(header("ceilings", facts))

    errors = check(512, args.device)
    print("check  relative error " + "  ".join(f"{k} {v:.1e}" for k, v in errors.items()))
    source = torch.randint(0, 255, (megabytes << 20,), dtype=torch.uint8, device=args.device)
    target = torch.empty_like(source)
    runs = {"copy": lambda: target.copy_(source)}
    runs |= {name: product(name, size, args.device) for name in errors}
    work = dict.fromkeys(runs, 2 * size**3 / 1e12) | {"copy": 2 * (megabytes << 20) / 1e9}
    results = interleave(runs, repeats=args.repeats, device=args.device)
    rows = []
    for name, result in results.items():
        rate, unit = work[name] / result["median"], "GB/s" if name == "copy" else "TFLOP/s"
        print(f"{name:<5} {rate:>9.2f} {unit:<8} {1e3 * result['median']:.3f} ms")
        sizes = dict(megabytes=megabytes) if name == "copy" else dict(size=size)
        rows.append(
            dict(candidate=name, device=args.device, rate=rate, unit=unit, **sizes, **result)
        )
    if args.json:
        write_json(args.json, "ceilings", facts, rows)


if __name__ == "__main__":
    main()

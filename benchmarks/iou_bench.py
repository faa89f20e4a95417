"""Voxel IoU at several thresholds: one pass of the kernel against one pass per threshold.

python benchmarks/iou_bench.py [--resolution 256] [--batch 1] [--device cuda] [--json FILE]
"""

import numpy as np
import torch

from timing import environment, header, interleave, parser, table, write_json
from occvae.ops import _extension
from occvae.ops.voxel_iou import voxel_iou
from tests.builders import pack_bits, random_grids

THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)


def numpy_float_sums(pred, target):
    """The usual code of evaluation scripts: float32 sums of boolean arrays, per threshold."""
    rows = []
    for threshold in THRESHOLDS:
        hits = pred >= threshold
        both = (hits & target).astype(np.float32).sum(-1)
        rows.append(both / (hits | target).astype(np.float32).sum(-1))
    return torch.from_numpy(np.stack(rows, -1))


def numpy_count_nonzero(pred, target):
    """The fastest exact NumPy code that we know."""
    rows = []
    for threshold in THRESHOLDS:
        hits = pred >= threshold
        both = np.count_nonzero(hits & target, axis=-1)
        rows.append(both / np.count_nonzero(hits | target, axis=-1))
    return torch.from_numpy(np.stack(rows, -1))


def pytorch_sums(pred, target):
    """The usual PyTorch code, per threshold."""
    rows = []
    for threshold in THRESHOLDS:
        hits = pred >= threshold
        rows.append((hits & target).sum(-1).double() / (hits | target).sum(-1))
    return torch.stack(rows, -1)


def pytorch_count_nonzero(pred, target):
    """The fastest PyTorch code that we know on a CPU, which counts whole tensors fast, not rows."""
    rows = []
    for threshold in THRESHOLDS:
        hits = pred >= threshold
        both = torch.stack([row.count_nonzero() for row in hits & target])
        either = torch.stack([row.count_nonzero() for row in hits | target])
        rows.append(both.double() / either)
    return torch.stack(rows, -1)


def candidates(batch: int, resolution: int, device: str) -> dict:
    pred, target = (x.flatten(1).to(device) for x in random_grids(batch, (resolution,) * 3))
    packed = pack_bits(target)
    runs = {
        "kernel, packed target": lambda: voxel_iou(pred, packed, THRESHOLDS, backend="native"),
        "kernel, bool target": lambda: voxel_iou(pred, target, THRESHOLDS, backend="native"),
        "reference implementation": lambda: voxel_iou(
            pred, target, THRESHOLDS, backend="reference"
        ),
        "PyTorch, sum": lambda: pytorch_sums(pred, target),
        "PyTorch, count_nonzero": lambda: pytorch_count_nonzero(pred, target),
    }
    on_cpu = pred.cpu(), target.cpu()
    runs["reference on the CPU"] = lambda: voxel_iou(*on_cpu, THRESHOLDS, backend="reference")
    if device == "cpu":
        arrays = pred.numpy(), target.numpy()
        runs["NumPy, float32 sums"] = lambda: numpy_float_sums(*arrays)
        runs["NumPy, count_nonzero"] = lambda: numpy_count_nonzero(*arrays)
    return runs


def check(runs: dict) -> float:
    """Returns the largest difference of any candidate from the reference implementation.

    Float32 sums may lose some voxels. The reference runs on the CPU.
    """
    expected = runs.pop("reference on the CPU")()
    worst = max((run().cpu().double() - expected).abs().max().item() for run in runs.values())
    if not worst < 1e-6:
        raise SystemExit(f"candidates differ by {worst}: no times")
    return worst


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--resolution", type=int, default=256)
    options.add_argument("--batch", type=int, default=1)
    args = options.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    facts = environment(args.device) | dict(isa=_extension.cpu_isa())
    voxels = args.batch * args.resolution**3
    print(header("iou_bench", facts))
    print(f"  batch {args.batch}  grid {args.resolution}^3 float32  thresholds {len(THRESHOLDS)}")

    runs = candidates(args.batch, args.resolution, args.device)
    print(f"check  largest difference from the reference {check(runs):.1e}")
    results = interleave(runs, repeats=args.repeats, device=args.device)
    print(table(results, unit="kernel, packed target"))
    rate = voxels / results["kernel, packed target"]["median"]
    print(f"kernel, packed target: {rate / 1e9:.2f} G voxels/s, {4.125 * rate / 1e9:.1f} GB/s")
    if args.json:
        size = dict(batch=args.batch, resolution=args.resolution, thresholds=len(THRESHOLDS))
        rows = [dict(candidate=name, device=args.device, **size, **results[name]) for name in runs]
        write_json(args.json, "iou", facts, rows)


if __name__ == "__main__":
    main()

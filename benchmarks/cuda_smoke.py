"""Runs every CUDA kernel once under compute-sanitizer, at sizes that are not multiples of a tile.

compute-sanitizer --tool racecheck --kernel-name kns=occvae python benchmarks/cuda_smoke.py

An op that fails does not stop the others. The last line lists the ops that failed.
"""

import sys
import traceback
from contextlib import nullcontext

import torch

from timing import parser
from occvae.ops.marching_cubes import marching_cubes
from occvae.ops.mise import mise
from occvae.ops.query_occupancy import query_occupancy
from occvae.ops.voxel_iou import voxel_iou_counts
from tests.builders import pack_bits, random_decoder, random_grids
from tests.ops.query_oracle import BARS, limit_cuda_kernel


def voxel_iou(device: str) -> None:
    for dtype in (torch.float32, torch.float16):
        pred, target = (x.to(device) for x in random_grids(3, (17, 16, 15), dtype=dtype))
        for given_as in (target, target.to(dtype), pack_bits(target)):
            voxel_iou_counts(pred, given_as, (0.1, 0.3, 0.5), backend="native")


def meshes(device: str) -> None:
    radii = torch.tensor([0.3, 0.41], device=device)

    def field(points: torch.Tensor, shape_index: torch.Tensor) -> torch.Tensor:
        return radii[shape_index] - points.norm(dim=1)

    grid = mise(
        field, resolution=64, coarse_resolution=8, num_shapes=2, device=device, backend="native"
    )
    assert all(len(faces) for _, faces in marching_cubes(grid, backend="native"))


def meshes_to_the_bounds(device: str) -> None:
    """A surface that meets the bounds, in half precision, with refined vertices.

    The second lattice is as coarse as the resolution, so the first round knows every point.
    """

    def field(points: torch.Tensor, shape_index: torch.Tensor) -> torch.Tensor:
        return (points[:, 0] - points[:, 1] + 0.013).half()

    for coarse_resolution in (8, 64):
        grid = mise(
            field,
            resolution=64,
            coarse_resolution=coarse_resolution,
            device=device,
            backend="native",
        )
        ((_, faces),) = marching_cubes(grid, field=field, refine_vertices=1, backend="native")
        assert len(faces)


def queries(device: str) -> None:
    """Every kernel with more tiles than a large GPU runs at once, and one point far outside."""
    for channels, kernels in ((128, (2,)), (256, (2, 3))):  # see csrc/cuda/query_kernels.cuh
        decoder = random_decoder(channels, 1).to(device)
        points = torch.rand(2, 20_001, 3, device=device) - 0.5
        points[1, 13_007] *= 1e5
        conditioning = torch.randn(2, 16, device=device)
        expected = decoder(points, conditioning)
        for limit in kernels if device == "cuda" else (None,):
            with limit_cuda_kernel(limit) if limit else nullcontext():
                for precision in ("fp16", "bf16") if limit else BARS:
                    check_query(decoder, points, conditioning, expected, precision)
        few = points[:, :3001].contiguous()
        check_query(decoder, few, conditioning, expected[:, :3001], "fp32")


def check_query(decoder, points, conditioning, expected, precision: str) -> None:
    packed = decoder.pack(conditioning, precision, backend="native")
    values = query_occupancy(points, packed)
    assert values.isfinite().all()
    usual = points.abs().amax(dim=2) < 1
    error = (values - expected)[usual].norm() / expected[usual].norm()
    assert error < 1e-5 + 2 * BARS[precision], f"{precision}: error {error:.1e}"


def main() -> None:
    device = parser(__doc__).parse_args().device
    torch.manual_seed(0)
    failed = []
    for run in (voxel_iou, meshes, meshes_to_the_bounds, queries):
        try:
            with torch.no_grad():
                run(device)
            if device == "cuda":
                torch.cuda.synchronize()
            print(f"{run.__name__}: done", flush=True)
        except Exception:
            traceback.print_exc()
            failed.append(run.__name__)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()

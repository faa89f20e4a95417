"""Every CUDA kernel once, at sizes with tails, for compute-sanitizer; a failing op says so.

compute-sanitizer --tool racecheck --kernel-name kns=occvae python benchmarks/cuda_smoke.py
"""

import sys
import traceback

import torch

from timing import parser
from occvae.models.decoders import CbnDecoder
from occvae.ops.marching_cubes import marching_cubes
from occvae.ops.mise import mise
from occvae.ops.voxel_iou import voxel_iou_counts
from tests.builders import pack_bits, random_grids


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
    """Caps, half precision, refined vertices; and a lattice of which every point is known."""

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


def query_occupancy(device: str) -> None:
    from occvae.ops.query_occupancy import query_occupancy as query

    for channels in (128, 256):
        decoder = CbnDecoder(64, channels, num_blocks=2).to(device).eval()
        for precision in ("fp32", "fp16", "bf16"):
            packed = decoder.pack(torch.randn(2, 64, device=device), precision, backend="native")
            values = query(torch.rand(2, 301, 3, device=device) - 0.5, packed)
            assert values.isfinite().all()


def main() -> None:
    device = parser(__doc__).parse_args().device
    torch.manual_seed(0)
    failed = []
    for run in (voxel_iou, meshes, meshes_to_the_bounds, query_occupancy):
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

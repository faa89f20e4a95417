"""Runs every CUDA kernel once and compares it with the CPU, at sizes that no tile divides.

python benchmarks/cuda_smoke.py --device cuda [--only meshes voxel_iou]
compute-sanitizer --tool racecheck --kernel-name kns=occvae python benchmarks/cuda_smoke.py ...

A check that fails does not stop the others. The last line lists the checks that failed. The
wgmma kernel of query_occupancy has a check of its own, because a kernel that hangs cannot be
stopped without its process.
"""

import sys
import time
import traceback
from contextlib import nullcontext

import torch

from timing import parser
from occvae.ops.inside_mesh import inside_mesh, winding_number, winding_sign
from occvae.ops.marching_cubes import marching_cubes
from occvae.ops.mise import Field, mise
from occvae.ops.query_occupancy import query_occupancy
from occvae.ops.query_triplane import query_triplane
from occvae.ops.voxel_iou import voxel_iou_counts
from tests.builders import pack_bits, random_decoder, random_grids
from tests.mesh_builders import random_rotation, sphere
from tests.ops.query_oracle import BARS, limit_cuda_kernel
from tests.ops.triplane_oracle import BARS as TRIPLANE_BARS
from tests.ops.triplane_oracle import Triplane, random_points, relative_error

MMA, WGMMA = 2, 3  # QueryKernel of csrc/cuda/query_kernels.cuh


def voxel_iou(device: str) -> None:
    for dtype in (torch.float32, torch.float16):
        pred, target = random_grids(3, (17, 16, 15), dtype=dtype)
        for given_as in (target, target.to(dtype), pack_bits(target)):
            counts = [
                voxel_iou_counts(pred.to(on), given_as.to(on), (0.1, 0.3, 0.5), backend="native")
                for on in (device, "cpu")
            ]
            assert torch.equal(counts[0].cpu(), counts[1])


def meshes(device: str) -> None:
    radii = torch.tensor([0.3, 0.41])

    def field(points: torch.Tensor, shape_index: torch.Tensor) -> torch.Tensor:
        return radii[shape_index] - points.norm(dim=1)

    check_meshes(device, field, coarse_resolution=8, num_shapes=2)


def meshes_to_the_bounds(device: str) -> None:
    """A surface that meets the bounds, in half precision, with refined vertices.

    The second lattice is as coarse as the resolution, so the first round knows every point.
    """

    def field(points: torch.Tensor, shape_index: torch.Tensor) -> torch.Tensor:
        return (points[:, 0] - points[:, 1] + 0.013).half()

    for coarse_resolution in (8, 64):
        check_meshes(device, field, coarse_resolution=coarse_resolution, refine_vertices=1)


def check_meshes(device: str, field: Field, refine_vertices: int = 0, **options) -> None:
    """Compares meshes with those of the CPU. The field runs on the CPU, for equal values.

    Refined vertices may differ by rounding errors, because they come from PyTorch.
    """

    def on_cpu(points: torch.Tensor, shape_index: torch.Tensor) -> torch.Tensor:
        return field(points.cpu(), shape_index.cpu()).to(points.device)

    found = []
    for on in (device, "cpu"):
        grid = mise(on_cpu, resolution=64, device=on, backend="native", **options)
        refining = dict(field=on_cpu, refine_vertices=refine_vertices)
        found.append((grid, marching_cubes(grid, **refining, backend="native")))
    (grid, meshes), (expected_grid, expected_meshes) = found
    for name in ("points", "values", "shape_index"):
        assert torch.equal(getattr(grid, name).cpu(), getattr(expected_grid, name)), name
    for mesh, expected in zip(meshes, expected_meshes, strict=True):
        vertices, faces = (part.cpu() for part in mesh)
        assert len(faces) and torch.equal(faces, expected[1])
        tolerance = 1e-6 if refine_vertices else 0.0
        torch.testing.assert_close(vertices, expected[0], rtol=0, atol=tolerance)


def points_inside_meshes(device: str) -> None:
    """Parity and winding numbers of a closed mesh and of one with a hole."""
    vertices, faces = sphere(3)
    vertices = vertices @ random_rotation(0)
    points = 1.1 * torch.rand(1001, 3, dtype=torch.float64) - 0.55
    for chosen in (faces, faces[:-100]):
        for dtype in (torch.float32, torch.float64):
            inputs = vertices.to(dtype), chosen, points.to(dtype)
            on_device = [part.to(device) for part in inputs]
            found = inside_mesh(*on_device, backend="native")
            assert torch.equal(found.cpu(), inside_mesh(*inputs, backend="native"))
            number = winding_number(*inputs, backend="native")
            found = winding_number(*on_device, backend="native")
            torch.testing.assert_close(found.cpu(), number, rtol=0, atol=1e-9)
            found = winding_sign(*on_device, backend="native").cpu()
            clear = (number.abs() - 0.5).abs() > 1e-9
            expected = winding_sign(*inputs, backend="native")
            assert torch.equal(found[clear], expected[clear])


def queries(device: str) -> None:
    """All kernels of query_occupancy but wgmma."""
    for channels in (128, 256):
        check_queries(device, channels, MMA)


def queries_wgmma(device: str) -> None:
    check_queries(device, 256, WGMMA)


def check_queries(device: str, channels: int, kernel: int) -> None:
    """Compares a kernel with PyTorch on the CPU.

    There are more tiles than a large GPU runs at once, and one point far outside.
    """
    decoder = random_decoder(channels, 1)
    points = torch.rand(2, 20_001, 3) - 0.5
    points[1, 13_007] *= 1e5
    conditioning = torch.randn(2, 16)
    expected = decoder(points, conditioning).to(device)
    decoder, points, conditioning = decoder.to(device), points.to(device), conditioning.to(device)
    with limit_cuda_kernel(kernel) if device == "cuda" else nullcontext(kernel) as found:
        if found != kernel:
            print(f"this GPU has no kernel {kernel}, so kernel {found} runs instead")
        for precision in ("fp16", "bf16"):
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


def triplane_queries(device: str) -> None:
    """Both kernels of query_triplane, and the second pass of fp16 for one point in a thousand."""
    for channels in (64, 96):
        triplane, points = Triplane.random(channels, 2, shapes=2), random_points(2, 20_001)
        triplane.planes[1, :, 3, 5] *= 1e4
        expected = triplane.logits(points)
        on_device = triplane.to(device)
        for precision in ("fp32", "fp16", "bf16"):
            packed = on_device.pack(precision, backend="native")
            error = relative_error(query_triplane(points.to(device), packed), expected)
            assert error < TRIPLANE_BARS[precision], f"{precision}: error {error:.1e}"


CHECKS = {
    check.__name__: check
    for check in (
        *(voxel_iou, meshes, meshes_to_the_bounds, points_inside_meshes),
        *(queries, triplane_queries, queries_wgmma),
    )
}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS))
    args = options.parse_args()
    failed = []
    for name in args.only:
        start = time.perf_counter()
        torch.manual_seed(0)
        try:
            with torch.no_grad():
                CHECKS[name](args.device)
            if args.device == "cuda":
                torch.cuda.synchronize()
            print(f"{name}: done in {time.perf_counter() - start:.1f} s", flush=True)
        except Exception:
            traceback.print_exc()
            failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()

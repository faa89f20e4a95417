"""Tests the functions of csrc/cuda/ptx.cuh: emulated on the CPU, and themselves on a GPU."""

import pytest
import torch

from tests.conftest import DEVICES
from tests.cuda_emulator import build, library

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="no g++")
FLOATS = (torch.float16, torch.bfloat16)


@pytest.fixture(scope="module", params=DEVICES)
def kernels(request):
    if request.param == "cpu":
        return library.emulated_kernels()
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA: no GPU")
    return library.cuda_kernels()


def needs_hopper(kernels) -> None:
    if kernels.device == "cuda" and torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("needs a GPU of compute capability 9.0")


def randn(kernels, *shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(kernels.device)


SPECIAL = [0.0, -0.0, 1.0, -1.0, 65472.0, 65488.0, 65503.0, 65504.0, 65519.0, 65520.0, 1e6, -1e6,
           2.0**-14, 2.0**-15, 2.0**-24, 2.0**-25, 1.5 * 2**-24, 2.0**-26, 1.0 + 2**-11,
           1.0 + 3 * 2**-11, 1.0 + 2**-8, 1.0 + 3 * 2**-8, 3e38, torch.inf, -torch.inf, torch.nan,
           ]  # fmt: skip


def test_conversions_round_as_pytorch_does(kernels):
    plain = randn(kernels, 3974) * torch.logspace(-8, 6, 3974, device=kernels.device)
    values = torch.cat([torch.tensor(SPECIAL, device=kernels.device), plain])
    packed = torch.zeros(len(values) // 2, 3, dtype=torch.int32, device=kernels.device)
    kernels.run("convert", len(packed), values, packed)

    def column(i: int, dtype: torch.dtype) -> torch.Tensor:
        return packed[:, i].contiguous().view(dtype)

    def assert_same(got: torch.Tensor, expected: torch.Tensor) -> None:
        torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)

    fp16 = values.clamp(-65504, 65504).half()  # clamp keeps NaN
    assert_same(column(0, torch.float16), fp16.relu())
    assert_same(column(1, torch.bfloat16), values.relu().bfloat16())
    guarded = torch.where(fp16 == 65504, torch.nan, fp16.relu())
    assert_same(column(2, torch.float16), guarded)


@pytest.mark.parametrize("dtype", FLOATS)
def test_mma_is_a_matrix_product(kernels, dtype):
    a, b, c = randn(kernels, 16, 16), randn(kernels, 8, 16, seed=1), randn(kernels, 16, 8, seed=2)
    a, b, out = a.to(dtype), b.to(dtype), c.clone()
    kernels.run("multiply", dtype == torch.bfloat16, a, b, out)
    expected = c.double() + a.double() @ b.double().t()
    # Tensor cores truncate the sums of products. 2e-5 is five times the largest error of that.
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=2e-5)


def test_stmatrix_stores_the_matrices_of_the_lanes(kernels):
    needs_hopper(kernels)
    matrices = randn(kernels, 4, 8, 8).half()
    out = torch.zeros_like(matrices)
    kernels.run("copy_matrices", matrices, out)
    assert torch.equal(out, matrices)


@pytest.mark.parametrize("stream", ["stream_copies", "stream_bulk"])
def test_copies_through_two_buffers_arrive(kernels, stream):
    if stream == "stream_bulk":
        needs_hopper(kernels)
    values = randn(kernels, 9 * 256)
    for seed in range(5):
        kernels.seed(seed)
        out = torch.zeros_like(values)
        kernels.run(stream, 9, values, out, 0)
        assert torch.equal(out, values)


def test_named_barriers_pass_values_on(kernels):
    expected = torch.arange(20 * 64, dtype=torch.int32, device=kernels.device)
    for seed in range(5):
        kernels.seed(seed)
        out = torch.zeros_like(expected)
        kernels.run("hand_over", 20, out, 0)
        assert torch.equal(out, expected)


def run_wgmma(kernels, dtype, columns: int, mistake: int = 0) -> float:
    """Largest error of a product by wgmma. Each sum has 64 terms of about 1."""
    a, b = randn(kernels, 64, 64).to(dtype), randn(kernels, columns, 64, seed=1).to(dtype)
    out = torch.zeros(64, columns, device=kernels.device)
    kernels.run("wgmma", dtype == torch.bfloat16, columns, a, b, out, mistake)
    return (out.double() - a.double() @ b.double().t()).abs().nan_to_num(torch.inf).max()


@pytest.mark.parametrize("columns", [128, 256])
@pytest.mark.parametrize("dtype", FLOATS)
def test_wgmma_is_a_matrix_product(kernels, dtype, columns):
    needs_hopper(kernels)
    for seed in range(4):
        kernels.seed(seed)
        assert run_wgmma(kernels, dtype, columns) < 1e-4


def test_copies_to_both_blocks_of_a_cluster_arrive(kernels):
    needs_hopper(kernels)
    values = randn(kernels, 9 * 256)
    for seed in range(5):
        kernels.seed(seed)
        out = torch.zeros(2, 9 * 256, device=kernels.device)
        kernels.run("stream_to_cluster", 9, values, out, 0)
        assert torch.equal(out, values.expand(2, -1))

"""Tests of each CUDA kernel of query_occupancy against a decoder in float64.

They run on a GPU, or on the emulator of tests/cuda_emulator with OCCVAE_TEST_EMULATED_CUDA=1.
"""

import os
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch

from occvae.ops import query_occupancy as ops
from occvae.ops.query_points import unpack_panels
from tests.conftest import EMULATED_CUDA
from tests.ops.query_oracle import BARS, activations, limit_cuda_kernel

FP32, MMA, WGMMA, DEEP, PAIRS = 1, 2, 3, 4, 5  # QueryKernel of csrc/cuda/query_kernels.cuh
VARIANTS = (WGMMA, DEEP, PAIRS)
NAMES = {FP32: "fma", MMA: "mma", WGMMA: "wgmma", DEEP: "wgmma-deep", PAIRS: "wgmma-pairs"}
# Largest errors against a float64 decoder that rounds its operands too. The rest are the rounding
# errors of sums, and operands next to a tie that these errors round to the other number.
ROUNDED_BOUNDS = {"fp32": 1e-6, "fp16": 1.5e-4, "bf16": 1.5e-3}
ROUNDED = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
REQUIRED = os.environ.get("OCCVAE_REQUIRE_CUDA") == "1" and not EMULATED_CUDA
DEVICES = ("cpu",) if EMULATED_CUDA else (pytest.param("cuda", marks=pytest.mark.needs_cuda),)

# Kernel, precision, channels: every kernel at each of its widths, fp32 at odd widths too.
KERNELS = [
    *((FP32, "fp32", channels) for channels in (32, 96, 128, 160, 256, 512)),
    *((MMA, precision, channels) for precision in ("fp16", "bf16") for channels in (128, 256)),
    *((kernel, precision, 256) for kernel in VARIANTS for precision in ("fp16", "bf16")),
]
pytestmark = pytest.mark.parametrize("device", DEVICES)


def _name(value: object) -> str | None:
    """The name of a kernel as part of a test's name, so that `-k wgmma` selects its tests."""
    return NAMES.get(value)


all_kernels = pytest.mark.parametrize(("kernel", "precision", "channels"), KERNELS, ids=_name)
FAST = [(FP32, "fp32", 64), (MMA, "fp16", 128), (MMA, "fp16", 256)]
FAST += [(kernel, "fp16", 256) for kernel in VARIANTS]
fast_kernels = pytest.mark.parametrize(("kernel", "precision", "channels"), FAST, ids=_name)


@contextmanager
def only_kernel(kernel: int):
    """Packs for this kernel. Without it the test skips, or fails if the device should have it."""
    with limit_cuda_kernel(kernel) as found:
        if found != kernel:
            missing = pytest.fail if REQUIRED and _should_have(kernel) else pytest.skip
            missing(f"this device has no kernel {kernel}")
        yield


def _should_have(kernel: int) -> bool:
    capability = torch.cuda.get_device_capability()
    return capability == (9, 0) if kernel >= WGMMA else capability >= (8, 0)


@dataclass
class Decoder:
    """Folded random decoder of B shapes with activations of about 1."""

    input: torch.Tensor
    weights: torch.Tensor
    affines: torch.Tensor
    head: torch.Tensor

    @classmethod
    def random(cls, channels, blocks=2, shapes=1, seed=0):
        generator = torch.Generator().manual_seed(seed)

        def normal(*size):
            return torch.randn(size, generator=generator)

        affines = torch.stack(
            [1 + 0.3 * normal(shapes, 2 * blocks + 1, channels),
             0.3 * normal(shapes, 2 * blocks + 1, channels)], dim=2
        )  # fmt: skip
        return cls(
            3 * normal(3, channels),
            normal(2 * blocks, channels, channels) * channels**-0.5,
            affines,
            normal(channels + 1) * channels**-0.5,
        )

    def exact(self, points, offsets, precision="fp32", watched=None):
        """Evaluates the decoder in float64 with operands rounded to `precision`.

        Returns:
            Logits (M,), 0 in unused rows, and (M,) the largest operand before rounding. With
            `watched` = (layer, number of channels), only these operands count.
        """
        results = torch.zeros(2, len(points), dtype=torch.float64)
        for shape in range(len(self.affines)):
            rows = slice(offsets[shape], offsets[shape + 1])
            folded = self.input, self.weights, self.affines[shape : shape + 1], self.head
            operands, results[0, rows] = activations(folded, points[rows], ROUNDED[precision])
            for layer, operand in enumerate(operands):
                if watched is None or watched[0] == layer:
                    seen = operand if watched is None else operand[:, : watched[1]]
                    results[1, rows] = torch.maximum(results[1, rows], seen.amax(dim=1))
        return results

    def query(self, points, offsets, precision, device):
        """Evaluates the decoder with the op."""
        number = ops.PRECISIONS.index(precision)
        weights = self.weights.to(device)
        exact = torch.ops.occvae._pack_query_weights(weights, 0)
        packed = torch.ops.occvae._pack_query_weights(weights, number) if number else exact
        logits = torch.ops.occvae.query_occupancy(
            points.to(device), torch.tensor(offsets, device=device), self.input.to(device), packed,
            exact, self.affines.to(device), self.head.to(device), number,
        )  # fmt: skip
        return logits.cpu()


def random_points(count, seed=0):
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(seed)) * 1.1 - 0.55


def offsets_of(*counts):
    return [0, *torch.tensor(counts).cumsum(0).tolist()]


def relative_error(logits, exact):
    return ((logits - exact).norm() / exact.norm()).item()


def assert_rounded(logits, decoder, points, offsets, precision):
    expected, _ = decoder.exact(points, offsets, precision)
    assert relative_error(logits, expected) <= ROUNDED_BOUNDS[precision]


@all_kernels
def test_logits_agree_with_float64(kernel, precision, channels, device):
    decoder = Decoder.random(channels)
    points, offsets = random_points(150), offsets_of(150)
    with only_kernel(kernel):
        logits = decoder.query(points, offsets, precision, device)
    expected, _ = decoder.exact(points, offsets)
    assert relative_error(logits, expected) <= BARS[precision]
    assert_rounded(logits, decoder, points, offsets, precision)


@fast_kernels
def test_shapes_may_differ_in_size_and_unused_rows_are_zero(kernel, precision, channels, device):
    counts = (1, 0, 130, 64, 3, 0, 128)
    decoder = Decoder.random(channels, blocks=1, shapes=len(counts))
    offsets = offsets_of(*counts)
    points = random_points(offsets[-1] + 70)
    with only_kernel(kernel):
        logits = decoder.query(points, offsets, precision, device)
    assert_rounded(logits, decoder, points, offsets, precision)
    assert (logits[offsets[-1] :] == 0).all()


@fast_kernels
@pytest.mark.parametrize("blocks", (0, 1, 3))
def test_any_number_of_blocks_is_accurate(kernel, precision, channels, blocks, device):
    decoder = Decoder.random(channels, blocks)
    points, offsets = random_points(70), offsets_of(70)
    with only_kernel(kernel):
        logits = decoder.query(points, offsets, precision, device)
    assert_rounded(logits, decoder, points, offsets, precision)


@fast_kernels
def test_a_value_depends_on_its_point_alone(kernel, precision, channels, device):
    decoder = Decoder.random(channels, blocks=1, shapes=2)
    points = random_points(700)
    points[13] *= 1e5  # goes through the range guard in fp16
    with only_kernel(kernel):
        alone = decoder.query(points, offsets_of(0, 700), precision, device)
        # `before` changes the place of points in their tile, `count` the number of tiles.
        for before, count in ((0, 50), (3, 333), (129, 700)):
            rows = torch.cat([random_points(before, seed=1), points[:count]])
            logits = decoder.query(rows, offsets_of(before, count), precision, device)
            assert torch.equal(logits[before:], alone[:count])


@fast_kernels
@pytest.mark.parametrize("count", (0, 1, 15, 17, 63, 65, 129, 257))
def test_any_number_of_points_is_accurate(kernel, precision, channels, count, device):
    decoder = Decoder.random(channels, blocks=1)
    points = random_points(257)
    with only_kernel(kernel):
        logits = decoder.query(points[:count], offsets_of(count), precision, device)
        everything = decoder.query(points, offsets_of(257), precision, device)
    assert torch.equal(logits, everything[:count])


@pytest.mark.parametrize(
    ("kernel", "channels"),
    [(MMA, 128), (MMA, 256), *((kernel, 256) for kernel in VARIANTS)],
    ids=_name,
)
@pytest.mark.parametrize("layer", (0, 1, 2, 3))
def test_points_out_of_the_range_of_fp16_are_computed_in_fp32(kernel, channels, layer, device):
    decoder = Decoder.random(channels, shapes=2)
    points, offsets = random_points(200), offsets_of(90, 110)
    # Some channels of one operand are beyond fp16 at half the points, and scaled back afterwards.
    scale = 65504 / decoder.exact(points, offsets, watched=(layer, 8))[1].median().item()
    decoder.affines[:, layer, :, :8] *= scale
    decoder.weights[layer, :, :8] /= scale
    in_fp16, _ = decoder.exact(points, offsets, "fp16")
    in_fp32, largest = decoder.exact(points, offsets)
    beyond, within = largest > 1.01 * 65504, largest < 0.99 * 65504
    assert beyond.sum() > 60 and within.sum() > 60
    with only_kernel(kernel):
        logits = decoder.query(points, offsets, "fp16", device)
        fp32 = decoder.query(points, offsets, "fp32", device)
    assert torch.equal(logits[beyond], fp32[beyond])
    assert (logits == fp32)[within].float().mean() < 0.05  # by chance
    assert relative_error(logits[within], in_fp16[within]) <= BARS["fp16"]
    assert relative_error(logits[beyond], in_fp32[beyond]) <= BARS["fp32"]


@pytest.mark.skipif(EMULATED_CUDA, reason="takes minutes on an emulator")
@pytest.mark.parametrize(
    ("kernel", "precision", "channels"),
    [case for case in KERNELS if case[2] in (128, 256)],
    ids=_name,
)
def test_many_tiles_per_block_are_accurate(kernel, precision, channels, device):
    """Every block gets several tiles, and the kernels run with their largest tiles."""
    decoder = Decoder.random(channels, shapes=3)
    points, offsets = random_points(40_000), offsets_of(17_001, 0, 22_900)
    points[31_007] *= 1e5  # goes through the range guard in fp16
    with only_kernel(kernel):
        logits = decoder.query(points, offsets, precision, device)
        fp32 = decoder.query(points, offsets, "fp32", device)
    expected, _ = decoder.exact(points, offsets)
    usual = torch.arange(len(points)) != 31_007
    assert relative_error(fp32[usual], expected[usual]) <= BARS["fp32"]
    assert relative_error(logits[usual], expected[usual]) <= BARS[precision]
    assert relative_error(logits[~usual], expected[~usual]) <= BARS[precision]
    assert precision != "fp16" or logits[31_007] == fp32[31_007]
    assert (logits[offsets[-1] :] == 0).all()


@fast_kernels
def test_nan_points_give_nan_and_change_no_others(kernel, precision, channels, device):
    decoder = Decoder.random(channels, blocks=1)
    points = random_points(100)
    with only_kernel(kernel):
        clean = decoder.query(points, offsets_of(100), precision, device)
        points[[3, 64, 99], [0, 1, 2]] = torch.nan
        logits = decoder.query(points, offsets_of(100), precision, device)
    bad = torch.zeros(100, dtype=torch.bool)
    bad[[3, 64, 99]] = True
    assert torch.equal(logits.isnan(), bad)
    assert torch.equal(logits[~bad], clean[~bad])


def test_weights_packed_for_another_kernel_or_width_are_refused(device):
    small, large = Decoder.random(128, blocks=1), Decoder.random(256, blocks=1)
    packs = []
    for kernel in (FP32, MMA):
        with only_kernel(kernel):
            for decoder in (small, large):
                packs.append(torch.ops.occvae._pack_query_weights(decoder.weights.to(device), 1))
    points, offsets = random_points(5).to(device), torch.tensor([0, 5], device=device)
    exact = torch.ops.occvae._pack_query_weights(large.weights.to(device), 0)
    rest = [large.affines.to(device), large.head.to(device)]

    def query(weights, precision):
        torch.ops.occvae.query_occupancy(
            points, offsets, large.input.to(device), weights, exact, *rest, precision
        )

    for weights in (packs[0], packs[2], large.weights.to(device), packs[3][:0]):
        with pytest.raises(RuntimeError, match="weights were not packed on CUDA, or for other"):
            query(weights, 1)
    for precision in (0, 2):
        with pytest.raises(RuntimeError, match="weights were packed for another precision"):
            query(packs[3], precision)
    with pytest.raises(RuntimeError, match="exact_weights were not packed for fp32"):
        torch.ops.occvae.query_occupancy(
            points, offsets, large.input.to(device), exact, packs[3], *rest, 1
        )


def test_widths_without_a_16_bit_kernel_are_packed_for_fp32(device):
    packed = torch.ops.occvae._pack_query_weights(Decoder.random(96).weights.to(device), 1)
    assert packed.dtype == torch.float32
    with pytest.raises(RuntimeError, match="at most 1024 channels"):
        torch.ops.occvae._pack_query_weights(torch.zeros(2, 1056, 1056, device=device), 0)


def test_packed_fp32_weights_are_panels_readable_by_the_gradient(device):
    weights = Decoder.random(96).weights.to(device)
    assert torch.equal(unpack_panels(torch.ops.occvae._pack_query_weights(weights, 0)), weights)

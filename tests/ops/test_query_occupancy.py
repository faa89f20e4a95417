"""Tests of query_occupancy against the decoder module in float64, without packing or folding."""

import copy
import math
from contextlib import nullcontext
from functools import cache

import pytest
import torch
from torch import Tensor

from occvae.models.decoders import CbnDecoder
from occvae.ops import _extension, query_points
from occvae.ops import query_occupancy as ops
from occvae.ops.query_occupancy import pack_decoder, query_occupancy, query_shapes
from occvae.ops.query_points import PRECISIONS
from tests.builders import random_decoder
from tests.conftest import DEVICES, needs_kernels
from tests.ops.query_oracle import (
    activations,
    assert_accurate,
    inputs,
    limit_cuda_kernel,
    oracle,
    overflowing,
    packed_flat,
)

HALF_MAX = 65504.0


@pytest.fixture(params=["reference", *_extension.ISA_NAMES])
def backend(request: pytest.FixtureRequest):
    """The reference implementation, and the kernel with every instruction set."""
    if request.param == "reference":
        yield "reference"
        return
    if _extension.status()["_C"] is not None:
        pytest.skip("occvae._C is not built")
    with _extension.limit_cpu_isa(request.param):
        yield "native"


@cache
def known_logits(width: int, blocks: int) -> tuple[CbnDecoder, Tensor, Tensor, Tensor]:
    """A decoder, points, conditioning and the logits in float64."""
    decoder, (points, conditioning) = random_decoder(width, blocks), inputs(2, 301)
    return decoder, points, conditioning, oracle(decoder, points, conditioning)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("blocks", [0, 1, 5])
@pytest.mark.parametrize("width", [32, 64, 100, 128, 256, 512])
@pytest.mark.parametrize("device", DEVICES)
def test_logits_are_accurate_for_all_widths_depths_and_precisions(
    device, backend, width, blocks, precision
):
    decoder, points, conditioning, expected = known_logits(width, blocks)
    packed = copy.deepcopy(decoder).to(device).pack(conditioning.to(device), precision, backend)
    assert packed.path == backend
    assert_accurate(query_occupancy(points.to(device), packed), expected, precision)


@pytest.mark.parametrize("device", DEVICES)
def test_16_bit_errors_are_larger_and_fp16_is_finer(device, backend):
    decoder = random_decoder(128, 5).to(device)
    points, conditioning = (part.to(device) for part in inputs(1, 2000))
    expected = oracle(decoder, points, conditioning)

    def error(precision: str) -> float:
        found = query_occupancy(points, decoder.pack(conditioning, precision, backend))
        return float((found.cpu() - expected).norm() / expected.norm())

    assert 30 * error("fp32") < error("fp16") < error("bf16") / 4


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sizes", [[0, 0], [5, 0, 0, 70, 1], [0, 250, 3], [300]])
@pytest.mark.parametrize("unused", [0, 40])
def test_shapes_may_have_any_size_and_unused_rows_are_zero(device, sizes, unused):
    decoder = random_decoder(32, 1).to(device)
    conditioning = inputs(len(sizes), 1)[1].to(device)
    points = inputs(1, sum(sizes) + unused)[0][0].to(device)
    offsets = torch.tensor([0, *sizes], device=device).cumsum(0)
    packed = decoder.pack(conditioning)
    found = torch.ops.occvae.query_occupancy(points, offsets, *packed_flat(packed))
    assert found.shape == points.shape[:1] and not found[sum(sizes) :].any()
    for shape, part in enumerate(points[: sum(sizes)].split(sizes)):
        expected = oracle(decoder, part[None], conditioning[shape : shape + 1])[0]
        first = int(offsets[shape])
        torch.testing.assert_close(
            found[first : first + len(part)].cpu().double(), expected, rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shapes", [1, 3, 40])
def test_shapes_may_come_in_any_order(device, backend, shapes):
    decoder = random_decoder(32, 1).to(device)
    conditioning = inputs(shapes, 1)[1].to(device)
    points = inputs(1, 500)[0][0].to(device)
    generator = torch.Generator().manual_seed(0)
    shape_index = torch.randint(shapes, (500,), generator=generator).to(device)
    packed = decoder.pack(conditioning, "fp32", backend)
    found = query_shapes(points, shape_index, packed)
    expected = oracle(decoder, points[:, None], conditioning[shape_index])[:, 0]
    torch.testing.assert_close(found.cpu().double(), expected, rtol=1e-4, atol=1e-4)
    assert query_shapes(points[:0], shape_index[:0], packed).shape == (0,)
    shape_index, order = shape_index.sort(stable=True)
    in_order = query_shapes(points[order], shape_index, packed, is_sorted=True)
    assert torch.equal(in_order, found[order])


@pytest.mark.parametrize(("shapes", "count"), [(1, 0), (3, 0), (1, 7), (1, 1), (4, 5)])
def test_offsets_of_equal_shapes_are_multiples_of_their_size(shapes, count):
    offsets = query_points.equal_offsets(shapes, count, torch.zeros(1))
    assert offsets.dtype == torch.int64
    assert offsets.tolist() == [shape * count for shape in range(shapes + 1)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("count", [0, 1])
def test_zero_points_and_one_point_are_allowed(device, backend, precision, count):
    decoder = random_decoder(64, 1).to(device)
    points, conditioning = (part.to(device) for part in inputs(2, count))
    found = query_occupancy(points, decoder.pack(conditioning, precision, backend))
    assert found.shape == (2, count)
    torch.testing.assert_close(
        found.cpu().double(), oracle(decoder, points, conditioning), rtol=0.05, atol=0.05
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("scale", [1e2, 1e4, 1e6, 1e15])
def test_points_far_outside_give_accurate_logits(device, backend, precision, scale):
    decoder = random_decoder(64, 2).to(device)
    points, conditioning = (part.to(device) for part in inputs(2, 100))
    found = query_occupancy(points * scale, decoder.pack(conditioning, precision, backend))
    assert found.isfinite().all()
    assert_accurate(found, oracle(decoder, points * scale, conditioning), precision)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_huge_logits_are_accurate(device, backend, precision):
    decoder = random_decoder(64, 1).to(device)
    decoder.linear_out.weight.data *= 1e30
    points, conditioning = (part.to(device) for part in inputs(1, 300))
    found = query_occupancy(points, decoder.pack(conditioning, precision, backend))
    assert found.isfinite().all() and found.abs().max() > 1e30
    assert_accurate(found, oracle(decoder, points, conditioning), precision)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_nan_points_give_nan_and_change_no_others(device, backend, precision):
    decoder = random_decoder(64, 2).to(device)
    points, conditioning = (part.to(device) for part in inputs(1, 100))
    packed = decoder.pack(conditioning, precision, backend)
    expected = query_occupancy(points, packed)
    points[0, 17, 1] = math.nan
    points[0, 18] = torch.tensor([0x7FFFFFFF] * 3, dtype=torch.int32).view(torch.float32)
    found = query_occupancy(points, packed)
    bad = torch.zeros(100, dtype=torch.bool, device=device)
    bad[[17, 18]] = True
    assert found[0, bad].isnan().all()
    torch.testing.assert_close(found[0, ~bad], expected[0, ~bad], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_points_beyond_the_range_of_fp16_are_computed_in_fp32(device, backend):
    folded = overflowing()
    points = inputs(1, 1000)[0][0] * 20
    (_, g), expected = activations(folded, points)
    largest = g.max(dim=1).values
    assert 100 < (largest >= HALF_MAX).sum() < 900  # some points, but not all
    on_device = [part.to(device) for part in folded]
    found = {
        precision: query_occupancy(
            points[None].to(device), pack_decoder(*on_device, precision=precision, backend=backend)
        )[0].cpu()
        for precision in ("fp16", "fp32")
    }
    assert_accurate(found["fp32"], expected, "fp32")
    assert_accurate(found["fp16"], expected, "fp16")
    outside, inside = largest >= 1.001 * HALF_MAX, largest < 0.999 * HALF_MAX
    same = found["fp16"] == found["fp32"]
    if backend == "native":
        assert same[outside].all()  # bit for bit
    assert same[inside].double().mean() < 0.1  # points in range are not computed in fp32


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("width, blocks", [(32, 0), (64, 1), (100, 3)])
def test_the_gradient_by_points_is_accurate(device, backend, width, blocks):
    decoder = random_decoder(width, blocks).to(device)
    points, conditioning = (part.to(device) for part in inputs(2, 120))
    packed = decoder.pack(conditioning, "fp32", backend)
    upstream = torch.randn(2, 120, generator=torch.Generator().manual_seed(5)).to(device)
    points.requires_grad_()
    [found] = torch.autograd.grad(query_occupancy(points, packed), points, upstream)
    exact = points.detach().cpu().double().requires_grad_()
    double = copy.deepcopy(decoder).cpu().double()
    logits = double(exact, conditioning.cpu().double())
    [expected] = torch.autograd.grad(logits, exact, upstream.cpu().double())
    error = (found.cpu() - expected).norm(dim=2)
    # A ReLU within rounding error of its kink may have the other slope.
    assert (error > 1e-4 * expected.norm(dim=2).mean()).sum() <= 1
    assert not query_occupancy(points.detach(), packed).requires_grad


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_gradient_is_that_of_fp32(backend, precision):
    decoder = random_decoder(64, 2)
    points, conditioning = inputs(2, 50)
    points.requires_grad_()
    packed, exact = (decoder.pack(conditioning, name, backend) for name in (precision, "fp32"))
    found, expected = (
        torch.autograd.grad(query_occupancy(points, each).sum(), points)[0]
        for each in (packed, exact)
    )
    assert torch.equal(found, expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_second_derivative_exists_and_is_zero(device, backend, precision):
    decoder = random_decoder(64, 2).to(device)
    points, conditioning = (part.to(device) for part in inputs(2, 50))
    points[0, 0], points[1, 1] = math.nan, math.inf
    points.requires_grad_()
    logits = query_occupancy(points, decoder.pack(conditioning, precision, backend))
    [gradient] = torch.autograd.grad(logits.sum(), points, create_graph=True)
    [second] = torch.autograd.grad(gradient.square().sum(), points)
    assert torch.equal(second, torch.zeros_like(points))
    # That of the logit's square is not zero: it is 2 g g^T, here summed over a row.
    clean = inputs(2, 50)[0].to(device).requires_grad_()
    logits = query_occupancy(clean, decoder.pack(conditioning, precision, backend))
    [slope] = torch.autograd.grad(logits.sum(), clean, retain_graph=True)
    [gradient] = torch.autograd.grad(logits.square().sum(), clean, create_graph=True)
    [second] = torch.autograd.grad(gradient.sum(), clean)
    expected = 2 * slope * slope.sum(dim=2, keepdim=True)
    torch.testing.assert_close(second, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_autocast_changes_nothing(device, backend, precision):
    decoder = random_decoder(64, 2).to(device)
    points, conditioning = (part.to(device) for part in inputs(2, 50))
    points.requires_grad_()

    def logits_and_gradient() -> tuple[Tensor, Tensor]:
        logits = query_occupancy(points, decoder.pack(conditioning, precision, backend))
        return logits, *torch.autograd.grad(logits.sum(), points)

    expected = logits_and_gradient()
    with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
        found = logits_and_gradient()
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision, largest", [("fp16", 7e4), ("bf16", 3.4e38)])
def test_weights_beyond_the_range_are_packed_for_fp32(
    device, backend, precision, largest, recwarn, monkeypatch
):
    monkeypatch.setattr(query_points, "_warned", set())
    input, weights, affines, head = (part.to(device) for part in overflowing())
    affines[:, 0] /= 1e4  # keeps sums in the range of float32
    affines[:, 1, 0] *= 1e4
    affines[:, 1, 0, 3] /= largest
    weights[0, 3] = weights[0, 3] / weights[0, 3].abs().max() * largest
    folded = input, weights, affines, head
    points = inputs(1, 400)[0]
    for _ in range(2):
        packed = pack_decoder(*folded, precision=precision, backend=backend)
    assert packed.precision == "fp32"
    expected = activations([part.cpu() for part in folded], points[0])[1]
    assert_accurate(query_occupancy(points.to(device), packed)[0], expected, "fp32")
    said = [str(w.message) for w in recwarn if "fp32" in str(w.message)]
    reason = f"a weight is beyond the range of {precision}"
    assert said == [f"query_occupancy runs in fp32: {reason}"]
    weights[0, 3] *= 65504 / largest
    assert pack_decoder(*folded, precision="fp16", backend=backend).precision == "fp16"


def test_decoders_wider_than_any_cuda_kernel_are_refused_or_warned_about(monkeypatch, recwarn):
    monkeypatch.setattr(query_points, "_warned", set())
    cuda = torch.device("cuda")
    assert ops._has_width(cuda, 1024, "auto") and ops._has_width(torch.device("cpu"), 9999, "auto")
    assert [ops._has_width(cuda, 1056, "auto") for _ in range(2)] == [False, False]
    assert len(recwarn) == 1 and "at most 1024 channels" in str(recwarn[0].message)
    with pytest.raises(RuntimeError, match="at most 1024 channels, this decoder has 1056"):
        ops._has_width(cuda, 1056, "native")


@pytest.mark.needs_cuda
def test_decoders_wider_than_any_kernel_run_the_reference():
    decoder = random_decoder(1030, 1).cuda()
    points, conditioning = (part.cuda() for part in inputs(2, 50))
    packed = decoder.pack(conditioning)
    assert packed.path == "reference" and packed.precision == "fp32"
    expected = oracle(decoder, points, conditioning)
    torch.testing.assert_close(
        query_occupancy(points, packed).cpu().double(), expected, rtol=1e-2, atol=1e-2
    )


def test_the_default_is_fp32_and_native_on_the_cpu():
    decoder, conditioning = random_decoder(32, 1), inputs(1, 1)[1]
    packed = decoder.pack(conditioning)
    assert packed.precision == "fp32" and packed.num_shapes == 1
    assert packed.path == ("native" if _extension.status()["_C"] is None else "reference")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(device, precision, requires_grad):
    decoder = random_decoder(32, 1).to(device)
    points, conditioning = (part.to(device) for part in inputs(2, 20))
    packed = decoder.pack(conditioning, precision)
    offsets = torch.tensor([0, 15, 30], device=device)
    flat = points.flatten(0, 1).requires_grad_(requires_grad)
    op = torch.ops.occvae.query_occupancy.default
    torch.library.opcheck(op, (flat, offsets, *packed_flat(packed)))


@pytest.mark.parametrize(
    "device, limit",
    [("cpu", None), *(pytest.param("cuda", k, marks=pytest.mark.needs_cuda) for k in (1, 2, 3))],
)
@pytest.mark.parametrize("precision", range(3))
@pytest.mark.parametrize("layers", [0, 4])
@pytest.mark.parametrize("width", [64, 128, 256])
def test_opcheck_of_packing(device, limit, precision, layers, width):
    """On CUDA packs for each kernel, or for the best lower one that the GPU supports."""
    weights = torch.randn(layers, width, width, device=device)
    with nullcontext() if limit is None else limit_cuda_kernel(limit):
        op = torch.ops.occvae._pack_query_weights.default
        torch.library.opcheck(op, (weights, precision))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
def test_compiles_as_one_graph_with_its_gradient(device, backend, compiler):
    decoder = random_decoder(32, 2).to(device)
    points, conditioning = (part.to(device) for part in inputs(2, 33))
    packed = decoder.pack(conditioning, "fp32", backend)
    compiled = torch.compile(query_occupancy, fullgraph=True, backend=compiler)
    gradients = []
    for query in (compiled, query_occupancy):
        leaf = points.clone().requires_grad_()
        logits = query(leaf, packed)
        logits.square().sum().backward()
        gradients.append((logits.detach(), leaf.grad))
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected)


def test_mise_refines_all_shapes_of_a_packed_decoder_together(backend):
    from occvae.ops.mise import mise

    decoder, conditioning = random_decoder(32, 1), inputs(3, 1)[1]
    packed = decoder.pack(conditioning, "fp32", backend)
    calls = []

    def field(points: Tensor, shape_index: Tensor) -> Tensor:
        calls.append(len(points))
        return query_shapes(points, shape_index, packed)

    grid = mise(field, resolution=32, coarse_resolution=8, num_shapes=3)
    assert calls == grid.rounds
    world = grid.points.float() / 32 * 1.1 - 0.55
    expected = oracle(decoder, world[:, None], conditioning[grid.shape_index])[:, 0]
    torch.testing.assert_close(grid.values.double(), expected, rtol=1e-4, atol=1e-4)


ERRORS = [
    ("no tensor", TypeError, "points must be a torch.Tensor; got list", [[[0.0] * 3]]),
    ("float64", TypeError, "points must be float32; got torch.float64",
     torch.zeros(2, 4, 3, dtype=torch.float64)),
    ("no batch", ValueError, r"\(B, N, 3\) with B = 2 packed shapes; got \(4, 3\)",
     torch.zeros(4, 3)),
    ("other batch", ValueError, r"B = 2 packed shapes; got \(3, 4, 3\)", torch.zeros(3, 4, 3)),
    ("two coordinates", ValueError, r"got \(2, 4, 2\)", torch.zeros(2, 4, 2)),
    ("device", ValueError, "points are on meta but the decoder on cpu",
     torch.zeros(2, 4, 3, device="meta")),
]  # fmt: skip


@pytest.mark.parametrize("error, message, points", [e[1:] for e in ERRORS],
                         ids=[e[0] for e in ERRORS])  # fmt: skip
def test_errors_say_what_was_expected_and_given(error, message, points):
    packed = random_decoder(32, 1).pack(inputs(2, 1)[1])
    with pytest.raises(error, match=message):
        query_occupancy(points, packed)


SHAPE_ERRORS = [
    ("length", ValueError, r"got \(4, 3\) and \(5,\)", torch.zeros(5, dtype=torch.int64)),
    ("no tensor", TypeError, "shape_index must be a torch.Tensor; got list", [0, 0, 1, 1]),
    ("floats", TypeError, "shape_index must have an integer dtype; got torch.float32",
     torch.zeros(4)),
    ("mask", TypeError, "must have an integer dtype; got torch.bool",
     torch.zeros(4, dtype=torch.bool)),
    ("too large", ValueError, r"shape_index must be in \[0, 2\), the packed shapes; got 2",
     torch.tensor([0, 1, 2, 1])),
    ("negative", ValueError, "the packed shapes; got -1", torch.tensor([0, -1, 1, 1])),
    ("device", ValueError, "shape_index is on meta but the decoder on cpu",
     torch.zeros(4, dtype=torch.int64, device="meta")),
]  # fmt: skip


@pytest.mark.parametrize("error, message, shape_index", [e[1:] for e in SHAPE_ERRORS],
                         ids=[e[0] for e in SHAPE_ERRORS])  # fmt: skip
def test_query_shapes_checks_its_arguments(error, message, shape_index):
    packed = random_decoder(32, 1).pack(inputs(2, 1)[1])
    with pytest.raises(error, match=message):
        query_shapes(torch.zeros(4, 3), shape_index, packed)
    with pytest.raises(TypeError, match="points must be a torch.Tensor; got list"):
        query_shapes([[0.0] * 3], shape_index, packed)
    with pytest.raises(ValueError, match="must be in ascending order; or leave out is_sorted"):
        query_shapes(torch.zeros(3, 3), torch.tensor([0, 1, 0]), packed, is_sorted=True)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_shape_index_may_have_any_integer_dtype(dtype):
    points, conditioning = inputs(3, 40)
    packed, numbers = random_decoder(32, 1).pack(conditioning), torch.arange(40) % 3
    expected = query_shapes(points[0], numbers, packed)
    assert torch.equal(query_shapes(points[0], numbers.to(dtype), packed), expected)
    with pytest.raises(ValueError, match=r"in \[0, 1\), the packed shapes; got 2"):
        query_shapes(points[0], numbers, random_decoder(32, 1).pack(conditioning[:1]))


@needs_kernels
@pytest.mark.parametrize("offsets", [[0, 5], [0, 3, 11], [0, 4, 2], [1, 2, 3], [-1, 2, 3]])
def test_the_kernel_refuses_offsets_that_do_not_fit(offsets):
    packed = random_decoder(32, 1).pack(inputs(2, 1)[1], "fp32", "native")
    points = torch.zeros(10, 3)
    with pytest.raises(RuntimeError, match="query_occupancy: offsets must"):
        torch.ops.occvae.query_occupancy(points, torch.tensor(offsets), *packed_flat(packed))


@needs_kernels
def test_the_kernel_refuses_weights_of_another_precision():
    packed = random_decoder(32, 1).pack(inputs(1, 1)[1], "bf16", "native")
    arguments = packed_flat(packed)[:-1]
    for precision in (0, 1):
        with pytest.raises(RuntimeError, match="weights were not packed for the CPU"):
            torch.ops.occvae.query_occupancy(
                torch.zeros(4, 3), torch.tensor([0, 4]), *arguments, precision
            )


def test_the_reference_runs_without_kernels_and_warns():
    from tests.ops.test_extension import run_without_kernels

    output = run_without_kernels(
        "import torch, occvae\n"
        "from occvae.models.decoders import CbnDecoder\n"
        "decoder = CbnDecoder(4, 32, 1).eval()\n"
        "for _ in range(2): packed = decoder.pack(torch.zeros(1, 4))\n"
        "print(packed.path, occvae.query_occupancy(torch.zeros(1, 5, 3), packed).shape)\n"
    )
    assert "reference torch.Size([1, 5])" in output
    assert output.count("query_occupancy runs its slow PyTorch reference on cpu") == 1

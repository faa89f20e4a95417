"""Tests of query_triplane against `grid_sample` and matrix products in float64."""

import math

import pytest
import torch
from torch import Tensor

from occvae.ops import _extension, query_points
from occvae.ops import query_triplane as ops
from occvae.ops.query_triplane import pack_triplane, query_triplane, query_triplane_shapes
from tests.conftest import DEVICES, needs_kernels
from tests.ops.triplane_oracle import (
    BARS,
    DTYPES,
    ROUNDED_BARS,
    Triplane,
    adversarial_points,
    packed_flat,
    random_points,
    relative_error,
)

PRECISIONS = tuple(DTYPES)


@pytest.fixture(params=["reference", *_extension.ISA_NAMES])
def backend(request: pytest.FixtureRequest):
    """The reference implementation, and the kernel with every instruction set."""
    if request.param == "reference":
        yield "reference"
        return
    if not _extension.has_kernel("query_triplane", "cpu"):
        pytest.skip("occvae._C is not built")
    with _extension.limit_cpu_isa(request.param):
        yield "native"


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("layers", [0, 1, 3])
@pytest.mark.parametrize("channels", [1, 32, 50, 64, 96, 128])
@pytest.mark.parametrize("device", DEVICES)
def test_logits_are_accurate_for_all_widths_depths_and_precisions(
    device, backend, channels, layers, precision
):
    triplane, points = Triplane.random(channels, layers, shapes=2), random_points(2, 301)
    packed = triplane.to(device).pack(precision, backend)
    assert packed.path == backend and packed.precision == precision and packed.num_shapes == 2
    found = query_triplane(points.to(device), packed)
    assert relative_error(found, triplane.logits(points)) < BARS[precision]
    rounded = triplane.logits(points, precision)
    assert relative_error(found, rounded) < ROUNDED_BARS[precision]


@pytest.mark.parametrize("nodes", [2, 3, 64, 257])
@pytest.mark.parametrize("device", DEVICES)
def test_coordinates_are_exact_on_fine_lattices(device, backend, nodes):
    triplane = Triplane.random(32, 1, nodes=nodes)
    points = torch.cat([random_points(1, 700), adversarial_points(nodes)[None]], dim=1)
    found = query_triplane(points.to(device), triplane.to(device).pack("fp32", backend))
    # The oracle needs finite points. Those outside the cube have the logit of its border.
    expected = triplane.logits(points.clamp(-0.55, 0.55))
    assert found.isfinite().all()
    # The span of a point in float32 is up to 2e-8 of the cube, which is nodes * 3e-8 of a cell.
    assert relative_error(found, expected) < BARS["fp32"] * max(1, nodes / 50)
    worst = (found.cpu() - expected).abs().max()
    assert worst < 1e-5 * expected.abs().mean() * max(1, nodes / 50)


@pytest.mark.parametrize("device", DEVICES)
def test_a_linear_function_is_reproduced(device, backend):
    """A caller may fold the coordinates of a point into the planes."""
    line = torch.linspace(-0.55, 0.55, 9)
    planes = torch.zeros(1, 3, 9, 9, 2)
    planes[0, 0, :, :, 0] = line[:, None] + 10 * line  # x + 10 y
    planes[0, 1, :, :, 0] = 100 * line  # 100 z
    planes[..., 1] = -planes[..., 0]
    head = torch.tensor([1.0, -1.0, 0.5])
    triplane = Triplane(planes, torch.zeros(0, 2, 2), torch.zeros(0, 2), head)
    points = random_points(1, 200, half_size=0.55)
    found = query_triplane(points.to(device), triplane.to(device).pack("fp32", backend))
    expected = points @ torch.tensor([1.0, 10.0, 100.0]) + 0.5
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("device", DEVICES)
def test_logits_are_continuous_across_cells(device, backend, precision):
    triplane = Triplane.random(32, 2, nodes=9)
    packed = triplane.to(device).pack(precision, backend)
    border = torch.linspace(-0.55, 0.55, 9)[1:-1]
    points = random_points(1, 70, half_size=0.55)
    below, above = points.clone(), points.clone()
    for axis in range(3):
        places = border.repeat(10)
        below[0, :, axis] = torch.nextafter(places, torch.tensor(-1.0))
        above[0, :, axis] = torch.nextafter(places, torch.tensor(1.0))
        low, high = (query_triplane(side.to(device), packed) for side in (below, above))
        # Rounding may send an operand to the next number of 16 bits.
        jump = {"fp32": 1e-5, "fp16": 3e-3, "bf16": 3e-2}[precision]
        torch.testing.assert_close(low, high, rtol=0, atol=jump * float(low.abs().mean()))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("device", DEVICES)
def test_nan_points_give_nan_and_change_no_others(device, backend, precision):
    packed = Triplane.random(64, 2).to(device).pack(precision, backend)
    points = random_points(1, 100).to(device)
    expected = query_triplane(points, packed)
    points[0, 17, 1], points[0, 40, 0], points[0, 41, 2] = math.nan, math.nan, math.nan
    points[0, 18] = torch.tensor([0x7FFFFFFF] * 3, dtype=torch.int32).view(torch.float32)
    found = query_triplane(points, packed)
    bad = torch.zeros(100, dtype=torch.bool, device=device)
    bad[[17, 18, 40, 41]] = True
    assert found[0, bad].isnan().all()
    torch.testing.assert_close(found[0, ~bad], expected[0, ~bad], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("layers", [0, 2])
def test_nan_planes_give_nan_where_they_are_read(device, backend, precision, layers, recwarn):
    triplane = Triplane.random(40, layers, nodes=5)
    triplane.planes[0, 1, 4, 4, 7] = math.nan  # x and z at their upper end
    points = random_points(1, 400)
    packed = triplane.to(device).pack(precision, backend)
    found = query_triplane(points.to(device), packed)[0].cpu()
    reads = (points[0, :, [0, 2]] > 0.55 - 0.275).all(dim=1)
    assert torch.equal(found.isnan(), reads) and reads.any()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("scale", [1e-30, 3e4, 1e30])
def test_huge_and_tiny_planes_are_accurate(device, backend, precision, scale, recwarn):
    triplane = Triplane.random(64, 2)
    triplane.planes *= scale
    triplane.biases *= 0 if scale < 1 else scale
    triplane.weights[1] /= scale if scale > 1 else 1
    triplane.head[-1] *= scale if scale < 1 else 1
    points = random_points(1, 300)
    packed = triplane.to(device).pack(precision, backend)
    beyond = precision == "fp16" and scale != 1e-30
    assert packed.precision == ("fp32" if beyond and packed.planes.dtype != torch.float16
                                else precision)  # fmt: skip
    found = query_triplane(points.to(device), packed)
    assert found.isfinite().all()
    if not (precision == "fp16" and scale == 1e-30):  # fp16 has no such numbers
        assert relative_error(found, triplane.logits(points)) < BARS[precision]


def overflowing() -> Triplane:
    """A decoder with operands beyond the range of fp16 at some points, but not at others."""
    triplane = Triplane.random(64, 2)
    triplane.weights[0] *= 25000
    triplane.biases[0] *= 25000
    triplane.weights[1] /= 25000
    return triplane


@pytest.mark.parametrize("device", DEVICES)
def test_points_beyond_the_range_of_fp16_are_computed_in_fp32(device, backend):
    triplane, points = overflowing(), random_points(1, 1000)
    found = {
        name: query_triplane(points.to(device), triplane.to(device).pack(name, backend)).cpu()
        for name in ("fp16", "fp32")
    }
    same = (found["fp16"] == found["fp32"])[0]
    largest = largest_operand(triplane, points)
    outside, inside = largest >= 1.001 * 65504, largest < 0.999 * 65504
    assert 100 < outside.sum() < 900
    if backend == "native":
        assert same[outside].all()  # bit for bit
    assert same[inside].double().mean() < 0.1  # points in range are not computed in fp32
    for name, values in found.items():
        assert relative_error(values, triplane.logits(points)) < BARS[name]


def largest_operand(triplane: Triplane, points: Tensor) -> Tensor:
    """The largest input of the second layer at points (1, N, 3), read off through the head."""
    first = Triplane(triplane.planes, triplane.weights[:1], triplane.biases[:1], triplane.head)
    channels = triplane.head.numel() - 1
    values = []
    for channel in range(channels):
        first.head = torch.zeros(channels + 1)
        first.head[channel] = 1
        values.append(first.logits(points)[0])
    return torch.stack(values).amax(dim=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sizes", [[0, 0], [5, 0, 0, 70, 1], [0, 250, 3], [300]])
@pytest.mark.parametrize("unused", [0, 40])
def test_shapes_may_have_any_size_and_unused_rows_are_zero(device, sizes, unused):
    triplane = Triplane.random(32, 1, shapes=len(sizes))
    points = random_points(1, sum(sizes) + unused)[0].to(device)
    offsets = torch.tensor([0, *sizes], device=device).cumsum(0)
    packed = triplane.to(device).pack()
    run = ops._op if packed.path == "native" else ops._reference
    found = run(points, offsets, *packed_flat(packed))
    assert found.shape == points.shape[:1] and not found[sum(sizes) :].any()
    for shape, part in enumerate(points[: sum(sizes)].split(sizes)):
        expected = triplane.logits(part[None].expand(len(sizes), -1, -1))[shape]
        first = int(offsets[shape])
        torch.testing.assert_close(
            found[first : first + len(part)].cpu().double(), expected, rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shapes", [1, 3, 40])
def test_shapes_may_come_in_any_order(device, backend, shapes):
    triplane = Triplane.random(32, 1, shapes=shapes)
    points = random_points(1, 500)[0].to(device)
    generator = torch.Generator().manual_seed(0)
    shape_index = torch.randint(shapes, (500,), generator=generator)
    packed = triplane.to(device).pack("fp32", backend)
    found = query_triplane_shapes(points, shape_index.to(device), packed)
    every = triplane.logits(points.cpu().expand(shapes, -1, -1))
    expected = every[shape_index, torch.arange(500)]
    torch.testing.assert_close(found.cpu().double(), expected, rtol=1e-4, atol=1e-4)
    shape_index, order = shape_index.to(device).sort(stable=True)
    assert query_triplane_shapes(points[:0], shape_index[:0], packed).shape == (0,)
    in_order = query_triplane_shapes(points[order], shape_index, packed, is_sorted=True)
    assert torch.equal(in_order, found[order])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("count", [0, 1])
def test_zero_points_and_one_point_are_allowed(device, backend, precision, count):
    triplane, points = Triplane.random(64, 1, shapes=2), random_points(2, count)
    found = query_triplane(points.to(device), triplane.to(device).pack(precision, backend))
    assert found.shape == (2, count)
    torch.testing.assert_close(found.cpu().double(), triplane.logits(points), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels, layers", [(32, 0), (64, 1), (100, 3)])
def test_the_gradient_by_points_is_accurate(device, backend, channels, layers):
    triplane, points = Triplane.random(channels, layers, shapes=2), random_points(2, 200)
    packed = triplane.to(device).pack("fp32", backend)
    upstream = torch.randn(2, 200, generator=torch.Generator().manual_seed(5))
    leaf = points.to(device).requires_grad_()
    [found] = torch.autograd.grad(query_triplane(leaf, packed), leaf, upstream.to(device))
    exact = points.double().requires_grad_()
    [expected] = torch.autograd.grad(triplane.logits(exact), exact, upstream.double())
    outside = points.abs() > 0.55
    assert outside.any() and not found.cpu()[outside].any()
    error = (found.cpu() - expected).norm(dim=2)
    # A ReLU within rounding error of its kink may have the other slope.
    assert (error > 1e-4 * expected.norm(dim=2).mean()).sum() <= 1
    assert not query_triplane(leaf.detach(), packed).requires_grad


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_gradient_is_that_of_fp32(backend, precision):
    triplane, points = Triplane.random(64, 2, shapes=2), random_points(2, 50).requires_grad_()
    found, expected = (
        torch.autograd.grad(query_triplane(points, triplane.pack(name, backend)).sum(), points)[0]
        for name in (precision, "fp32")
    )
    assert torch.equal(found, expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layers", [0, 2])
def test_the_second_derivative_is_accurate(device, backend, layers):
    """It is not 0, because a bilinear sample has a mixed term."""
    triplane, points = Triplane.random(32, layers, shapes=2), random_points(2, 100)
    packed = triplane.to(device).pack("fp32", backend)
    weights = torch.randn(2, 100, 3, generator=torch.Generator().manual_seed(5))

    def second(leaf: Tensor, logits: Tensor, weights: Tensor) -> Tensor:
        [first] = torch.autograd.grad(logits.square().sum(), leaf, create_graph=True)
        return torch.autograd.grad((first * weights).sum(), leaf)[0]

    leaf = points.to(device).requires_grad_()
    found = second(leaf, query_triplane(leaf, packed), weights.to(device))
    exact = points.double().requires_grad_()
    # grid_sample has no second derivative, but its result is quadratic between the kinks.
    step = 1e-6
    numeric = torch.zeros_like(found, dtype=torch.float64, device="cpu")
    for axis in range(3):
        shift = torch.eye(3, dtype=torch.float64)[axis] * step
        sides = []
        for place in (exact.detach() + shift, exact.detach() - shift):
            place.requires_grad_()
            [first] = torch.autograd.grad(triplane.logits(place).square().sum(), place)
            sides.append((first * weights).sum(dim=2))
        numeric[..., axis] = (sides[0] - sides[1]) / (2 * step)
    error = (found.cpu() - numeric).abs() / numeric.abs().mean()
    assert (error > 1e-3).any(dim=2).sum() <= 2  # points within a step of a kink


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_autocast_changes_nothing(device, backend, precision):
    triplane = Triplane.random(64, 2).to(device)
    points = random_points(1, 50).to(device).requires_grad_()

    def logits_and_gradient() -> tuple[Tensor, Tensor]:
        logits = query_triplane(points, triplane.pack(precision, backend))
        return logits, *torch.autograd.grad(logits.sum(), points)

    expected = logits_and_gradient()
    with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
        found = logits_and_gradient()
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("part", ["planes", "weights"])
@pytest.mark.parametrize("precision, largest", [("fp16", 7e4), ("bf16", 3.4e38)])
def test_parts_beyond_the_range_are_packed_for_fp32(
    backend, part, precision, largest, recwarn, monkeypatch
):
    monkeypatch.setattr(query_points, "_warned", set())
    triplane = Triplane.random(32, 1)
    getattr(triplane, part).flatten()[5] = largest
    for _ in range(2):
        packed = triplane.pack(precision, backend)
    assert packed.precision == "fp32" and packed.planes.dtype == torch.float32
    said = [str(w.message) for w in recwarn if "fp32" in str(w.message)]
    reason = f"a plane or weight is beyond the range of {precision}"
    assert said == [f"query_triplane runs in fp32: {reason}"]
    getattr(triplane, part).flatten()[5] = 65504
    assert triplane.pack("fp16", backend).precision == "fp16"


def test_packing_copies_and_accepts_any_floating_dtype(backend):
    triplane, points = Triplane.random(32, 1), random_points(1, 60)
    rounded = Triplane(*(part.half() for part in triplane.parts))
    exact = Triplane(*(part.double() for part in rounded.parts))
    packed = exact.pack("fp32", backend)
    expected = query_triplane(points, packed)
    assert torch.equal(query_triplane(points, rounded.pack("fp32", backend)), expected)
    trained = pack_triplane(*(part.requires_grad_() for part in exact.parts), backend=backend)
    assert not query_triplane(points, trained).requires_grad
    single = Triplane(*(part.float() for part in rounded.parts))
    packed = single.pack("fp32", backend)
    for part in single.parts:
        part.zero_()
    assert torch.equal(query_triplane(points, packed), expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("op", ["query_triplane", "_triplane_reference"])
def test_opcheck(device, precision, requires_grad, op):
    backend = "reference" if op == "_triplane_reference" else "auto"
    packed = Triplane.random(32, 1, shapes=2).to(device).pack(precision, backend)
    offsets = torch.tensor([0, 15, 30], device=device)
    points = random_points(1, 40)[0].to(device).requires_grad_(requires_grad)
    op = getattr(torch.ops.occvae, op).default
    torch.library.opcheck(op, (points, offsets, *packed_flat(packed)))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
def test_compiles_as_one_graph_with_its_gradient(device, backend, compiler):
    packed = Triplane.random(32, 2, shapes=2).to(device).pack("fp32", backend)
    points = random_points(2, 33).to(device)
    compiled = torch.compile(query_triplane, fullgraph=True, backend=compiler)
    gradients = []
    for query in (compiled, query_triplane):
        leaf = points.clone().requires_grad_()
        logits = query(leaf, packed)
        logits.square().sum().backward()
        gradients.append((logits.detach(), leaf.grad))
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected)


def test_mise_refines_all_shapes_of_a_packed_triplane_together(backend):
    from occvae.ops.mise import mise

    triplane = Triplane.random(32, 1, shapes=3)
    packed = triplane.pack("fp32", backend)

    def field(points: Tensor, shape_index: Tensor) -> Tensor:
        return query_triplane_shapes(points, shape_index, packed, is_sorted=True)

    grid = mise(field, resolution=32, coarse_resolution=8, num_shapes=3)
    world = grid.points.float() / 32 * 1.1 - 0.55
    every = triplane.logits(world.expand(3, -1, -1))
    expected = every[grid.shape_index, torch.arange(len(world))]
    torch.testing.assert_close(grid.values.double(), expected, rtol=1e-4, atol=1e-4)


def parts(**changes: object) -> dict:
    planes, weights, biases, head = Triplane.random(32, 1).parts
    return dict(planes=planes, weights=weights, biases=biases, head=head) | changes


ERRORS = [
    ("no tensor", TypeError, "planes must be a torch.Tensor; got list", parts(planes=[1.0])),
    ("integers", TypeError, "head must have a floating dtype; got torch.int64",
     parts(head=torch.zeros(33, dtype=torch.int64))),
    ("device", ValueError, "biases is on meta but planes on cpu",
     parts(biases=torch.zeros(1, 32, device="meta"))),
    ("planes", ValueError, r"planes must be \(B, 3, R, R, C\) with R >= 2; got \(1, 3, 8, 9, 32\)",
     parts(planes=torch.zeros(1, 3, 8, 9, 32))),
    ("one node", ValueError, r"with R >= 2; got \(1, 3, 1, 1, 32\)",
     parts(planes=torch.zeros(1, 3, 1, 1, 32))),
    ("no channels", ValueError, "got .*0", parts(planes=torch.zeros(1, 3, 8, 8, 0))),
    ("weights", ValueError,
     r"weights must be \(1, 32, 32\) for 32 channels and 1 layers; got \(1, 32, 16\)",
     parts(weights=torch.zeros(1, 32, 16))),
    ("biases", ValueError, r"biases must be \(1, 32\) for", parts(biases=torch.zeros(2, 32))),
    ("head", ValueError, r"head must be \(33,\) for .*; got \(32,\)",
     parts(head=torch.zeros(32))),
    ("precision", ValueError, "precision must be one of fp32, fp16, bf16; got 'int8'",
     parts(precision="int8")),
    ("backend", ValueError, "backend must be one of auto", parts(backend="gpu")),
]  # fmt: skip


@pytest.mark.parametrize("error, message, arguments", [e[1:] for e in ERRORS],
                         ids=[e[0] for e in ERRORS])  # fmt: skip
def test_packing_says_what_was_expected_and_given(error, message, arguments):
    with pytest.raises(error, match=message):
        pack_triplane(**arguments)


def test_queries_check_their_arguments():
    packed = Triplane.random(32, 1, shapes=2).pack()
    with pytest.raises(ValueError, match=r"B = 2 packed shapes; got \(3, 4, 3\)"):
        query_triplane(torch.zeros(3, 4, 3), packed)
    with pytest.raises(ValueError, match=r"shape_index must be in \[0, 2\)"):
        query_triplane_shapes(torch.zeros(1, 3), torch.tensor([2]), packed)
    with pytest.raises(ValueError, match="must be in ascending order"):
        query_triplane_shapes(torch.zeros(2, 3), torch.tensor([1, 0]), packed, is_sorted=True)


def test_decoders_wider_than_any_cuda_kernel_are_refused_or_warned_about(monkeypatch, recwarn):
    monkeypatch.setattr(query_points, "_warned", set())
    cuda = torch.device("cuda")
    assert ops._has_width(cuda, 128, "auto") and ops._has_width(torch.device("cpu"), 999, "auto")
    assert [ops._has_width(cuda, 160, "auto") for _ in range(2)] == [False, False]
    assert len(recwarn) == 1 and "at most 128 channels" in str(recwarn[0].message)
    with pytest.raises(RuntimeError, match="at most 128 channels, this decoder has 160"):
        ops._has_width(cuda, 160, "native")


@needs_kernels
@pytest.mark.parametrize("offsets", [[0, 5], [0, 3, 11], [0, 4, 2], [1, 2, 3], [-1, 2, 3]])
def test_the_kernel_refuses_offsets_that_do_not_fit(offsets):
    packed = Triplane.random(32, 1, shapes=2).pack("fp32", "native")
    with pytest.raises(RuntimeError, match="query_triplane: offsets must"):
        torch.ops.occvae.query_triplane(
            torch.zeros(10, 3), torch.tensor(offsets), *packed_flat(packed)
        )


@needs_kernels
def test_the_kernel_refuses_weights_of_another_precision():
    triplane = Triplane.random(32, 1)
    for wrong in ("fp32", "fp16", "bf16"):
        weights = triplane.pack(wrong, "native").weights
        for precision in PRECISIONS:
            planes, _, *others = packed_flat(triplane.pack(precision, "native"))
            if wrong == precision:
                continue
            with pytest.raises(RuntimeError, match="weights do not fit the planes"):
                torch.ops.occvae.query_triplane(
                    torch.zeros(4, 3), torch.tensor([0, 4]), planes, weights, *others
                )


def test_the_reference_runs_without_kernels_and_warns():
    from tests.ops.test_extension import run_without_kernels

    output = run_without_kernels(
        "import torch, occvae\n"
        "parts = torch.zeros(1, 3, 4, 4, 8), torch.zeros(1, 8, 8), torch.zeros(1, 8)\n"
        "for _ in range(2): packed = occvae.pack_triplane(*parts, torch.zeros(9))\n"
        "print(packed.path, occvae.query_triplane(torch.zeros(1, 5, 3), packed).shape)\n"
    )
    assert "reference torch.Size([1, 5])" in output
    assert output.count("query_triplane runs its slow PyTorch reference on cpu") == 1

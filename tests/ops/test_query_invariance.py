"""Tests of the CPU kernels of query_occupancy beyond accuracy, on every instruction set."""

import pytest
import torch
from torch import Tensor

from occvae.ops import _extension
from occvae.ops.query_occupancy import PackedDecoder, pack_decoder, query_occupancy
from occvae.ops.query_points import PRECISIONS
from tests.builders import random_decoder
from tests.conftest import needs_kernels
from tests.ops.query_oracle import inputs, overflowing


@pytest.fixture(params=[pytest.param(isa, marks=needs_kernels) for isa in _extension.ISA_NAMES])
def isa(request: pytest.FixtureRequest):
    """Limits kernels to each instruction set. One the machine lacks acts as the next lower one."""
    with _extension.limit_cpu_isa(request.param):
        yield request.param


@pytest.mark.parametrize("precision", PRECISIONS)
def test_kernel_and_reference_round_alike(isa, precision):
    """One block only: with equal operands, sums in another order differ by the error of float32."""
    decoder = random_decoder(128, 1)
    points, conditioning = inputs(1, 3000)
    native, reference = (
        query_occupancy(points, decoder.pack(conditioning, precision, backend))
        for backend in ("native", "reference")
    )
    difference = (native - reference).abs() / reference.abs().mean()
    assert difference.median() < 1e-6  # a few sums next to a tie are rounded the other way


@pytest.mark.parametrize("precision", PRECISIONS)
class TestBatchInvariance:
    """A point has bit for bit the same value, whatever other points surround it."""

    @pytest.fixture
    def packed(self, isa, precision) -> PackedDecoder:
        return random_decoder(96, 2).pack(inputs(1, 1)[1], precision, "native")

    @pytest.fixture
    def points(self) -> Tensor:
        return inputs(1, 431)[0]

    def test_values_do_not_depend_on_the_position(self, packed, points):
        expected = query_occupancy(points, packed)
        order = torch.randperm(points.shape[1], generator=torch.Generator().manual_seed(0))
        assert torch.equal(query_occupancy(points[:, order], packed), expected[:, order])

    def test_values_do_not_depend_on_the_number_of_points(self, packed, points):
        expected = query_occupancy(points, packed)
        for count in range(51):
            assert torch.equal(query_occupancy(points[:, :count], packed), expected[:, :count])

    @pytest.mark.parametrize("chunk", [1, 13, 200])
    def test_values_do_not_depend_on_chunks(self, packed, points, chunk):
        parts = [query_occupancy(part, packed) for part in points.split(chunk, dim=1)]
        assert torch.equal(torch.cat(parts, dim=1), query_occupancy(points, packed))

    @pytest.mark.parametrize("threads", [1, 2, 3, 7])
    def test_values_do_not_depend_on_the_number_of_threads(self, packed, points, threads):
        expected = query_occupancy(points, packed)
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            for _ in range(3):
                assert torch.equal(query_occupancy(points, packed), expected)
        finally:
            torch.set_num_threads(before)

    def test_values_do_not_depend_on_other_shapes(self, isa, precision, points):
        decoder = random_decoder(96, 2)
        conditioning = inputs(5, 1)[1]
        together = decoder.pack(conditioning, precision, "native")
        found = query_occupancy(points.expand(5, -1, -1), together)
        for shape in range(5):
            alone = decoder.pack(conditioning[shape : shape + 1], precision, "native")
            assert torch.equal(found[shape], query_occupancy(points, alone)[0])


def test_the_range_guard_acts_on_points_not_tiles(isa):
    folded, points = overflowing(), inputs(1, 300)[0] * 20
    packed = pack_decoder(*folded, precision="fp16", backend="native")
    together = query_occupancy(points, packed)
    alone = [query_occupancy(points[:, i : i + 1], packed) for i in range(300)]
    assert torch.equal(together, torch.cat(alone, dim=1))

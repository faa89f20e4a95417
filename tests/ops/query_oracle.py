"""Helpers of the tests of query_occupancy: inputs, the decoder in float64, and error bounds."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from occvae.models.decoders import CbnDecoder
from occvae.ops.query_occupancy import PackedDecoder
from occvae.ops.query_points import PRECISIONS

BARS = {"fp32": 1e-6, "fp16": 5e-4, "bf16": 5e-3}  # largest relative error (L2)


def inputs(shapes: int, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random points (B, N, 3) of the padded cube and conditioning (B, 16)."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(shapes, count, 3, generator=generator) * 1.1 - 0.55
    return points, torch.randn(shapes, 16, generator=generator)


@torch.no_grad()
def oracle(decoder: CbnDecoder, points: Tensor, conditioning: Tensor) -> Tensor:
    double = copy.deepcopy(decoder).cpu().double()
    return double(points.cpu().double(), conditioning.cpu().double())


def assert_accurate(found: Tensor, expected: Tensor, precision: str) -> None:
    assert found.dtype == torch.float32 and found.shape == expected.shape
    error = found.cpu().double() - expected
    assert error.norm() <= BARS[precision] * expected.norm()
    flipped = (found.cpu() >= 0) != (expected >= 0)
    assert (expected[flipped].abs() < 3 * error.abs().max()).all()


def packed_flat(packed: PackedDecoder) -> tuple:
    """The op's arguments after points and offsets."""
    tensors = packed.input, packed.weights, packed.exact_weights, packed.affines, packed.head
    return *tensors, PRECISIONS.index(packed.precision)


@contextmanager
def limit_cuda_kernel(limit: int) -> Iterator[int]:
    """Limits packing to kernels up to this number (`QueryKernel`). Yields the number in use."""
    before = torch.ops.occvae._cuda_query_kernel()
    try:
        yield torch.ops.occvae._cuda_query_kernel(limit)
    finally:
        torch.ops.occvae._cuda_query_kernel(before)


def overflowing(width: int = 128) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A folded decoder of one block with activations g beyond the range of fp16 at some points."""
    generator = torch.Generator().manual_seed(3)
    input, weights, head = (
        torch.randn(size, generator=generator)
        for size in ((3, width), (2, width, width), width + 1)
    )
    affines = 0.5 + torch.rand(1, 3, 2, width, generator=generator)
    affines[:, 1] *= 3000.0
    affines[:, 2, 0] /= 3e5
    return input, weights / width**0.5, affines, head


def activations(
    folded: tuple[Tensor, ...], points: Tensor, dtype: torch.dtype = torch.float32
) -> tuple[list[Tensor], Tensor]:
    """Evaluates the formula of a folded decoder of one shape with sums in float64.

    Returns:
        The operand (N, C) of each layer before it is rounded to dtype, and logits (N,).
    """
    input, weights, affines, head = (part.double() for part in folded)
    operands = []

    def rounded(x: Tensor) -> Tensor:
        return x.float().to(dtype).double()

    def activation(x: Tensor, layer: int) -> Tensor:
        return (x * affines[0, layer, 0] + affines[0, layer, 1]).relu()

    def product(x: Tensor, layer: int) -> Tensor:
        operands.append(activation(x, layer))
        return rounded(operands[-1]) @ rounded(weights[layer]).T

    x = points.double() @ input
    for layer in range(0, len(weights), 2):
        x = x + product(product(x, layer), layer + 1)
    return operands, activation(x, len(weights)) @ head[:-1] + head[-1]

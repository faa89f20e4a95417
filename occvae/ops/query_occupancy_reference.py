"""Reference implementation of the fused occupancy queries, and their gradient by the points.

All functions take the tensors of the op `occvae::query_occupancy`, but with weights (2L, C, C),
indexed [layer, out, in]. csrc/query_occupancy.h has the formula. Autocast is switched off here.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from occvae.ops.query_points import shape_of_rows

_CHUNK = 32_768  # points at a time: 32 MB per activation at width 256
_ROUNDED = {1: torch.float16, 2: torch.bfloat16}  # keys are the op's numbers of precisions
_HALF_MAX = 65504.0


def pack_query_weights(weights: Tensor, precision: int) -> Tensor:
    """Reference implementation of `occvae::_pack_query_weights`: rounds, keeps dtype and layout."""
    return _round(weights.clone(), precision)


def query_occupancy(
    points: Tensor,
    offsets: Tensor,
    input: Tensor,
    weights: Tensor,
    exact_weights: Tensor,
    affines: Tensor,
    head: Tensor,
    precision: int,
) -> Tensor:
    """Reference implementation of `occvae::query_occupancy`."""
    parts = []
    with torch.autocast(points.device.type, enabled=False):
        for part, affine, known in _chunks(points, offsets, affines):
            logits, in_range = _logits(part, input, weights, affine, head, precision)
            if _ROUNDED.get(precision) == torch.float16:
                exact, _ = _logits(part, input, exact_weights, affine, head, precision=0)
                logits = torch.where(in_range, logits, exact)
            parts.append(torch.where(known, logits, 0.0))
    return torch.cat(parts)


def query_gradient(
    gradient: Tensor,
    points: Tensor,
    offsets: Tensor,
    input: Tensor,
    weights: Tensor,
    affines: Tensor,
    head: Tensor,
) -> Tensor:
    """Gradient (M, 3) by the points from the gradient (M,) by the logits, in float32.

    It can be differentiated again, and that derivative by the points is 0.
    """
    parts = []
    chunks = _chunks(points, offsets, affines)
    with torch.autocast(points.device.type, enabled=False):
        for (part, affine, known), upstream in zip(chunks, gradient.split(_CHUNK), strict=True):
            parts.append(_point_gradient(upstream * known, part, input, weights, affine, head))
    # The gradient uses only signs that depend on the points, so autograd would not connect it to
    # them. This connects it, with derivative 0. points * 0 would do the same, but could be NaN.
    never = torch.zeros((), dtype=torch.bool, device=points.device)
    return torch.where(never, points, torch.cat(parts))


class _Affines:
    """Applies the scale and shift of a layer to each row of a chunk.

    Args:
        affines: (B, 2L + 1, 2, C), scale and shift by shape and layer.
        shape: (m,) shape of each row.
    """

    def __init__(self, affines: Tensor, shape: Tensor):
        self._affines, self._shape = affines, shape

    def __call__(self, features: Tensor, layer: int) -> Tensor:
        return torch.addcmul(self._part(layer, 1), features, self.scale(layer))

    def scale(self, layer: int) -> Tensor:
        return self._part(layer, 0)

    def _part(self, layer: int, which: int) -> Tensor:
        part = self._affines[:, layer, which]
        return part if len(part) == 1 else part[self._shape]


def _chunks(
    points: Tensor, offsets: Tensor, affines: Tensor
) -> Iterator[tuple[Tensor, _Affines, Tensor]]:
    """Divides the points into chunks, without waiting for a GPU.

    Yields:
        Points (m, 3), their affines, and whether each point belongs to a shape, (m,) bool.
    """
    rows = torch.arange(len(points), device=points.device)
    for part, row in zip(points.split(_CHUNK), rows.split(_CHUNK), strict=True):
        shape, known = shape_of_rows(offsets, row)
        yield part, _Affines(affines, shape), known


def _logits(
    points: Tensor, input: Tensor, weights: Tensor, affine: _Affines, head: Tensor, precision: int
) -> tuple[Tensor, Tensor]:
    """Logits (m,), and whether all activations h and g were in the range of fp16, (m,) bool."""
    x = points @ input
    in_range = torch.ones(len(points), dtype=torch.bool, device=points.device)
    for layer in range(0, len(weights), 2):
        h = affine(x, layer).relu()
        g = affine(_round(h, precision) @ weights[layer].T, layer + 1).relu()
        x = x + _round(g, precision) @ weights[layer + 1].T
        in_range &= ~((h >= _HALF_MAX) | (g >= _HALF_MAX)).any(dim=1)
    return affine(x, len(weights)).relu() @ head[:-1] + head[-1], in_range


def _point_gradient(
    gradient: Tensor, points: Tensor, input: Tensor, weights: Tensor, affine: _Affines, head: Tensor
) -> Tensor:
    layers = len(weights)
    x = points @ input
    slopes = []  # derivative of each affine with its ReLU
    for layer in range(0, layers, 2):
        h = affine(x, layer)
        g = affine(h.relu() @ weights[layer].T, layer + 1)
        x = x + g.relu() @ weights[layer + 1].T
        slopes += [affine.scale(layer) * (h > 0), affine.scale(layer + 1) * (g > 0)]
    slope = affine.scale(layers) * (affine(x, layers) > 0)
    dx = gradient[:, None] * head[:-1] * slope
    for layer in range(layers - 2, -2, -2):
        dg = dx @ weights[layer + 1] * slopes[layer + 1]
        dx = dx + dg @ weights[layer] * slopes[layer]
    return dx @ input.T


def _round(values: Tensor, precision: int) -> Tensor:
    dtype = _ROUNDED.get(precision)
    return values if dtype is None else values.to(dtype).to(values.dtype)

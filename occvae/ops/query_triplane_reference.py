"""Reference implementation of the triplane queries, and their gradient by the points.

All functions take the tensors of the op `occvae::query_triplane`, but with weights (L, C, C),
indexed [layer, out, in]. csrc/query_triplane.h has the formula. Autocast is switched off here.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from occvae.ops.query_points import shape_of_rows

HALF_SIZE = 0.55  # the planes cover the cube [-0.55, 0.55]
AXES = ((0, 1), (0, 2), (1, 2))  # the two axes of each plane

_CHUNK = 32_768  # points at a time
_HALF_MAX = 65504.0


def query_triplane(
    points: Tensor,
    offsets: Tensor,
    planes: Tensor,
    weights: Tensor,
    exact_planes: Tensor,
    exact_weights: Tensor,
    biases: Tensor,
    head: Tensor,
) -> Tensor:
    """Reference implementation of `occvae::query_triplane`."""
    parts = []
    with torch.autocast(points.device.type, enabled=False):
        for part, shape, known in _chunks(points, offsets):
            logits, in_range = _logits(part, shape, planes, weights, biases, head)
            if planes.dtype == torch.float16:
                exact, _ = _logits(part, shape, exact_planes, exact_weights, biases, head)
                logits = torch.where(in_range, logits, exact)
            parts.append(torch.where(known, logits, 0.0))
    return torch.cat(parts)


def triplane_gradient(
    gradient: Tensor,
    points: Tensor,
    offsets: Tensor,
    planes: Tensor,
    weights: Tensor,
    biases: Tensor,
    head: Tensor,
) -> Tensor:
    """Gradient (M, 3) by the points from the gradient (M,) by the logits, in float32.

    It can be differentiated again. On the border of two cells it is the gradient in one of them.
    """
    parts = []
    chunks = _chunks(points, offsets)
    with torch.autocast(points.device.type, enabled=False):
        for (part, shape, known), upstream in zip(chunks, gradient.split(_CHUNK), strict=True):
            samples = _Samples.at(part, shape, planes)
            slopes = _sample_slopes(samples.interpolate(), weights, biases, head)
            of_lattice = samples.gradient((upstream * known)[:, None] * slopes)
            is_inside = (part.abs() <= HALF_SIZE) | part.isnan()
            cells = (planes.shape[2] - 1) / (2 * HALF_SIZE)
            parts.append(of_lattice * (is_inside * cells))
    return torch.cat(parts)


def _chunks(points: Tensor, offsets: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Divides the points into chunks, without waiting for a GPU.

    Yields:
        Points (m, 3), the shape of each (m,), and whether it belongs to that shape, (m,) bool.
    """
    rows = torch.arange(len(points), device=points.device)
    for part, row in zip(points.split(_CHUNK), rows.split(_CHUNK), strict=True):
        yield part, *shape_of_rows(offsets, row)


@dataclass
class _Samples:
    """The four nodes around each point in each plane, and the place of the point between them.

    Attributes:
        corners: per plane, features (m, C) of the nodes (0, 0), (0, 1), (1, 0) and (1, 1).
        fraction: (m, 3), 0 at the lower node and 1 at the upper node.
    """

    corners: list[list[Tensor]]
    fraction: Tensor

    @classmethod
    def at(cls, points: Tensor, shape: Tensor, planes: Tensor) -> "_Samples":
        nodes = planes.shape[2]
        inside = points.clamp(-HALF_SIZE, HALF_SIZE).double()
        lattice = (inside + HALF_SIZE) / (2 * HALF_SIZE) * (nodes - 1)
        lower = lattice.detach().nan_to_num().floor().clamp(0, nodes - 2)
        rows, step = planes.reshape(-1, planes.shape[-1]), lower.long()
        corners = []
        for plane, (a, b) in enumerate(AXES):
            first = ((shape * 3 + plane) * nodes + step[:, a]) * nodes + step[:, b]
            places = (first, first + 1, first + nodes, first + nodes + 1)
            corners.append([rows[place].float() for place in places])
        return cls(corners, (lattice - lower).float())

    def interpolate(self) -> Tensor:
        """The sum (m, C) of the three bilinear samples."""
        samples = []
        for (a, b), (c00, c01, c10, c11) in zip(AXES, self.corners, strict=True):
            u, v = self.fraction[:, a, None], self.fraction[:, b, None]
            lower, upper = (1 - v) * c00 + v * c01, (1 - v) * c10 + v * c11
            samples.append((1 - u) * lower + u * upper)
        return samples[0] + samples[1] + samples[2]

    def gradient(self, upstream: Tensor) -> Tensor:
        """Gradient (m, 3) by the lattice coordinates from the gradient (m, C) by the sum."""
        parts: list[list[Tensor]] = [[], [], []]
        for (a, b), (c00, c01, c10, c11) in zip(AXES, self.corners, strict=True):
            u, v = self.fraction[:, a, None], self.fraction[:, b, None]
            parts[a].append((upstream * ((1 - v) * (c10 - c00) + v * (c11 - c01))).sum(1))
            parts[b].append((upstream * ((1 - u) * (c01 - c00) + u * (c11 - c10))).sum(1))
        return torch.stack([first + second for first, second in parts], dim=1)


def _logits(
    points: Tensor, shape: Tensor, planes: Tensor, weights: Tensor, biases: Tensor, head: Tensor
) -> tuple[Tensor, Tensor]:
    """Logits (m,), and whether the operands of all layers were in the range of fp16, (m,) bool."""
    h = _Samples.at(points, shape, planes).interpolate().relu()
    in_range = torch.ones(len(points), dtype=torch.bool, device=points.device)
    for weight, bias in zip(weights, biases, strict=True):
        in_range &= ~(h >= _HALF_MAX).any(dim=1)
        h = (h.to(planes.dtype).float() @ weight.T + bias).relu()
    return h @ head[:-1] + head[-1], in_range


def _sample_slopes(sample: Tensor, weights: Tensor, biases: Tensor, head: Tensor) -> Tensor:
    """Derivative (m, C) of the logit by the sum of the three samples."""
    with torch.no_grad():  # constant between the kinks of the ReLUs
        before = [sample]
        for weight, bias in zip(weights, biases, strict=True):
            before.append(before[-1].relu() @ weight.T + bias)
        slopes = head[:-1] * (before.pop() > 0)
        for weight in reversed(weights):
            slopes = slopes @ weight * (before.pop() > 0)
    return slopes

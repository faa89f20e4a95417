"""Normals of a surface from the gradient of the field that it is a level set of."""

from __future__ import annotations

import re
import warnings

import torch
from torch import Tensor

from occvae.ops.field import Field, Progress

# With gradients a network keeps its activations, 0.1 MB a point at width 256: chunks are small.
_POINTS_WITH_GRADIENTS = 8192
# How PyTorch says that it has no derivative of something. Other errors are the field's own.
_NO_DERIVATIVE = re.compile(r"grad|derivative|differentia|backward|inference tensor", re.IGNORECASE)


def field_normals(
    field: Field,
    vertices: Tensor,
    shape_index: Tensor,
    *,
    step: float,
    bounds: tuple[float, float],
    max_points_per_call: int,
    progress: Progress | None = None,
    first_round: int = 0,
) -> Tensor:
    """Outward unit normals: minus the direction of the gradient, as larger values are inside.

    Gradients come from autograd where the field's values depend differentiably on the points, in
    calls of at most 8,192 points. Otherwise (values without a gradient, an op without a derivative,
    a field that leaves PyTorch) they are central differences over +-step on each axis, six values a
    vertex; next to the bounds, which are not left, the difference is to one side.

    Args:
        vertices: (V, 3) float32 in world units; shape_index: (V,) int64, as the field takes them.
        step: in world units.

    Returns:
        (V, 3) float64, and 0 where the gradient is zero or not finite.
    """
    normals = torch.zeros(vertices.shape, dtype=torch.float64, device=vertices.device)
    by_autograd = not torch.is_inference_mode_enabled()
    done = 0
    while done < len(vertices):
        size = min(max_points_per_call, _POINTS_WITH_GRADIENTS if by_autograd else len(vertices))
        chosen = slice(done, done + size)
        part, shapes = vertices[chosen], shape_index[chosen]
        gradient = _by_autograd(field, part, shapes) if by_autograd else None
        if gradient is None:
            by_autograd = False
            gradient = _by_differences(field, part, shapes, step, bounds)
        normals[chosen] = _directions(-gradient.to(torch.float64))
        done += len(part)
        if progress is not None:
            progress(first_round, done, len(vertices))
    return normals


def _by_autograd(field: Field, points: Tensor, shape_index: Tensor) -> Tensor | None:
    """(N, 3) gradient at each point, or None where PyTorch cannot tell."""
    points = points.detach().clone().requires_grad_()
    with torch.enable_grad(), warnings.catch_warnings():
        # PyTorch only warns when it takes an op without a derivative for constant.
        warnings.filterwarnings("error", message=".*autograd kernel was not registered")
        try:
            values = field(points, shape_index)
            if not values.requires_grad:
                return None
            ones = torch.ones_like(values)
            return torch.autograd.grad(values, points, ones, allow_unused=True)[0]
        except (RuntimeError, BufferError, UserWarning) as error:
            if not _NO_DERIVATIVE.search(str(error)):
                raise
            return None


@torch.no_grad()
def _by_differences(
    field: Field, points: Tensor, shape_index: Tensor, step: float, bounds: tuple[float, float]
) -> Tensor:
    gradient = torch.empty(points.shape, dtype=torch.float64, device=points.device)
    for axis in range(3):
        ends = []
        for offset in (step, -step):
            moved = points.clone()
            moved[:, axis] = (moved[:, axis] + offset).clamp(*bounds)
            values = field(moved, shape_index).to(torch.float64, copy=True)
            ends.append((values, moved[:, axis].double()))
        (above, high), (below, low) = ends
        gradient[:, axis] = (above - below) / (high - low)
    return gradient


def _directions(vectors: Tensor) -> Tensor:
    """Unit vectors; 0 where `vectors` (N, 3) are zero or not finite."""
    largest = vectors.abs().amax(1, keepdim=True)
    usable = vectors.isfinite().all(1, keepdim=True) & (largest > 0)
    scaled = torch.where(usable, vectors / largest, 0.0)  # squares neither overflow nor vanish
    return torch.where(usable, scaled / scaled.norm(dim=1, keepdim=True), 0.0)

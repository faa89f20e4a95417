"""Normals of a level set from the gradient of its field."""

from __future__ import annotations

import re
import warnings

import torch
from torch import Tensor

from occvae.ops.field import Progress
from occvae.ops.lattice import Lattice
from occvae.ops.uniform_field import UniformField

# With gradients a network keeps its activations, 0.1 MB per point at width 256, so calls are small.
_POINTS_WITH_GRADIENTS = 8192
# Words in PyTorch's errors about a missing derivative. Other errors come from the field itself.
_NO_DERIVATIVE = re.compile(r"grad|derivative|differentia|backward|inference tensor", re.IGNORECASE)


def field_normals(
    field: UniformField,
    vertices: Tensor,
    shape_index: Tensor,
    *,
    lattice: Lattice,
    max_points_per_call: int,
    progress: Progress | None = None,
    first_round: int = 0,
) -> Tensor:
    """Outward unit normals at vertices: minus the direction of the field's gradient.

    The gradient comes from autograd if the field's values depend differentiably on the points, in
    calls of at most 8,192 points. Otherwise it comes from central differences over half a cell to
    both sides on each axis, which take six values per vertex. This holds for values without a
    gradient, an op without a derivative and a field that leaves PyTorch. Points of differences
    never leave the bounds, so next to them the difference is one-sided.

    Args:
        field: larger values are inside.
        vertices: (V, 3) float32 in world units.
        shape_index: (V,) int64, the shape of each vertex.
        lattice: the lattice that the vertices were found on.
        max_points_per_call: the field is called with at most this many points.
        progress: as in `occvae.mise`.
        first_round: number of the round that `progress` receives.

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
            gradient = _by_differences(field, part, shapes, lattice)
        normals[chosen] = _directions(-gradient.to(torch.float64))
        done += len(part)
        if progress is not None:
            progress(first_round, done, len(vertices))
    return normals


def _by_autograd(field: UniformField, points: Tensor, shape_index: Tensor) -> Tensor | None:
    """Gradient (N, 3) at the points, or None if PyTorch has no derivative of the field."""
    points = points.detach().clone().requires_grad_()
    with torch.enable_grad(), warnings.catch_warnings():
        # For an op without a derivative PyTorch only warns, and treats its output as constant.
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
    field: UniformField, points: Tensor, shape_index: Tensor, lattice: Lattice
) -> Tensor:
    gradient = torch.empty(points.shape, dtype=torch.float64, device=points.device)
    for axis, limits in enumerate(zip(lattice.lower, lattice.upper, strict=True)):
        ends = []
        for offset in (lattice.cell / 2, -lattice.cell / 2):
            moved = points.clone()
            moved[:, axis] = (moved[:, axis] + offset).clamp(*limits)
            where = moved[:, axis].double()  # before the call, because fields may change points
            values = field(moved, shape_index).to(torch.float64, copy=True)
            ends.append((values, where))
        (above, high), (below, low) = ends
        gradient[:, axis] = (above - below) / (high - low)
    return gradient


def _directions(vectors: Tensor) -> Tensor:
    """Unit vectors of `vectors` (N, 3), and 0 where these are zero or not finite."""
    largest = vectors.abs().amax(1, keepdim=True)
    usable = vectors.isfinite().all(1, keepdim=True) & (largest > 0)
    # Scaled, so that the squares in the norm neither overflow nor underflow.
    scaled = torch.where(usable, vectors / largest, 0.0)
    return torch.where(usable, scaled / scaled.norm(dim=1, keepdim=True), 0.0)

"""Reference implementations of inside_mesh and winding_number in PyTorch.

Parity finds pairs of points and faces that overlap in y by sorting, and decides each pair in
float64. Where the error bound leaves a sign open, it computes the sign with Python fractions.
"""

from collections.abc import Callable, Iterator
from fractions import Fraction

import torch
from torch import Tensor

_PAIRS = 1 << 19  # pairs of points and faces per step
_ROUND_OFF = 2.0**-53
# Error bounds relative to the sum of magnitudes (Shewchuk 1997).
_CROSS_BOUND = (3 + 16 * _ROUND_OFF) * _ROUND_OFF
_DETERMINANT_BOUND = (7 + 56 * _ROUND_OFF) * _ROUND_OFF
_LEAST_COORDINATE = 1e-90


def inside_mesh(vertices: Tensor, faces: Tensor, points: Tensor) -> Tensor:
    """Reference implementation of the op `occvae::inside_mesh`; see `occvae.ops.inside_mesh`."""
    corners, queries = _usable(vertices)[faces], _usable(points)
    order = corners[:, :, 1].argsort(dim=1)
    corners = corners.gather(1, order[:, :, None].expand(-1, -1, 3))  # ascending in y
    finite = queries.isfinite().all(1).nonzero()[:, 0]
    rising = finite[queries[finite, 1].argsort()]
    crossings = torch.zeros(len(points), dtype=torch.int64, device=points.device)
    for face, place in _pairs_in_y(corners, queries[rising, 1]):
        query = rising[place]
        crossings.index_add_(0, query, _crosses(corners[face], queries[query]).long())
    return crossings % 2 == 1


def winding_number(vertices: Tensor, faces: Tensor, points: Tensor) -> Tensor:
    """Reference implementation of the op `occvae::winding_number`."""
    corners, queries = vertices.double()[faces], points.double()
    total = queries.new_zeros(len(queries))
    step = max(1, _PAIRS // max(1, len(queries)))
    for first in range(0, len(corners), step):
        a, b, c = (corners[first : first + step] - queries[:, None, None]).unbind(2)
        lengths = [x.norm(dim=-1) for x in (a, b, c)]
        real = lengths[0] * lengths[1] * lengths[2] + (a * b).sum(-1) * lengths[2]
        real += (b * c).sum(-1) * lengths[0] + (c * a).sum(-1) * lengths[1]
        imaginary = (a * torch.linalg.cross(b, c)).sum(-1) + 0.0  # atan2(-0, x < 0) is -pi
        total += torch.atan2(imaginary, real).sum(1)
    return total / (2 * torch.pi)


def winding_sign(vertices: Tensor, faces: Tensor, points: Tensor, level: float) -> Tensor:
    """Reference implementation of the op `occvae::winding_sign`."""
    return compare(winding_number(vertices, faces, points), level)


def compare(winding: Tensor, level: float) -> Tensor:
    """Returns int8 (N,): 1 where winding >= level, -1 where winding <= -level, otherwise 0."""
    return (winding >= level).to(torch.int8) - (winding <= -level).to(torch.int8)


def _usable(positions: Tensor) -> Tensor:
    """Converts to float64 and sets magnitudes below 1e-90 to 0."""
    positions = positions.double()
    return torch.where(positions.abs() < _LEAST_COORDINATE, 0.0, positions)


def _pairs_in_y(corners: Tensor, heights: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields pairs of a face and a point within its range of y.

    Args:
        corners: (F, 3, 3), the corners of each face ascending in y.
        heights: (N,) ascending y of the points.

    Yields:
        (M,) face indices and (M,) indices into `heights`, about _PAIRS at a time.
    """
    low, high = corners[:, 0, 1].contiguous(), corners[:, 2, 1].contiguous()
    first = torch.searchsorted(heights, low)  # low <= y < high
    counts = torch.searchsorted(heights, high) - first
    ends = counts.cumsum(0)
    begin = 0
    while begin < len(corners):
        done = int(ends[begin] - counts[begin])
        end = max(begin + 1, int(torch.searchsorted(ends, done + _PAIRS, right=True)))
        face = torch.arange(begin, end, device=corners.device).repeat_interleave(counts[begin:end])
        pair = torch.arange(len(face), device=corners.device) + done
        yield face, first[face] + pair - (ends - counts)[face]
        begin = end


def _crosses(corners: Tensor, p: Tensor) -> Tensor:
    """Whether the ray from each point p (M, 3) towards +z crosses its face, (M,) bool.

    Args:
        corners: (M, 3, 3), the corners of each face ascending in y; their range contains p's y.
    """
    a, b, c = corners.unbind(1)
    upper = (p[:, 1] >= b[:, 1])[:, None]
    left_of_long = _is_left(a, c, p)
    over = left_of_long != _is_left(torch.where(upper, b, a), torch.where(upper, c, b), p)
    crossed = over & (p[:, 2] < corners[:, :, 2].amin(1))
    open_ = (over & ~crossed & (p[:, 2] < corners[:, :, 2].amax(1))).nonzero()[:, 0]
    side = _side_of_plane(*(x[open_] for x in (a, b, c, p)))
    crossed[open_] = torch.where(left_of_long[open_], side < 0, side > 0)
    return crossed


def _is_left(a: Tensor, b: Tensor, p: Tensor) -> Tensor:
    """Whether points p are left of the lines from a to b, (M,) bool. Ignores z. All are (M, 3)."""
    along, away = (b - a)[:, :2], (p - a)[:, :2]
    first, second = along[:, 0] * away[:, 1], along[:, 1] * away[:, 0]
    sign = _sign(first - second, _CROSS_BOUND * (first.abs() + second.abs()), _exact_cross, a, b, p)
    return sign > 0


def _side_of_plane(a: Tensor, b: Tensor, c: Tensor, p: Tensor) -> Tensor:
    """Signs (M,) of the determinants of a - p, b - p and c - p, all (M, 3): the sides of p."""
    a_p, b_p, c_p = a - p, b - p, c - p
    determinant = (a_p * torch.linalg.cross(b_p, c_p)).sum(1)
    b_size, c_size = b_p.abs(), c_p.abs()
    sizes = b_size.roll(-1, 1) * c_size.roll(1, 1) + b_size.roll(1, 1) * c_size.roll(-1, 1)
    bound = _DETERMINANT_BOUND * (a_p.abs() * sizes).sum(1)
    return _sign(determinant, bound, _exact_determinant, a, b, c, p)


def _sign(
    value: Tensor, bound: Tensor, exact: Callable[..., Fraction], *positions: Tensor
) -> Tensor:
    """Signs (M,) of `value` (M,), which are exact in spite of rounding.

    Args:
        value: (M,) rounded results.
        bound: (M,) limits of their errors.
        exact: computes a result in fractions, for values that are smaller than their limit.
        positions: arguments of `exact`, (M, 3) each.
    """
    sign = value.sign()
    for i in (value.abs() < bound).nonzero()[:, 0].tolist():
        result = exact(*([Fraction(x) for x in position[i].tolist()] for position in positions))
        sign[i] = (result > 0) - (result < 0)
    return sign


def _exact_cross(a: list[Fraction], b: list[Fraction], p: list[Fraction]) -> Fraction:
    return (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0])


def _exact_determinant(
    a: list[Fraction], b: list[Fraction], c: list[Fraction], p: list[Fraction]
) -> Fraction:
    a, b, c = ([x - y for x, y in zip(corner, p, strict=True)] for corner in (a, b, c))
    terms = (
        a[i] * (b[(i + 1) % 3] * c[(i + 2) % 3] - b[(i + 2) % 3] * c[(i + 1) % 3]) for i in range(3)
    )
    return sum(terms, Fraction(0))

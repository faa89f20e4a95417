"""Shape program for beds."""

from __future__ import annotations

import numpy as np

from occvae.data.procedural.convex import Convex, arc, bevelled_box, box
from occvae.data.procedural.parts import chance, pick
from occvae.data.procedural.solids import Body, Solid


def bed(rng: np.random.Generator) -> Solid:
    """Single or double bed with head and foot boards, a canopy, or two bunks."""
    half_x, half_z = rng.uniform(0.2, 0.46), rng.uniform(0.42, 0.5)
    deck, thick = rng.uniform(0.1, 0.24), rng.uniform(0.05, 0.1)
    post = rng.uniform(0.022, 0.035)
    parts = _berth(rng, half_x, half_z, deck, thick)
    style = pick(rng, *["boards"] * 5, "canopy", "bunk")
    if style == "boards":
        head = deck + rng.uniform(0.2, 0.45)
        parts += _bed_board(rng, half_x, -half_z, head, post)
        if chance(rng, 0.5):
            foot = deck + rng.uniform(0.1, 0.55) * (head - deck)
            parts += _bed_board(rng, half_x, half_z, foot, post)
        if chance(rng, 0.7) or deck < 0.14:
            bottom = 0.0 if deck < 0.14 else 0.3 * deck
            parts.append(box((-half_x, bottom, -half_z), (half_x, deck - 0.3 * thick, half_z)))
        parts += _bed_feet(half_x, half_z, deck, post)
        return Solid.of(Body.of(parts))
    high = rng.uniform(0.55, 0.9)
    parts += _bed_feet(half_x, half_z, high, post)
    if style == "canopy":
        parts += _frame_top(half_x, half_z, high, post)
        parts += _bed_board(rng, half_x, -half_z, deck + rng.uniform(0.1, 0.3), post)
    else:
        upper = rng.uniform(0.55, 0.8) * high + 0.5 * thick
        parts += _berth(rng, half_x, half_z, upper, thick)
        parts += _frame_top(half_x, half_z, high, post)
        parts += _bed_ladder(rng, half_x, half_z, upper, post)
    return Solid.of(Body.of(parts))


def _berth(
    rng: np.random.Generator, half_x: float, half_z: float, deck: float, thick: float
) -> list[Convex]:
    """Frame, mattress, pillows and sometimes a blanket. The frame ends at y = `deck`."""
    inset = rng.uniform(0.0, 0.03)
    mattress = rng.uniform(0.04, 0.1)
    top = deck + mattress
    parts = [box((-half_x, deck - 0.8 * thick, -half_z), (half_x, deck, half_z))]
    low = (-half_x + inset, deck - 0.02, -half_z + inset)
    parts.append(bevelled_box(low, (half_x - inset, top, half_z - inset), 0.2 * mattress))
    if chance(rng, 0.5):
        # A blanket hangs over the sides.
        low = (-half_x - 0.012, deck - rng.uniform(0.0, 0.03), rng.uniform(-0.4, 0.0) * half_z)
        parts.append(bevelled_box(low, (half_x + 0.012, top + 0.018, half_z - inset), 0.016))
    count = 2 if half_x > 0.32 else 1
    wide, puff = rng.uniform(0.7, 0.9) * half_x / count, rng.uniform(0.05, 0.075)
    for k in range(count):
        x = half_x * (2 * k + 1 - count) / count
        low = (x - wide, top - 0.02, -0.95 * half_z)
        parts.append(bevelled_box(low, (x + wide, top + puff, -0.62 * half_z), 0.4 * puff))
    return parts


def _bed_feet(half_x: float, half_z: float, top: float, post: float) -> list[Convex]:
    x, z = half_x - 0.5 * post, half_z - 0.5 * post
    return [
        box((a * x - post, 0.0, b * z - post), (a * x + post, top, b * z + post))
        for a in (-1, 1)
        for b in (-1, 1)
    ]


def _frame_top(half_x: float, half_z: float, high: float, post: float) -> list[Convex]:
    x, z = half_x + 0.5 * post, half_z + 0.5 * post
    rails = [
        box((-x, high - post, b * half_z - post), (x, high, b * half_z + post)) for b in (-1, 1)
    ]
    return rails + [
        box((a * half_x - post, high - post, -z), (a * half_x + post, high, z)) for a in (-1, 1)
    ]


def _bed_board(
    rng: np.random.Generator, half_x: float, z: float, top: float, post: float
) -> list[Convex]:
    """Board across the bed at `z`: solid, slatted or arched."""
    thin = 0.8 * post
    style = pick(rng, "solid", "slats", "arch")
    if style == "solid":
        return [box((-half_x, 0.05, z - post), (half_x, top, z + post))]
    rails = [box((-half_x, top - 1.6 * post, z - thin), (half_x, top, z + thin))]
    for s in (-1, 1):
        x = s * (half_x - 0.5 * post)
        rails.append(box((x - post, 0, z - post), (x + post, top, z + post)))
    if style == "slats":
        count = int(rng.integers(3, 7))
        for x in np.linspace(-half_x, half_x, count + 2)[1:-1]:
            rails.append(box((x - thin, 0.06, z - 0.7 * thin), (x + thin, top, z + 0.7 * thin)))
        return rails
    bow = Convex(
        np.concatenate(
            [
                arc((0, top - 0.01, z + s * thin), (half_x, 0.35 * half_x), (0, 180), 16)
                for s in (-1, 1)
            ]
        )
    )
    return [bow, box((-half_x, 0.06, z - thin), (half_x, top, z + thin))]


def _bed_ladder(
    rng: np.random.Generator, half_x: float, half_z: float, top: float, post: float
) -> list[Convex]:
    """Ladder at the foot of one side, outside the frame."""
    side = rng.choice([-1, 1])
    x, z, gap = side * (half_x + 0.8 * post), rng.uniform(0.1, 0.6) * half_z, 0.09
    parts = []
    for near in (z - gap, z + gap):
        low = (x - post, 0.0, near - 0.7 * post)
        parts.append(box(low, (x + post, top + 0.05, near + 0.7 * post)))
    for y in np.arange(0.08, top, rng.uniform(0.09, 0.14)):
        parts.append(box((x - 0.7 * post, y, z - gap), (x + 0.7 * post, y + 0.03, z + gap)))
    return parts

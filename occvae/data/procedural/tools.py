"""Shape programs for tools: hammer, wrench, scissors.

Tools stand upright, with the handle along y, the working end up and the flat side facing +z.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from occvae.data.procedural.convex import (
    Convex,
    Point,
    arc,
    bevelled_box,
    box,
    ellipsoid,
    frustum,
    loft,
    moved,
    polygon,
    prism,
    revolve,
    rotation,
    scaled,
    sweep,
    turned,
)
from occvae.data.procedural.parts import chance, pick
from occvae.data.procedural.solids import Body, Solid


def hammer(rng: np.random.Generator) -> Solid:
    """Claw hammer, ball-peen or cross-peen hammer, sledgehammer, rock hammer or mallet."""
    style = pick(rng, "claw", "claw", "claw", "mallet", "mallet", "sledge", "peen", "peen", "rock")
    length, grip = rng.uniform(0.55, 0.9), rng.uniform(0.035, 0.055)
    head, top = _HEADS[style](rng)
    parts = moved(head, (0.0, length, 0.0))
    flat = rng.uniform(0.7, 1.0)
    neck = rng.uniform(0.65, 0.9) * grip
    profile = [[grip, 0.0], [grip * rng.uniform(1.0, 1.35), 0.05 * length], [grip, 0.4 * length]]
    profile += [[neck, 0.7 * length], [neck, length + top]]
    handle = scaled(revolve(np.array(profile), int(rng.choice([4, 12]))), (1.25, 1.0, flat))
    return Solid.of(Body.of(parts + handle))


def _hammer_face(reach: float, size: float, sides: int) -> list[Convex]:
    """Neck towards +x with the striking face at its end."""
    neck = frustum((-0.06, 0, 0), (reach, 0, 0), 0.85 * size, 0.8 * size, sides)
    return [neck, frustum((0.7 * reach, 0, 0), (reach + 0.03, 0, 0), size, 1.15 * size, 16)]


def _prong(rng: np.random.Generator, reach: float, size: float, bend: float) -> list[Convex]:
    """Tapered bar towards -x that follows an ellipse downwards, to the angle `bend` in degrees."""
    path = arc((-0.04, -reach, 0), (reach * 1.1, reach), (90, bend), 8)
    return sweep(
        path, polygon(4, 0.045, 0.9 * size), (0, 0, 1), scales=np.linspace(1.0, 0.55, len(path))
    )


def _claw_head(rng: np.random.Generator) -> tuple[list[Convex], float]:
    size, reach = rng.uniform(0.065, 0.095), rng.uniform(0.15, 0.24)
    parts = _hammer_face(reach, size, int(rng.choice([8, 14])))
    prong = _prong(rng, rng.uniform(0.18, 0.28), size, rng.uniform(140.0, 175.0))
    gap = rng.uniform(0.025, 0.04)
    for side in (-1, 1):
        spread = turned(prong, "y", side * rng.uniform(8.0, 14.0))
        parts += moved(spread, (0, 0, side * gap))
    return parts, 0.5 * size


def _rock_head(rng: np.random.Generator) -> tuple[list[Convex], float]:
    """Square face on one side, a chisel or point on the other."""
    size, reach = rng.uniform(0.06, 0.09), rng.uniform(0.14, 0.22)
    pick_end = _prong(rng, rng.uniform(0.28, 0.36), size, rng.uniform(125.0, 145.0))
    return [*_hammer_face(reach, size, 4), *scaled(pick_end, (1, 1, rng.uniform(1.2, 1.8)))], size


def _mallet_head(rng: np.random.Generator) -> tuple[list[Convex], float]:
    reach, size = rng.uniform(0.18, 0.3), rng.uniform(0.1, 0.16)
    if chance(rng, 0.4):
        deep = size * rng.uniform(0.7, 1.0)
        low, high = (-reach, -size, -deep), (reach, size, deep)
        head = [bevelled_box(low, high, rng.uniform(0.08, 0.3) * size)]
    else:
        head = [frustum((-reach, 0, 0), (reach, 0, 0), size, size, 20)]
        if chance(rng, 0.5):
            belt = 1.2 * size
            for s in (-1, 1):
                ends = (s * 0.6 * reach, 0, 0), (s * 1.02 * reach, 0, 0)
                head.append(frustum(*ends, belt, belt, 20))
    return head, rng.choice([0.0, 1.3 * size])


def _sledge_head(rng: np.random.Generator) -> tuple[list[Convex], float]:
    reach, size = rng.uniform(0.16, 0.26), rng.uniform(0.07, 0.11)
    parts = [frustum((-0.6 * reach, 0, 0), (0.6 * reach, 0, 0), size, size, 8)]
    for s in (-1, 1):
        ends = (s * 0.5 * reach, 0, 0), (s * reach, 0, 0)
        parts.append(frustum(*ends, size, rng.uniform(0.75, 1.2) * size, 8))
    return parts, 1.1 * size


def _peen_head(rng: np.random.Generator) -> tuple[list[Convex], float]:
    reach, size = rng.uniform(0.16, 0.24), rng.uniform(0.065, 0.1)
    parts = [frustum((-0.5 * reach, 0, 0), (0.6 * reach, 0, 0), 0.75 * size, 0.75 * size, 8)]
    parts.append(frustum((0.5 * reach, 0, 0), (reach, 0, 0), size, size, 16))
    if chance(rng, 0.5):
        parts.append(ellipsoid((-0.65 * reach, 0, 0), (size, size, size), 16, 10))
    else:
        # A wedge from the square stem to a thin edge.
        edge = np.insert(polygon(4, 1.2 * size, 0.02), 0, -1.2 * reach, axis=1)
        stem = np.insert(polygon(4, 0.8 * size), 0, -0.4 * reach, axis=1)
        parts += loft([stem, edge])
    return parts, size


_HEADS = {
    "claw": _claw_head,
    "rock": _rock_head,
    "mallet": _mallet_head,
    "sledge": _sledge_head,
    "peen": _peen_head,
}


# Lower ends that real wrenches have, by upper end. An end is as probable as it is often listed.
_LOWER_ENDS = {
    "open": ("ring", "ring", "open", "hole"),
    "ring": ("open", "open", "hole"),
    "adjustable": ("hole", "grip"),
}


def wrench(rng: np.random.Generator) -> Solid:
    """Spanner with an open, ring or adjustable jaw, or four-way wheel brace."""
    length, wide = rng.uniform(0.5, 0.85), rng.uniform(0.055, 0.08)
    thick = rng.uniform(0.048, 0.064)
    if chance(rng, 0.07):
        return _wheel_brace(rng, length, wide)
    # A bent shaft curves to both sides. The jaws follow its ends.
    bend = rng.uniform(0.12, 0.25) * rng.choice([-1, 1]) if chance(rng, 0.2) else 0.0
    y = np.linspace(0.0, length, 9 if bend else 2)
    path = np.stack([0.5 * bend * np.sin(1.5 * np.pi * y / length), y, 0.0 * y], axis=1)
    shaft = sweep(path, polygon(4, 1.2 * thick, 1.4 * wide), (0, 0, 1))
    upper = pick(rng, "open", "open", "ring", "adjustable")
    lower = pick(rng, *_LOWER_ENDS[upper])
    bodies = [Body.of(shaft)]
    for style, end, before in ((upper, path[-1], path[-2]), (lower, path[0], path[1])):
        along = end - before
        lean = np.degrees(np.arctan2(-along[0], along[1]))
        jaw = _jaw(rng, style, wide * rng.uniform(0.9, 1.1), thick)
        bodies.append(jaw.affine(rotation("z", lean), end))
    return Solid.of(*bodies)


def _wheel_brace(rng: np.random.Generator, length: float, wide: float) -> Solid:
    """Cross of two round bars with a socket at each end."""
    bar = rng.uniform(0.7, 0.95) * wide
    reach, level = length * rng.uniform(0.4, 0.55), length * rng.uniform(0.4, 0.6)
    parts = [frustum((0, 0, 0), (0, length, 0), bar, bar, 10)]
    parts.append(frustum((-reach, level, 0), (reach, level, 0), bar, bar, 10))
    tips = [(0.0, 0.0, 0.0), (0.0, length, 0.0), (-reach, level, 0.0), (reach, level, 0.0)]
    ways = [(0.0, -1.0, 0.0), (0.0, 1.0, 0.0), (-1.0, 0.0, 0.0), (1.0, 0.0, 0.0)]
    bodies = [Body.of(parts)]
    for tip, way in zip(tips, ways, strict=True):
        end, out = np.array(tip), np.array(way)
        radius, deep = bar * rng.uniform(1.5, 2.0), rng.uniform(0.06, 0.12)
        socket = frustum(end - 0.03 * out, end + deep * out, radius, radius, 16)
        hole = frustum(end + 0.03 * out, end + 2.0 * deep * out, 0.6 * radius, 0.6 * radius, 6)
        bodies.append(Body.of([socket], [hole]))
    return Solid.of(*bodies)


def _jaw(rng: np.random.Generator, style: str, wide: float, thick: float) -> Body:
    """End piece that points up, for a shaft that ends at the origin."""
    size = rng.uniform(0.13, 0.17)
    disc = polygon(24, size, size * rng.uniform(1.0, 1.2))
    hole = size * rng.uniform(0.45, 0.6)
    if style == "grip":
        radius = wide * rng.uniform(1.2, 1.6)
        ends = (0, -0.03, 0), (0, rng.uniform(0.25, 0.4), 0)
        parts = scaled([frustum(*ends, 0.8 * radius, radius, 10)], (1, 1, 0.7))
        cuts = []
    elif style == "hole":
        parts = [prism(polygon(20, 1.5 * wide), -thick, thick, "z")]
        cuts = [prism(polygon(12, 0.8 * wide), -1.0, 1.0, "z")]
    elif style == "ring":
        parts = [prism(disc, -1.2 * thick, 1.2 * thick, "z")]
        cuts = [prism(polygon(int(rng.choice([6, 16])), hole), -1.0, 1.0, "z")]
    elif style == "adjustable":
        return _adjustable(rng, size, thick)
    else:
        parts = [prism(disc, -1.1 * thick, 1.1 * thick, "z")]
        notch = box((-hole, -0.2 * size, -1.0), (hole, 3.0 * size, 1.0))
        cuts = turned([notch], "z", rng.choice([0.0, 15.0, -15.0, 30.0]))
    lift = 0.7 * size if style in ("ring", "open") else 0.0
    return Body.of(parts, cuts).affine(np.eye(3), np.array([0.0, lift, 0.0]))


def _adjustable(rng: np.random.Generator, size: float, thick: float) -> Body:
    """Jaw with a fixed side, a lower sliding side, and a roller below."""
    half, reach = rng.uniform(0.25, 0.5), rng.uniform(1.3, 1.7)
    left, right = -half - 0.65, half + 0.7
    outlines = [
        [[-0.55, -0.6], [0.55, -0.6], [right, 0.1], [right, 0.5], [left, 0.5], [left, 0.1]],
        [[half, 0.4], [right, 0.4], [right, 0.9], [half + 0.25, reach], [half, reach]],
        [[-half, 0.4], [left, 0.4], [left, 0.8], [-half - 0.2, reach - 0.2], [-half, reach - 0.2]],
    ]
    parts = [prism(size * np.array(outline), -thick, thick, "z") for outline in outlines]
    ends = (-0.45 * size, 0.1 * size, 0), (0.25 * size, 0.1 * size, 0)
    parts.append(frustum(*ends, 1.7 * thick, 1.7 * thick, 12))
    turn = turned(parts, "z", rng.choice([0.0, 15.0, -22.0]))
    side = (float(rng.choice([-1, 1])), 1.0, 1.0)
    return Body.of(moved(scaled(turn, side), (0.0, 0.45 * size, 0.0)))


class _Half(NamedTuple):
    """Sizes of one half of a pair of scissors. The pivot is at the origin."""

    blade: float  # length above the pivot
    grip: float  # length below the pivot
    wide: float  # half width at the pivot
    thick: float  # half thickness
    bar: float  # radius of the bar of a ring


def scissors(rng: np.random.Generator) -> Solid:
    """Office, children's, tailor's or embroidery scissors, shears, secateurs or pliers."""
    style = pick(rng, *["office"] * 3, *_BLADES, "tailor", "embroidery")
    opening = rng.uniform(12.0, 38.0)
    half = _half_sizes(rng, style)
    ring = rng.uniform(0.085, 0.125)
    tall, tilt = ring * rng.uniform(1.0, 1.5), rng.uniform(-25.0, 25.0)
    bodies = []
    for side in (-1, 1):
        blade = _needle_blade if style == "secateurs" and side < 0 else _BLADES[style]
        parts = [prism(blade(half), -half.thick, half.thick, "z")]
        if style in ("shears", "secateurs", "pliers"):
            parts += _straight_handle(half, rng.uniform(0.03, 0.08))
        else:
            # Tailor's shears have a round ring for the thumb and a long one for the fingers.
            long = 1.5 if style == "tailor" and side > 0 else 1.0
            parts += _ring_handle(half, (ring, tall * long), tilt)
        # The two halves lie one above the other, and overlap around the pivot.
        parts = scaled(moved(parts, (0.0, 0.0, 0.8 * half.thick)), (side, 1.0, side))
        bodies.append(Body.of(turned(parts, "z", -side * opening)))
    deep, radius = 2.2 * half.thick, 0.8 * half.wide
    pivot = frustum((0, 0, -deep), (0, 0, deep), radius, radius, 12)
    return Solid.of(*bodies, Body.of([pivot]))


def _half_sizes(rng: np.random.Generator, style: str) -> _Half:
    blade, grip, wide = {
        "office": ((0.4, 0.6), (0.38, 0.52), (0.04, 0.055)),
        "children": ((0.28, 0.4), (0.36, 0.5), (0.055, 0.075)),
        "tailor": ((0.52, 0.68), (0.42, 0.55), (0.055, 0.075)),
        "embroidery": ((0.26, 0.36), (0.5, 0.65), (0.034, 0.044)),
        "shears": ((0.45, 0.6), (0.45, 0.65), (0.05, 0.065)),
        "secateurs": ((0.28, 0.36), (0.45, 0.6), (0.05, 0.06)),
        "pliers": ((0.2, 0.3), (0.45, 0.6), (0.045, 0.06)),
    }[style]
    return _Half(
        rng.uniform(*blade),
        rng.uniform(*grip),
        rng.uniform(*wide),
        rng.uniform(0.03, 0.04),
        rng.uniform(0.03, 0.04),
    )


# The functions below make outlines (N, 2) of blades towards +y. The cutting edge is on the -x side.


def _long_blade(half: _Half) -> np.ndarray:
    blade, wide = half.blade, half.wide
    outline = [[-wide, -wide], [wide, -wide], [wide, 0.3 * blade], [-0.2 * wide, blade]]
    return np.array([*outline, [-wide, 0.85 * blade]])


def _needle_blade(half: _Half) -> np.ndarray:
    blade, wide = half.blade, half.wide
    outline = [[-wide, -wide], [wide, -wide], [1.1 * wide, 0.15 * blade], [-0.4 * wide, blade]]
    return np.array([*outline, [-wide, blade]])


def _blunt_blade(half: _Half) -> np.ndarray:
    tip = arc((-0.1 * half.wide, half.blade, 0), (0.8 * half.wide, half.wide), (0, 180), 7)
    base = [[-half.wide, -half.wide], [half.wide, -half.wide], [half.wide, 0.5 * half.blade]]
    return np.concatenate([base, tip[:, :2]])


def _bellied_blade(half: _Half) -> np.ndarray:
    """Pointed blade with a round back."""
    back = arc((-half.wide, 0.3 * half.blade, 0), (3.0 * half.wide, 0.7 * half.blade), (-25, 90), 9)
    return np.concatenate([[[-half.wide, -half.wide], [half.wide, -half.wide]], back[:, :2]])


def _plier_jaw(half: _Half) -> np.ndarray:
    blade, wide = half.blade, half.wide
    jaw = [[-1.3 * wide, -wide], [1.3 * wide, -wide], [1.5 * wide, 0.3 * blade]]
    return np.array([*jaw, [0.4 * wide, blade], [-0.3 * wide, blade]])


_BLADES = {
    "office": _long_blade,
    "children": _blunt_blade,
    "tailor": _long_blade,
    "embroidery": _needle_blade,
    "shears": _long_blade,
    "secateurs": _bellied_blade,
    "pliers": _plier_jaw,
}


def _ring_handle(half: _Half, radii: tuple[float, float], tilt: float) -> list[Convex]:
    """Shank and ring towards -y and, before opening, -x.

    `radii` are those of the ring along x and y, before it is turned by `tilt` degrees.
    """
    wide, tall = radii
    center = np.array([-wide - 0.01, -half.grip + tall, 0.0])
    path = arc((0, 0, 0), (wide, tall), (0, 337.5), 16) @ rotation("z", tilt).T + center
    ring = sweep(path, polygon(6, half.thick, half.bar), (0, 0, 1), closed=True)
    # The shank ends at the node of the ring that is nearest to the pivot.
    shank_end = path[np.argmin(np.linalg.norm(path, axis=1))] + [0.0, -0.3 * half.bar, 0.0]
    return [*ring, *_shank(half, shank_end)]


def _shank(half: _Half, end: Point) -> list[Convex]:
    path = np.array([[0.0, 0.5 * half.wide, 0.0], [0.0, -half.wide, 0.0], end])
    return sweep(path, polygon(4, 1.3 * half.thick, 1.2 * half.wide), (0, 0, 1))


def _straight_handle(half: _Half, bow: float) -> list[Convex]:
    """Handle without a ring towards -y, bowed towards -x."""
    y = np.linspace(0.3 * half.wide, -half.grip, 7)
    x = -bow * np.sin(np.pi * np.clip(-y / half.grip, 0.0, 1.0)) ** 0.8
    path = np.stack([x, y, 0.0 * y], axis=1)
    return sweep(path, polygon(8, 1.2 * half.thick, 0.9 * half.wide), (0, 0, 1))

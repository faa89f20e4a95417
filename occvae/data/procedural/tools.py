"""Shape programs for tools: hammer, wrench, scissors.

Tools stand upright, with the handle along y, the working end up and the flat side facing +z.
"""

from __future__ import annotations

import numpy as np

from occvae.data.procedural.convex import (
    Convex,
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
    """Hammer, mallet, axe or pickaxe."""
    style = pick(rng, "claw", "claw", "mallet", "sledge", "peen", "axe", "double", "pick")
    length, grip = rng.uniform(0.5, 0.95), rng.uniform(0.035, 0.06)
    head, top = _HEADS[style](rng, grip)
    parts = moved(head, (0.0, length, 0.0))
    flat = rng.uniform(0.7, 1.0)
    neck = rng.uniform(0.6, 0.9) * grip
    profile = [[grip, 0.0], [grip * rng.uniform(1.0, 1.35), 0.05 * length], [grip, 0.4 * length]]
    profile += [[neck, 0.7 * length], [neck, length + top]]
    handle = scaled(revolve(np.array(profile), int(rng.choice([4, 10]))), (1.25, 1.0, flat))
    bend = rng.uniform(-0.06, 0.06)
    lower = [frustum((bend, 0, 0), (0, 0.4 * length, 0), 1.1 * grip, grip, 8)]
    return Solid.of(Body.of(parts + handle + (lower if style == "axe" else [])))


def _claw_head(rng: np.random.Generator, grip: float) -> tuple[list[Convex], float]:
    size, reach = rng.uniform(0.06, 0.095), rng.uniform(0.15, 0.26)
    parts = [frustum((-0.06, 0, 0), (reach, 0, 0), 0.85 * size, 0.85 * size, 8)]
    parts.append(frustum((0.75 * reach, 0, 0), (reach + 0.03, 0, 0), size, 1.2 * size, 12))
    bend = arc((-0.04, -reach, 0), (reach * 1.1, reach), (90, rng.uniform(150, 175)), 6)
    shrink = np.linspace(1.0, 0.55, len(bend))
    prong = sweep(bend, polygon(4, 0.045, 0.9 * size), (0, 0, 1), scales=shrink)
    gap = rng.uniform(0.022, 0.04)
    for side in (-1, 1):
        spread = turned(prong, "y", side * rng.uniform(6.0, 14.0))
        parts += moved(spread, (0, 0, side * gap))
    return parts, 0.5 * size


def _mallet_head(rng: np.random.Generator, grip: float) -> tuple[list[Convex], float]:
    reach, size = rng.uniform(0.14, 0.3), rng.uniform(0.09, 0.17)
    if chance(rng, 0.5):
        deep = size * rng.uniform(0.6, 1.0)
        low, high = (-reach, -size, -deep), (reach, size, deep)
        head = [bevelled_box(low, high, rng.uniform(0.05, 0.3) * size)]
    else:
        head = [frustum((-reach, 0, 0), (reach, 0, 0), size, size, 16)]
        if chance(rng, 0.5):
            belt = 1.2 * size
            for s in (-1, 1):
                ends = (s * 0.6 * reach, 0, 0), (s * 1.02 * reach, 0, 0)
                head.append(frustum(*ends, belt, belt, 16))
    return head, rng.choice([0.0, 1.3 * size])


def _sledge_head(rng: np.random.Generator, grip: float) -> tuple[list[Convex], float]:
    reach, size = rng.uniform(0.12, 0.24), rng.uniform(0.06, 0.11)
    parts = [frustum((-0.6 * reach, 0, 0), (0.6 * reach, 0, 0), size, size, 8)]
    for s in (-1, 1):
        ends = (s * 0.5 * reach, 0, 0), (s * reach, 0, 0)
        parts.append(frustum(*ends, size, rng.uniform(0.75, 1.2) * size, 8))
    return parts, 1.1 * size


def _peen_head(rng: np.random.Generator, grip: float) -> tuple[list[Convex], float]:
    reach, size = rng.uniform(0.14, 0.24), rng.uniform(0.06, 0.1)
    parts = [frustum((-0.5 * reach, 0, 0), (0.6 * reach, 0, 0), 0.75 * size, 0.75 * size, 8)]
    parts.append(frustum((0.5 * reach, 0, 0), (reach, 0, 0), size, size, 14))
    if chance(rng, 0.5):
        parts.append(ellipsoid((-0.65 * reach, 0, 0), (size, size, size), 12, 8))
    else:
        # A wedge from the square stem to a thin edge.
        edge = np.insert(polygon(4, 1.2 * size, 0.02), 0, -1.2 * reach, axis=1)
        stem = np.insert(polygon(4, 0.8 * size), 0, -0.4 * reach, axis=1)
        parts += loft([stem, edge])
    return parts, size


def _blade(rng: np.random.Generator, grip: float) -> Convex:
    """Axe blade that flares towards its edge at +x."""
    reach, edge = rng.uniform(0.2, 0.36), rng.uniform(0.12, 0.22)
    root, sag = rng.uniform(0.05, 0.09), rng.uniform(-0.1, 0.0)
    thick = max(1.1 * grip, 0.04)
    back = box((-1.6 * grip, -root, -thick), (0.0, root, thick)).vertices
    bow = arc((reach - 0.06, sag, 0), (0.06, edge), (-90, 90), 7)
    return Convex(np.concatenate([back, bow + [0, 0, 0.014], bow - [0, 0, 0.014]]))


def _axe_head(rng: np.random.Generator, grip: float) -> tuple[list[Convex], float]:
    poll = rng.uniform(0.05, 0.16)
    parts = [_blade(rng, grip)]
    parts.append(box((-poll - grip, -0.055, -0.045), (0.0, 0.055, 0.045)))
    return parts, 0.08


def _double_head(rng: np.random.Generator, grip: float) -> tuple[list[Convex], float]:
    blade = _blade(rng, grip)
    return [blade, *scaled([blade], (-1, 1, 1))], 0.1


def _pick_head(rng: np.random.Generator, grip: float) -> tuple[list[Convex], float]:
    reach, drop = rng.uniform(0.3, 0.48), rng.uniform(0.05, 0.25)
    x = np.linspace(-1.0, 1.0, 9)
    path = np.stack([reach * x, -drop * x**2, 0.0 * x], axis=1)
    taper = 1.0 - 0.6 * np.abs(x) ** 1.5
    if chance(rng, 0.5):
        # One end is a broad adze instead of a point.
        taper = np.where(x > 0.0, np.maximum(taper, 0.75), taper)
    outline = polygon(4, rng.uniform(0.05, 0.09), rng.uniform(0.06, 0.09))
    return sweep(path, outline, (0, 0, 1), scales=taper), 0.09


_HEADS = {
    "claw": _claw_head,
    "mallet": _mallet_head,
    "sledge": _sledge_head,
    "peen": _peen_head,
    "axe": _axe_head,
    "double": _double_head,
    "pick": _pick_head,
}


def wrench(rng: np.random.Generator) -> Solid:
    """Spanner with an open, ring or adjustable jaw, T-handle key or four-way wheel brace."""
    length, wide = rng.uniform(0.45, 0.95), rng.uniform(0.04, 0.085)
    thick = rng.uniform(0.04, 0.07)
    style = pick(rng, "plain", "plain", "plain", "bent", "tee", "cross")
    if style in ("tee", "cross"):
        return _bar_wrench(rng, length, wide, style == "cross")
    # Only the shaft of a "bent" wrench bends. The jaws follow its ends.
    bend = rng.uniform(0.12, 0.3) * rng.choice([-1, 1]) if style == "bent" else 0.0
    y = np.linspace(0.0, length, 9)
    curve = np.sin if chance(rng, 0.5) else lambda a: 1.0 - np.cos(a)
    path = np.stack([0.5 * bend * curve(2.0 * np.pi * y / length * 0.75), y, 0.0 * y], axis=1)
    shaft = sweep(path, polygon(4, 1.2 * thick, 1.4 * wide), (0, 0, 1))
    upper = pick(rng, "open", "open", "ring", "adjustable")
    lower = pick(rng, "open", "ring", "ring", "grip", "hole")
    bodies = [Body.of(shaft)]
    for style, end, before in ((upper, path[-1], path[-2]), (lower, path[0], path[1])):
        along = end - before
        lean = np.degrees(np.arctan2(-along[0], along[1]))
        jaw = _jaw(rng, style, wide * rng.uniform(0.85, 1.1), thick)
        bodies.append(jaw.affine(rotation("z", lean), end))
    return Solid.of(*bodies)


def _bar_wrench(rng: np.random.Generator, length: float, wide: float, cross: bool) -> Solid:
    """Round bars with sockets, one below a T-handle or one at each end of a cross."""
    bar = rng.uniform(0.7, 0.95) * wide
    reach = length * rng.uniform(0.25, 0.5)
    level = length * rng.uniform(0.4, 0.65) if cross else length
    parts = [frustum((0, 0, 0), (0, length, 0), bar, bar, 10)]
    parts.append(frustum((-reach, level, 0), (reach, level, 0), bar, bar, 10))
    ends = [(np.zeros(3), np.array([0.0, -1.0, 0.0]))]
    if cross:
        ends.append((np.array([0.0, length, 0.0]), np.array([0.0, 1.0, 0.0])))
        for side in (-1.0, 1.0):
            ends.append((np.array([side * reach, level, 0.0]), np.array([side, 0.0, 0.0])))
    bodies = [Body.of(parts)]
    for end, out in ends:
        radius, deep = bar * rng.uniform(1.5, 2.2), rng.uniform(0.06, 0.12)
        socket = frustum(end - 0.03 * out, end + deep * out, radius, radius, 12)
        hole = frustum(end + 0.03 * out, end + 2.0 * deep * out, 0.6 * radius, 0.6 * radius, 6)
        bodies.append(Body.of([socket], [hole]))
    return Solid.of(*bodies)


def _jaw(rng: np.random.Generator, style: str, wide: float, thick: float) -> Body:
    """End piece that points up, for a shaft that ends at the origin."""
    size = max(wide * rng.uniform(1.7, 2.8), 0.11)
    disc = polygon(20, size, size * rng.uniform(1.0, 1.25))
    hole = size * rng.uniform(0.42, 0.6)
    if style == "grip":
        radius = wide * rng.uniform(1.1, 1.6)
        parts = [frustum((0, -0.03, 0), (0, rng.uniform(0.2, 0.35), 0), 0.8 * radius, radius, 8)]
        cuts = []
    elif style == "hole":
        parts = [prism(polygon(16, 1.3 * wide), -thick, thick, "z")]
        cuts = [prism(polygon(10, 0.65 * wide), -1.0, 1.0, "z")]
    elif style == "ring":
        parts = [prism(disc, -1.2 * thick, 1.2 * thick, "z")]
        cuts = [prism(polygon(int(rng.choice([6, 12])), hole), -1.0, 1.0, "z")]
    elif style == "adjustable":
        return _adjustable(rng, size, thick)
    else:
        parts = [prism(disc, -1.1 * thick, 1.1 * thick, "z")]
        notch = box((-hole, -0.2 * size, -1.0), (hole, 3.0 * size, 1.0))
        cuts = turned([notch], "z", rng.choice([0.0, 15.0, -15.0, 30.0]))
    lift = 0.7 * size if style in ("ring", "open") else 0.0
    return Body.of(parts, cuts).affine(np.eye(3), np.array([0.0, lift, 0.0]))


def _adjustable(rng: np.random.Generator, size: float, thick: float) -> Body:
    """Jaw with a fixed side, a sliding side, and a roller below."""
    gap, reach = rng.uniform(0.4, 1.1) * size, rng.uniform(0.9, 1.4) * size
    half = 0.6 * size
    parts = [prism(polygon(8, 1.15 * size, 0.75 * size), -1.2 * thick, 1.2 * thick, "z")]
    for low, high in ((-half - gap / 2, -gap / 2), (gap / 2, gap / 2 + half)):
        tip = [[low, 0.0], [high, 0.0], [high, reach], [low, 0.75 * reach]]
        if low > 0:
            tip = [[low, 0.0], [high, 0.0], [high, 0.7 * reach], [low, reach]]
        parts.append(prism(np.array(tip), -thick, thick, "z"))
    parts.append(frustum((-0.4 * size, 0, 0), (0.4 * size, 0, 0), 1.8 * thick, 1.8 * thick, 10))
    turn = turned(parts, "z", rng.choice([0.0, 15.0, -15.0]))
    return Body.of(moved(turn, (0.0, 0.4 * size, 0.0)))


def scissors(rng: np.random.Generator) -> Solid:
    """Scissors, shears or pliers, more or less open."""
    opening = rng.uniform(4.0, 38.0)
    thick = rng.uniform(0.03, 0.05)
    pliers = chance(rng, 0.35)
    blade = rng.uniform(0.16, 0.3) if pliers else rng.uniform(0.35, 0.65)
    grip = rng.uniform(0.35, 0.6)
    wide = rng.uniform(0.035, 0.06)
    bodies = []
    for side in (-1, 1):
        make = _plier_half if pliers else _scissor_half
        half = make(rng, blade, grip, wide, thick)
        # The two halves lie one above the other, and overlap around the pivot.
        half = moved(half, (0.0, 0.0, 0.8 * thick))
        half = scaled(half, (side, 1.0, side))
        bodies.append(Body.of(turned(half, "z", -side * opening)))
    pivot = frustum((0, 0, -2.2 * thick), (0, 0, 2.2 * thick), 0.8 * wide, 0.8 * wide, 12)
    return Solid.of(*bodies, Body.of([pivot]))


def _scissor_half(
    rng: np.random.Generator, blade: float, grip: float, wide: float, thick: float
) -> list[Convex]:
    """Blade towards +y with its handle ring towards -y and, before opening, -x."""
    outline = [[-wide, -wide], [wide, -wide], [wide, 0.3 * blade], [-0.2 * wide, blade]]
    outline.append([-wide, 0.8 * blade])
    radius = rng.uniform(0.08, 0.13)
    tall, bar = radius * rng.uniform(1.0, 1.6), rng.uniform(0.024, 0.036)
    center = np.array([-radius - 0.01, -grip + tall, 0.0])
    ring = sweep(
        arc(center, (radius, tall), (0, 330), 12), polygon(6, thick, bar), (0, 0, 1), closed=True
    )
    shank_end = center + [0.35 * radius, 0.9 * tall, 0.0]
    shank = sweep(
        np.array([[0.0, 0.5 * wide, 0.0], [0.0, -wide, 0.0], shank_end]),
        polygon(4, 1.3 * thick, 1.2 * wide),
        (0, 0, 1),
    )
    return [prism(np.array(outline), -thick, thick, "z"), *ring, *shank]


def _plier_half(
    rng: np.random.Generator, blade: float, grip: float, wide: float, thick: float
) -> list[Convex]:
    """Blunt jaw towards +y with a bowed handle towards -y."""
    jaw = [[-1.3 * wide, -wide], [1.3 * wide, -wide], [1.5 * wide, 0.3 * blade]]
    jaw += [[0.4 * wide, blade], [-0.3 * wide, blade]]
    y = np.linspace(0.3 * wide, -grip, 7)
    bow = -rng.uniform(0.03, 0.1) * np.sin(np.pi * np.clip(-y / grip, 0.0, 1.0)) ** 0.8
    path = np.stack([bow, y, 0.0 * y], axis=1)
    handle = sweep(path, polygon(8, 1.1 * thick, 0.9 * wide), (0, 0, 1))
    return [prism(np.array(jaw), -thick, thick, "z"), *handle]

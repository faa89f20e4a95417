"""Shape programs for seats: chair and sofa."""

from __future__ import annotations

import numpy as np

from occvae.data.procedural.convex import (
    Convex,
    arc,
    bevelled_box,
    box,
    ellipsoid,
    frustum,
    polygon,
    sweep,
    turned,
)
from occvae.data.procedural.parts import chance, four_legs, pedestal, pick, slab
from occvae.data.procedural.solids import Body, Solid


def chair(rng: np.random.Generator) -> Solid:
    """Chair. Seat, base, back and arms are chosen independently."""
    half_x, half_z = rng.uniform(0.17, 0.34), rng.uniform(0.17, 0.31)
    seat, thick = rng.uniform(0.28, 0.52), rng.uniform(0.04, 0.09)
    kind = pick(rng, "square", "soft", "rounded", "round")
    if kind == "round":
        half_z = half_x
    parts = [slab(kind, half_x, half_z, seat - thick, seat)]
    parts += _chair_base(rng, half_x, half_z, seat - 0.5 * thick, kind)
    high = rng.uniform(0.32, 0.65)
    parts += _chair_back(rng, half_x, half_z, (seat, thick, high), kind)
    if kind != "round" and chance(rng, 0.4):
        parts += _chair_arms(rng, half_x, half_z, seat, thick)
    return Solid.of(Body.of(parts))


def _chair_base(
    rng: np.random.Generator, half_x: float, half_z: float, top: float, kind: str
) -> list[Convex]:
    thick = rng.uniform(0.024, 0.042)
    inset = 0.62 if kind == "round" else 0.97 - 1.5 * thick / min(half_x, half_z)
    x, z = half_x * inset, half_z * inset
    style = pick(rng, *["legs"] * 5, "pedestal", "sled", "cantilever", "panels")
    if style == "legs":
        return four_legs(rng, x, z, top, thick, rng.choice([0.0, rng.uniform(0.05, 0.4)]))
    if style == "pedestal":
        return pedestal(rng, top, rng.uniform(0.75, 1.1) * half_x, thick)
    if style == "panels":
        width = max(thick, 0.03)
        return [box((s * x - width, 0.0, -z), (s * x + width, top, z)) for s in (-1, 1)]
    # A sled has side frames on runners. In a cantilever only the front uprights reach the seat.
    bottom = thick
    path = [[0, top, z], [0, bottom, z], [0, bottom, -z]]
    if style == "sled":
        path.append([0, top, -z])
    outline = polygon(8, thick)
    parts = []
    for side in (-x, x):
        parts += sweep(np.array(path) + [side, 0, 0], outline, (1, 0, 0))
    parts.append(frustum((-x, bottom, -z), (x, bottom, -z), thick, thick, 8))
    return parts


def _chair_back(
    rng: np.random.Generator,
    half_x: float,
    half_z: float,
    heights: tuple[float, float, float],
    kind: str,
) -> list[Convex]:
    """Back that leans backwards. `heights` are those of seat, seat thickness and back."""
    seat, thick, high = heights
    wide = half_x * rng.uniform(0.6, 0.7) if kind == "round" else half_x * rng.uniform(0.75, 0.97)
    depth = rng.uniform(0.022, 0.04)
    # On a round seat, the back stands on the chord of its own width.
    edge = -half_z * np.sqrt(1.0 - (wide / half_x) ** 2) if kind == "round" else -half_z
    edge += 1.2 * depth
    local = _BACKS[pick(rng, *_BACKS)](rng, wide, high, depth)
    sunk = 0.7 * thick
    local = turned(local, "x", -rng.uniform(0.0, 18.0))
    return [part.affine(np.eye(3), np.array([0.0, seat - sunk, edge])) for part in local]


def _back_panel(rng: np.random.Generator, wide: float, high: float, depth: float) -> list[Convex]:
    soft = chance(rng, 0.5)
    low, top = (-wide, 0.0, -depth), (wide, high, depth)
    return [bevelled_box(low, top, 0.5 * depth) if soft else box(low, top)]


def _posts(wide: float, high: float, depth: float) -> list[Convex]:
    return [
        box((s * (wide - depth) - depth, 0, -depth), (s * (wide - depth) + depth, high, depth))
        for s in (-1, 1)
    ]


def _back_ladder(rng: np.random.Generator, wide: float, high: float, depth: float) -> list[Convex]:
    parts = _posts(wide, high, depth)
    count = int(rng.integers(1, 5))
    share = rng.uniform(0.35, 0.65)
    pitch = 0.8 * high / count
    for top in high - pitch * np.arange(count):
        parts.append(box((-wide, top - share * pitch, -0.7 * depth), (wide, top, 0.7 * depth)))
    return parts


def _back_spindles(
    rng: np.random.Generator, wide: float, high: float, depth: float
) -> list[Convex]:
    rail = rng.uniform(0.05, 0.14)
    parts = _posts(wide, high, depth)
    parts.append(box((-wide, high - rail, -depth), (wide, high, depth)))
    count = int(rng.integers(1, 6))
    thin = max(0.018, rng.uniform(0.2, 0.35) * wide / count)
    for x in np.linspace(-wide, wide, count + 2)[1:-1]:
        parts.append(box((x - thin, 0.0, -0.6 * depth), (x + thin, high, 0.6 * depth)))
    return parts


def _back_hoop(rng: np.random.Generator, wide: float, high: float, depth: float) -> list[Convex]:
    radius = wide - depth
    rise = min(high, 1.2 * wide)
    bow = arc((0, high - rise, 0), (radius, rise - depth), (0, 180), 11)
    ends = np.array([[radius, 0, 0], [-radius, 0, 0]])
    path = np.concatenate([ends[:1], bow, ends[1:]]) if high > rise + 0.02 else bow
    parts = sweep(path, polygon(8, depth), (0, 0, 1))
    if chance(rng, 0.5):
        thin = rng.uniform(0.2, 0.5) * wide
        parts.append(box((-thin, 0, -0.6 * depth), (thin, high - depth, 0.6 * depth)))
    return parts


def _back_oval(rng: np.random.Generator, wide: float, high: float, depth: float) -> list[Convex]:
    """Round or oval pad on one or two stems."""
    tall = min(0.5 * high, 1.2 * wide)
    pad = [ellipsoid((0, 0, 0), (wide, 1.6 * depth, tall), 16, 6)]
    pad = [part.affine(np.eye(3), np.array([0, high - tall, 0])) for part in turned(pad, "x", 90)]
    stem = rng.uniform(0.15, 0.4) * wide
    spread = 0.0 if chance(rng, 0.5) else 0.45 * wide
    for s in (-spread, spread) if spread else (0.0,):
        pad.append(box((s - stem, 0, -0.8 * depth), (s + stem, high - tall, 0.8 * depth)))
    return pad


def _back_wrap(rng: np.random.Generator, wide: float, high: float, depth: float) -> list[Convex]:
    """Shell that bends forward on both sides."""
    low = 0.0 if chance(rng, 0.5) else 0.35 * high
    bend = rng.uniform(0.5, 1.0) * wide
    path = arc((0, (low + high) / 2, bend), (wide, bend), (200, 340), 8, plane="xz")
    parts = sweep(path, polygon(4, (high - low) / np.sqrt(2.0), 1.4 * depth), (0, 1, 0))
    if low:
        stem = rng.uniform(0.2, 0.5) * wide
        parts.append(box((-stem, 0, -depth), (stem, high, depth)))
    return parts


_BACKS = {
    "panel": _back_panel,
    "ladder": _back_ladder,
    "spindles": _back_spindles,
    "hoop": _back_hoop,
    "oval": _back_oval,
    "wrap": _back_wrap,
}


def _chair_arms(
    rng: np.random.Generator, half_x: float, half_z: float, seat: float, thick: float
) -> list[Convex]:
    high, bar = rng.uniform(0.14, 0.24), rng.uniform(0.022, 0.035)
    sides = (-1, 1)
    style = pick(rng, "frame", "panel", "post", "tablet")
    bottom, top = seat - 0.7 * thick, seat + high
    parts = []
    for s in sides:
        x = s * (half_x - bar)
        if style == "panel":
            parts.append(box((x - bar, bottom, -half_z), (x + bar, top, 0.85 * half_z)))
            continue
        ends = (-0.85, 0.75) if style == "frame" else (0.2,)
        for z in ends:
            z *= half_z
            parts.append(box((x - bar, bottom, z - bar), (x + bar, top, z + bar)))
        wide = 2.2 * bar if style == "tablet" else 1.3 * bar
        parts.append(box((x - wide, top - bar, -half_z), (x + wide, top + bar, 0.9 * half_z)))
    return parts


def sofa(rng: np.random.Generator) -> Solid:
    """Armchair, two-seater or three-seater, sometimes with a chaise longue and only one arm."""
    seats = int(rng.choice([1, 2, 2, 3, 3]))
    half_x = 0.5 * seats * rng.uniform(0.3, 0.42) + 0.02
    half_z, seat = rng.uniform(0.19, 0.32), rng.uniform(0.16, 0.3)
    arm, back = rng.uniform(0.05, 0.13), rng.uniform(0.06, 0.16)
    leg = rng.choice([0.0, *rng.uniform(0.05, 0.14, 2)])
    base = leg + rng.uniform(0.3, 0.6) * seat
    high = leg + seat + rng.uniform(0.12, 0.42)
    wall = half_x + arm
    parts = [box((-wall, leg, -half_z - back), (wall, base, half_z))]
    rest = bevelled_box((-wall, leg, -half_z - back), (wall, high, -half_z + 0.02), 0.2 * back)
    parts += turned([rest], "x", -rng.uniform(0.0, 12.0), (0.0, base, -half_z))
    parts += _sofa_cushions(rng, seats, (half_x, half_z), (base - 0.02, leg + seat))
    if chance(rng, 0.5):
        parts += _back_cushions(rng, seats, (half_x, half_z), (leg + seat, high))
    chaise = seats > 1 and chance(rng, 0.3)
    sides = pick(rng, "both", "left", "right") if chaise else "both"
    parts += _sofa_arms(rng, (half_x, half_z + back, arm), (leg, leg + seat, high), sides)
    if chaise:
        side, reach = rng.choice([-1, 1]), half_z + rng.uniform(0.2, 0.45)
        inner, outer = sorted((side * (half_x - 0.36), side * half_x))
        parts.append(box((inner, leg, 0.0), (outer, base, reach)))
        parts.append(bevelled_box((inner, base - 0.02, 0.0), (outer, leg + seat, reach), 0.02))
    if leg:
        thick = rng.uniform(0.025, 0.045)
        front, rear = half_z - 1.5 * thick, -half_z - back + 1.5 * thick
        feet = four_legs(rng, wall - 1.5 * thick, (front - rear) / 2, base - 0.01, thick)
        parts += [foot.affine(np.eye(3), np.array([0, 0, (front + rear) / 2])) for foot in feet]
    return Solid.of(Body.of(parts))


def _sofa_cushions(
    rng: np.random.Generator, seats: int, half: tuple[float, float], heights: tuple[float, float]
) -> list[Convex]:
    half_x, half_z = half
    bottom, top = heights
    if top - bottom < 0.05:
        return []
    edges = np.linspace(-half_x, half_x, seats + 1)
    bevel = rng.uniform(0.1, 0.4) * (top - bottom)
    front = half_z + rng.uniform(-0.03, 0.03)
    # Sunk by more than the bevel, because the lower edges of neighbors would enclose a void.
    bottom -= bevel
    return [
        bevelled_box((left - 0.003, bottom, -half_z), (right + 0.003, top, front), bevel)
        for left, right in zip(edges[:-1], edges[1:], strict=True)
    ]


def _back_cushions(
    rng: np.random.Generator, seats: int, half: tuple[float, float], heights: tuple[float, float]
) -> list[Convex]:
    """One cushion per seat. It leans on the back and may be higher than the back."""
    half_x, half_z = half
    seat, back = heights
    top = max(back + rng.uniform(-0.04, 0.06), seat + 0.1)
    thick, wide = rng.uniform(0.06, 0.11), half_x / seats
    parts = []
    for k in range(seats):
        x = wide * (2 * k + 1 - seats)
        low = (x - 0.97 * wide, seat - 0.04, -half_z - 0.04)
        parts.append(bevelled_box(low, (x + 0.97 * wide, top, thick - half_z), 0.3 * thick))
    return turned(parts, "x", -rng.uniform(4.0, 12.0), (0.0, seat, -half_z))


def _sofa_arms(
    rng: np.random.Generator,
    sizes: tuple[float, float, float],
    heights: tuple[float, float, float],
    which: str,
) -> list[Convex]:
    half_x, depth, arm = sizes
    bottom, seat, high = heights
    top = min(seat + rng.uniform(0.07, 0.2), high)
    sides = {"both": (-1, 1), "left": (-1,), "right": (1,)}[which]
    rolled = chance(rng, 0.4)
    front = depth * rng.uniform(0.55, 0.9) if chance(rng, 0.3) else depth - 0.08
    parts = []
    for s in sides:
        low_x, high_x = sorted((s * (half_x - 0.01), s * (half_x + arm)))
        parts.append(box((low_x, bottom, -depth), (high_x, top, front)))
        if rolled:
            x, radius = s * (half_x + 0.5 * arm), max(0.75 * arm, 0.05)
            parts.append(frustum((x, top, -depth), (x, top, front + 0.01), radius, radius, 16))
    return parts

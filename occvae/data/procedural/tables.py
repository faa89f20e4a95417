"""Shape programs for tables and shelves."""

from __future__ import annotations

import numpy as np

from occvae.data.procedural.convex import Convex, box, frustum
from occvae.data.procedural.parts import chance, drawer_fronts, four_legs, pedestal, pick, slab
from occvae.data.procedural.solids import Body, Solid


def table(rng: np.random.Generator) -> Solid:
    """Table or desk, from a low coffee table to a bar table."""
    half_x, half_z = rng.uniform(0.3, 0.5), rng.uniform(0.2, 0.45)
    high, thick = rng.uniform(0.25, 0.95), rng.uniform(0.035, 0.1)
    kind = pick(rng, "square", "square", "rounded", "round", "hexagon")
    if kind in ("round", "hexagon") and chance(rng, 0.6):
        half_z = half_x
    parts = [slab(kind, half_x, half_z, high - thick, high)]
    boxy = kind in ("square", "rounded")
    if boxy and chance(rng, 0.4):
        parts += _desk(rng, half_x, half_z, high, thick)
    else:
        parts += _table_base(rng, (half_x, half_z), high - 0.5 * thick, boxy)
    return Solid.of(Body.of(parts))


def _table_base(
    rng: np.random.Generator, half: tuple[float, float], top: float, boxy: bool
) -> list[Convex]:
    half_x, half_z = half
    thick = rng.uniform(0.02, 0.05)
    inset = 0.97 - 1.5 * thick / half_z if boxy else rng.uniform(0.5, 0.62)
    x, z = half_x * inset, half_z * inset
    style = pick(rng, "legs", "legs", "three", "pedestal", "trestle", "panels", "block")
    if style == "three" and not boxy:
        return four_legs(rng, x * 1.2, z * 1.2, top, thick, rng.uniform(0.0, 0.5), three=True)
    if style == "pedestal":
        return pedestal(rng, top, rng.uniform(0.5, 0.9) * half_z, 1.4 * thick)
    if style == "panels":
        return [box((s * x - thick, 0, -z), (s * x + thick, top, z)) for s in (-1, 1)]
    if style == "block":
        foot = slab("square", rng.uniform(0.4, 0.95) * x, rng.uniform(0.5, 0.95) * z, 0, top)
        return [foot]
    if style == "trestle":
        parts = []
        for s in (-0.8 * x, 0.8 * x):
            for lean in (-1, 1):
                low, high = (s, 0.0, lean * z), (s, top, -lean * 0.7 * z)
                parts.append(frustum(low, high, 1.2 * thick, 1.2 * thick, 4))
        middle = 0.5 * top / 0.85
        ends = (-0.8 * x, middle, 0.0), (0.8 * x, middle, 0.0)
        return parts + [frustum(*ends, 0.8 * thick, 0.8 * thick, 6)]
    splay = rng.uniform(0.05, 0.35) if chance(rng, 0.3) else 0.0
    parts = four_legs(rng, x, z, top, thick, splay)
    if boxy and not splay and chance(rng, 0.3):
        level = rng.uniform(0.15, 0.5) * top
        parts.append(box((-x, level, -z), (x, level + 0.04, z)))
    return parts


def _desk(
    rng: np.random.Generator, half_x: float, half_z: float, high: float, thick: float
) -> list[Convex]:
    """Base of a desk: a chest of drawers on one side, a panel or posts on the other."""
    side = rng.choice([-1, 1])
    wide, x, z = rng.uniform(0.18, 0.34), 0.95 * half_x, 0.92 * half_z
    foot = rng.choice([0.0, 0.05])
    low_x, high_x = sorted((side * x, side * (x - wide)))
    low, top = (low_x, foot, -z), (high_x, high - 0.5 * thick, z)
    rows = max(1, round((high - foot) / rng.uniform(0.13, 0.28)))
    parts = [box(low, top), *drawer_fronts(low, top, rows, 0.022)]
    post = rng.uniform(0.02, 0.035)
    if foot:
        for a in (low_x + post, high_x - post):
            parts += [box((a - post, 0, b - post), (a + post, 0.1, b + post)) for b in (-z, z)]
    opposite = -side * (x - post)
    if chance(rng, 0.5):
        parts.append(box((opposite - post, 0, -z), (opposite + post, top[1], z)))
    else:
        for b in (-z, z - post):
            parts.append(box((opposite - post, 0, b), (opposite + post, top[1], b + 1.5 * post)))
    if chance(rng, 0.3):
        # The return of an L-shaped desk extends to the front, on the side without drawers.
        a, b = sorted((-side * half_x, -side * (half_x - 0.26)))
        reach = half_z + rng.uniform(0.2, 0.4)
        parts.append(box((a, high - thick, 0.0), (b, high, reach)))
        parts.append(box((a, 0.0, reach - 2 * post), (b, high - 0.5 * thick, reach)))
    if chance(rng, 0.25):
        parts.append(box((-half_x, high - 0.01, -half_z), (half_x, high + 0.22, 0.04 - half_z)))
        parts.append(box((-half_x, high + 0.18, -half_z), (half_x, high + 0.22, 0.1 - half_z)))
    return parts


def shelf(rng: np.random.Generator) -> Solid:
    """Bookcase, cabinet, open rack, stair-shaped, L-shaped or ladder shelf."""
    style = pick(rng, "case", "case", "cabinet", "rack", "stairs", "corner", "ladder")
    high, half_x = rng.uniform(0.45, 1.0), rng.uniform(0.18, 0.5)
    depth, board = rng.uniform(0.07, 0.17), rng.uniform(0.014, 0.026)
    rows = int(rng.integers(2, 6))
    if style == "rack":
        return Solid.of(Body.of(_rack(rng, half_x, depth, high, rows)))
    if style == "ladder":
        return Solid.of(Body.of(_ladder_shelf(rng, half_x, high, board, rows)))
    columns = int(rng.integers(1, 4))
    if style == "stairs":
        columns = max(columns, 2)
        steps = np.linspace(1.0 / columns, 1.0, columns)
        tall = np.maximum(np.round(steps * rows), 1).astype(int)
        tall = tall if chance(rng, 0.5) else tall[::-1]
    else:
        tall = np.full(columns, rows)
    parts = _case(rng, (half_x, depth, high / rows), tall, board, style == "cabinet")
    if style == "corner":
        parts += _corner_wing(rng, (half_x, depth, high), rows, board)
    return Solid.of(Body.of(parts))


def _case(
    rng: np.random.Generator,
    sizes: tuple[float, float, float],
    tall: np.ndarray,
    board: float,
    cabinet: bool,
) -> list[Convex]:
    """Columns of cells, `tall` (columns,) rows each. Some cells are closed by a front."""
    half_x, depth, row = sizes
    edges = np.linspace(-half_x, half_x, len(tall) + 1)
    back = chance(rng, 0.55)
    shift = rng.uniform(-0.35, 0.35, size=(len(tall), tall.max() + 1)) * chance(rng, 0.4)
    filled = rng.uniform(0.3, 0.7) if cabinet else rng.choice([0.0, 0.1])
    parts = []
    for k, count in enumerate(tall):
        left, right = edges[k] - board, edges[k + 1] + board
        levels = np.arange(count + 1.0)
        levels[1:-1] += shift[k, 1:count]
        levels *= row
        for y in levels:
            parts.append(box((left, y - board, -depth), (right, y + board, depth)))
        for x in (edges[k], edges[k + 1]):
            parts.append(box((x - board, -board, -depth), (x + board, row * count + board, depth)))
        if back:
            parts.append(box((left, -board, -depth), (right, row * count, 2 * board - depth)))
        for low, high in zip(levels[:-1], levels[1:], strict=True):
            if chance(rng, filled):
                corner, far = (left + board, low, -depth), (right - board, high, 0.96 * depth)
                parts += [box(corner, far), *drawer_fronts(corner, far, 1, 0.022)]
    if chance(rng, 0.35):
        foot = rng.uniform(0.05, 0.12)
        for x in (0.94 * half_x, -0.94 * half_x):
            for z in (0.75 * depth, -0.75 * depth):
                parts.append(frustum((x, -foot, z), (x, 0, z), 0.02, 0.03, 8))
    return parts


def _corner_wing(
    rng: np.random.Generator, sizes: tuple[float, float, float], rows: int, board: float
) -> list[Convex]:
    """Second wing of an L-shaped shelf, towards the front on one side."""
    half_x, depth, high = sizes
    side = rng.choice([-1, 1])
    reach = depth + rng.uniform(0.2, 0.6)
    count = int(rng.integers(1, rows + 1))
    top = high * count / rows
    a, b = sorted((side * (half_x + board), side * (half_x + board - 1.8 * depth)))
    parts = [
        box((a, y - board, -depth), (b, y + board, reach)) for y in np.linspace(0, top, count + 1)
    ]
    parts.append(box((a, -board, reach - 2 * board), (b, top + board, reach)))
    wall = sorted((side * (half_x + board), side * (half_x - board)))
    parts.append(box((wall[0], -board, -depth), (wall[1], top + board, reach)))
    return parts


def _rack(
    rng: np.random.Generator, half_x: float, depth: float, high: float, rows: int
) -> list[Convex]:
    """Boards on four posts, with or without bracing."""
    post, board = rng.uniform(0.016, 0.03), rng.uniform(0.016, 0.035)
    corners = [(a * half_x, b * depth) for a in (-1, 1) for b in (-1, 1)]
    parts = [box((x - post, 0, z - post), (x + post, high, z + post)) for x, z in corners]
    for y in np.linspace(rng.uniform(0.04, 0.2), high - board, rows):
        parts.append(box((-half_x, y - board, -depth), (half_x, y + board, depth)))
    if chance(rng, 0.5):
        for s in (-1, 1):
            ends = (-s * half_x, 0.06, -depth), (s * half_x, high - 0.04, -depth)
            parts.append(frustum(*ends, post, post, 6))
    return parts


def _ladder_shelf(
    rng: np.random.Generator, half_x: float, high: float, board: float, rows: int
) -> list[Convex]:
    """Leaning shelf. Its lower boards are deeper than its upper ones."""
    deep, bar = rng.uniform(0.3, 0.5), rng.uniform(0.02, 0.03)
    parts = []
    for x in (-half_x, half_x):
        parts.append(frustum((x, 0, deep), (x, high, 0.04), bar, bar, 4))
        if chance(rng, 0.7):
            parts.append(frustum((x, 0, 0), (x, high, 0), bar, bar, 4))
    for y in np.linspace(0.1, 0.9 * high, rows):
        front = deep + (0.04 - deep) * y / high
        parts.append(box((-half_x, y - board, -0.01), (half_x, y + board, front + bar)))
    rear = (-half_x, 0.86 * high, -0.02), (half_x, 0.94 * high, 0.02)
    return [*parts, box(*rear)]

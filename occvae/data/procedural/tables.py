"""Shape programs for tables and shelves."""

from __future__ import annotations

import numpy as np

from occvae.data.procedural.convex import Convex, Point, box, frustum, prism
from occvae.data.procedural.parts import chance, drawer_fronts, four_legs, pedestal, pick, slab
from occvae.data.procedural.solids import Body, Solid


def table(rng: np.random.Generator) -> Solid:
    """Table or desk, from a low coffee table to a bar table."""
    half_x, half_z = rng.uniform(0.32, 0.5), rng.uniform(0.2, 0.42)
    high, thick = rng.uniform(0.32, 0.85), rng.uniform(0.035, 0.08)
    kind = pick(rng, "square", "square", "rounded", "round", "hexagon")
    if kind in ("round", "hexagon") and chance(rng, 0.6):
        half_z = half_x
    parts = [slab(kind, half_x, half_z, high - thick, high)]
    boxy = kind in ("square", "rounded")
    if kind == "square" and half_x > 0.36 and half_z < 0.7 * half_x:
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
    style = pick(rng, *["legs"] * 4, "three", "pedestal", "trestle", "panels")
    if style == "three" and not boxy:
        return four_legs(rng, x * 1.2, z * 1.2, top, thick, rng.uniform(0.0, 0.5), three=True)
    if style == "pedestal":
        return pedestal(rng, top, rng.uniform(0.5, 0.9) * half_z, 1.4 * thick)
    if style == "panels" and boxy:
        z *= rng.uniform(0.65, 0.95)
        return [box((s * x - thick, 0, -z), (s * x + thick, top, z)) for s in (-1, 1)]
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
    x, z = 0.95 * half_x, 0.92 * half_z
    wide = rng.uniform(0.4, 0.75) * half_x
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
    """Bookcase, cabinet, rack, etagere, or a stepped, corner, ladder or wall shelf."""
    style = pick(rng, *["case"] * 3, "cabinet", "cabinet", "steps", "corner", *_OPEN_SHELVES)
    high, half_x = rng.uniform(0.5, 1.0), rng.uniform(0.24, 0.5)
    depth, board = rng.uniform(0.08, 0.16), rng.uniform(0.016, 0.026)
    rows = int(rng.integers(2, 6))
    if style in _OPEN_SHELVES:
        return Solid.of(Body.of(_OPEN_SHELVES[style](rng, (half_x, depth, high), rows, board)))
    columns = int(rng.integers(1, 4))
    tall = np.full(columns, rows)
    if style == "steps":
        tall = _stepped(rng, max(columns, 2), max(rows, 3))
    sizes = (half_x, depth, high / tall.max())
    parts = _case(rng, sizes, tall, board, style == "cabinet")
    if style == "corner":
        parts += _corner_wing(rng, (half_x, depth, high), rows, board)
    else:
        parts += _under_case(rng, half_x, depth, board)
    return Solid.of(Body.of(parts))


def _stepped(rng: np.random.Generator, columns: int, rows: int) -> np.ndarray:
    """Rows of each column (columns,): rising, falling, highest in the middle or random."""
    style = pick(rng, "rising", "falling", "middle", "random")
    if style == "random":
        return rng.integers(1, rows + 1, columns)
    share = np.linspace(1.0 / columns, 1.0, columns)
    if style == "middle":
        share = 1.0 - np.abs(np.linspace(-0.6, 0.6, columns + 1 - columns % 2))
    tall = np.maximum(np.round(share * rows), 1).astype(int)
    return tall[::-1] if style == "falling" else tall


def _case(
    rng: np.random.Generator,
    sizes: tuple[float, float, float],
    tall: np.ndarray,
    board: float,
    cabinet: bool,
) -> list[Convex]:
    """Columns of cells, `tall` (columns,) rows each. The lower cells of a cabinet are closed."""
    half_x, depth, row = sizes
    edges = np.linspace(-half_x, half_x, len(tall) + 1)
    back = chance(rng, 0.2)
    shift = rng.uniform(-0.3, 0.3, size=(len(tall), tall.max() + 1)) * chance(rng, 0.4)
    closed = max(1, int(tall.max() * rng.uniform(0.25, 0.6))) if cabinet else 0
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
        if closed:
            low, high = (left + board, 0.0, -depth), (right - board, levels[closed], 0.94 * depth)
            parts += [box(low, high), *_doors_or_drawers(rng, low, high, closed)]
    return parts


def _doors_or_drawers(rng: np.random.Generator, low: Point, high: Point, rows: int) -> list[Convex]:
    """Fronts of the closed part of a column: one door, two doors or `rows` drawers."""
    style = pick(rng, "doors", "drawers")
    middle = (low[0] + high[0]) / 2.0
    if style == "drawers":
        return drawer_fronts(low, high, rows, 0.026)
    if high[0] - low[0] < 0.3:
        return drawer_fronts(low, high, 1, 0.026)
    left = drawer_fronts(low, (middle, high[1], high[2]), 1, 0.026)
    return left + drawer_fronts((middle, low[1], low[2]), high, 1, 0.026)


def _under_case(
    rng: np.random.Generator, half_x: float, depth: float, board: float
) -> list[Convex]:
    """Feet, nothing, or a plinth that is set back from the front."""
    style = pick(rng, "feet", "plinth", "none")
    high = rng.uniform(0.05, 0.11)
    if style == "plinth":
        return [box((-0.94 * half_x, -high, -0.94 * depth), (0.94 * half_x, 0.0, 0.8 * depth))]
    if style == "none":
        return []
    return [
        frustum((a * half_x, -high, b * depth), (a * half_x, 0, b * depth), 0.024, 0.034, 8)
        for a in (-0.92, 0.92)
        for b in (-0.75, 0.75)
    ]


def _corner_wing(
    rng: np.random.Generator, sizes: tuple[float, float, float], rows: int, board: float
) -> list[Convex]:
    """Second wing of an L-shaped shelf, towards the front on one side."""
    half_x, depth, high = sizes
    side = rng.choice([-1, 1])
    reach = depth + rng.uniform(0.25, 0.6)
    count = int(rng.integers(1, rows + 1))
    top = high * count / rows
    a, b = sorted((side * (half_x + board), side * (half_x + board - 1.8 * depth)))
    parts = [
        box((a, y - board, -depth), (b, y + board, reach)) for y in np.linspace(0, top, count + 1)
    ]
    parts.append(box((a, -board, reach - 2 * board), (b, top + board, reach)))
    if chance(rng, 0.3):
        wall = sorted((side * (half_x + board), side * (half_x - board)))
        parts.append(box((wall[0], -board, -depth), (wall[1], top + board, reach)))
    return parts


# The functions below make open shelves. `sizes` are half width, half depth and height. `board` is
# half of a board's thickness.


def _rack(
    rng: np.random.Generator, sizes: tuple[float, float, float], rows: int, board: float
) -> list[Convex]:
    """Boards on four posts, with or without bracing."""
    half_x, depth, high = sizes
    post = rng.uniform(0.018, 0.03)
    corners = [(a * half_x, b * depth) for a in (-1, 1) for b in (-1, 1)]
    parts = [box((x - post, 0, z - post), (x + post, high, z + post)) for x, z in corners]
    for y in np.linspace(rng.uniform(0.04, 0.2), high - board, max(rows, 3)):
        parts.append(box((-half_x, y - board, -depth), (half_x, y + board, depth)))
    if chance(rng, 0.4):
        for s in (-1, 1):
            ends = (-s * half_x, 0.06, -depth), (s * half_x, high - 0.04, -depth)
            parts.append(frustum(*ends, post, post, 6))
    return parts


def _ladder_shelf(
    rng: np.random.Generator, sizes: tuple[float, float, float], rows: int, board: float
) -> list[Convex]:
    """Leaning shelf. Its lower boards are deeper than its upper ones."""
    half_x, _, high = sizes
    deep, bar = rng.uniform(0.3, 0.45), rng.uniform(0.022, 0.032)
    parts = []
    for x in (-half_x, half_x):
        parts.append(frustum((x, 0, deep), (x, high, 0.04), bar, bar, 4))
        if chance(rng, 0.7):
            parts.append(frustum((x, 0, 0), (x, high, 0), bar, bar, 4))
    for y in np.linspace(0.1, 0.9 * high, max(rows, 3)):
        front = deep + (0.04 - deep) * y / high
        parts.append(box((-half_x, y - board, -0.01), (half_x, y + board, front + bar)))
    rear = (-half_x, 0.86 * high, -0.02), (half_x, 0.94 * high, 0.02)
    return [*parts, box(*rear)]


def _wall_shelf(
    rng: np.random.Generator, sizes: tuple[float, float, float], rows: int, board: float
) -> list[Convex]:
    """Boards on brackets, held by two rails on the wall. The boards may be shifted sideways."""
    half_x, depth, high = sizes
    rail, at = rng.uniform(0.02, 0.032), 0.55 * half_x
    parts = [box((x - rail, 0.0, -depth), (x + rail, high, 0.04 - depth)) for x in (-at, at)]
    rows = max(rows, 3)
    bracket = min(0.8 * depth, 0.4 * high / rows)
    # Triangle (y, z) of a bracket: along the board to the front, then down to the wall.
    outline = np.array([[0.0, -depth], [0.0, bracket - depth], [-bracket, -depth]])
    shift = rng.uniform(-0.35, 0.35, rows) * half_x * chance(rng, 0.5)
    for y, move in zip(np.linspace(0.4 * high / rows, high - 0.02, rows), shift, strict=True):
        low, far = (move - half_x, y - board, -depth), (move + half_x, y + board, depth)
        parts.append(box(low, far))
        for x in (-at, at):
            parts.append(prism(outline + [y, 0.0], x - 0.8 * rail, x + 0.8 * rail, "x"))
    return parts


def _etagere(
    rng: np.random.Generator, sizes: tuple[float, float, float], rows: int, board: float
) -> list[Convex]:
    """Boards with a round or rounded outline on four posts or on one column."""
    half_x, depth, high = sizes
    kind = pick(rng, "round", "rounded")
    half = min(half_x, 0.32)
    half_z = max(depth, half * rng.uniform(0.6, 1.0))
    levels = np.linspace(rng.uniform(0.03, 0.12), high, max(rows, 3))
    parts = [slab(kind, half, half_z, y - board, y + board) for y in levels]
    post = rng.uniform(0.02, 0.03)
    if kind == "round" and rows < 5 and chance(rng, 0.4):
        return [*parts, frustum((0, 0, 0), (0, high + 0.05, 0), 2 * post, 2 * post, 12)]
    inset = 0.72 if kind == "rounded" else 0.6
    return parts + [
        frustum((a * half, 0, b * half_z), (a * half, high, b * half_z), post, post, 8)
        for a in (-inset, inset)
        for b in (-inset, inset)
    ]


_OPEN_SHELVES = {
    "rack": _rack,
    "ladder": _ladder_shelf,
    "wall": _wall_shelf,
    "etagere": _etagere,
}

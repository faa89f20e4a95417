"""Pieces that several shape programs share, such as legs, handles and slabs."""

from __future__ import annotations

import numpy as np

from occvae.data.procedural.convex import (
    Convex,
    Point,
    arc,
    bevelled_box,
    box,
    frustum,
    loft,
    polygon,
    prism,
    sweep,
)


def chance(rng: np.random.Generator, probability: float) -> bool:
    """True with the given probability."""
    return bool(rng.random() < probability)


def pick(rng: np.random.Generator, *options: str) -> str:
    """One of the options, each with the same probability."""
    return options[int(rng.integers(len(options)))]


def slab(kind: str, half_x: float, half_z: float, low: float, high: float) -> Convex:
    """Horizontal plate from y = `low` to `high`, centered on the y axis.

    Args:
        kind: outline, "soft", "round", "rounded" or "hexagon". Any other name gives a box.
        half_x: half of the size along x.
        half_z: half of the size along z.
        low: y of the lower side.
        high: y of the upper side.
    """
    if kind == "soft":
        bevel = 0.35 * min(high - low, half_x, half_z)
        return bevelled_box((-half_x, low, -half_z), (half_x, high, half_z), bevel)
    if kind == "round":
        return prism(polygon(24, half_x, half_z), low, high)
    if kind == "rounded":
        return prism(polygon(24, half_x, half_z, power=5.0), low, high)
    if kind == "hexagon":
        return prism(polygon(6, half_x, half_z), low, high)
    return box((-half_x, low, -half_z), (half_x, high, half_z))


def four_legs(
    rng: np.random.Generator,
    half_x: float,
    half_z: float,
    top: float,
    thick: float,
    splay: float = 0.0,
    three: bool = False,
) -> list[Convex]:
    """Legs from the floor to y = `top`, sometimes with stretchers between them.

    Args:
        rng: source of randomness.
        half_x: x of the center line of a leg at its top.
        half_z: z of the center line of a leg at its top.
        top: y of the upper end.
        thick: radius of a leg.
        splay: how far the legs lean outwards, as a share of their distance from the y axis.
        three: whether there are three legs instead of four.
    """
    if three:
        angle = np.radians([90.0, 210.0, 330.0])
        corners = np.stack([np.cos(angle) * half_x, np.sin(angle) * half_z], axis=1)
    else:
        corners = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * [half_x, half_z]
    sides = 4 if chance(rng, 0.5) else 10
    # A square with corners on a circle looks thinner than the circle.
    radius = thick * (1.3 if sides == 4 else 1.0)
    taper = rng.uniform(0.6, 1.0)
    tops = [np.array([x, top, z]) for x, z in corners]
    feet = [np.array([x, 0.0, z]) * (1.0 + splay) for x, z in corners]
    parts = []
    for head, foot in zip(tops, feet, strict=True):
        square = polygon(sides, radius)
        upper = np.insert(square, 1, 0.0, axis=1)
        parts += loft([foot + upper * taper, head + upper])
    if chance(rng, 0.35):
        height = rng.uniform(0.15, 0.6)
        joints = [foot + height * (head - foot) for head, foot in zip(tops, feet, strict=True)]
        parts += stretchers(rng, joints, max(0.6 * thick, 0.018))
    return parts


def stretchers(rng: np.random.Generator, joints: list[np.ndarray], radius: float) -> list[Convex]:
    """Bars between the `joints` (3,) of the legs, around them, crossed or as an H."""
    pairs = [(joints[i - 1], joints[i]) for i in range(len(joints))]
    if len(joints) == 4:
        style = pick(rng, "around", "cross", "h")
        if style == "cross":
            pairs = [(joints[0], joints[2]), (joints[1], joints[3])]
        elif style == "h":
            left, right = (joints[1] + joints[2]) / 2, (joints[0] + joints[3]) / 2
            pairs = [(joints[1], joints[2]), (joints[0], joints[3]), (left, right)]
    return [frustum(start, end, radius, radius, 6) for start, end in pairs]


def pedestal(rng: np.random.Generator, top: float, reach: float, thick: float) -> list[Convex]:
    """Column up to y = `top` on a disc, plate, cone or star of feet with radius `reach`."""
    foot = rng.uniform(0.03, 0.06)
    column = thick * rng.uniform(1.0, 2.2)
    parts = [frustum((0, 0, 0), (0, top, 0), column * rng.uniform(1.0, 1.5), column, 12)]
    style = pick(rng, "disc", "plate", "star", "star", "cone")
    if style == "star":
        arms = int(rng.integers(3, 7))
        for angle in np.linspace(0.0, 2.0 * np.pi, arms, endpoint=False) + np.pi / 2:
            tip = reach * np.array([np.cos(angle), 0.0, np.sin(angle)])
            rise = [0.0, foot, 0.0]
            parts.append(frustum(rise, tip + [0.0, 0.6 * foot, 0.0], foot, 0.7 * foot, 6))
    elif style == "cone":
        wide = frustum((0, 0, 0), (0, top * rng.uniform(0.25, 0.6), 0), reach, 0.8 * column, 20)
        parts.append(wide)
    else:
        parts.append(slab("round" if style == "disc" else "square", reach, reach, 0.0, foot))
    return parts


def loop_handle(
    rng: np.random.Generator, root: Point, size: tuple[float, float], thick: float
) -> list[Convex]:
    """Handle on the +x side of `root` (3,), shaped like a C, a D, a square, an ear or a hook.

    `size` is (reach in x, half height), and `thick` is the radius of the bar. The ends of the bar
    extend behind `root` by 1.5 times its radius, to overlap with the wall.
    """
    reach, half = size
    outline = polygon(8, thick * rng.uniform(1.0, 1.6), thick)
    style = pick(rng, "c", "c", "d", "square", "ear", "hook")
    back = np.array([[-1.5 * thick, half, 0.0]])
    if style in ("c", "ear"):
        path = arc((0, 0, 0), (reach, half), (90, -90), 9)
        if style == "ear":
            path[:, 0] *= np.linspace(1.3, 0.75, len(path))
    else:
        inset = {"d": 0.55, "square": 0.98, "hook": 0.8}[style]
        low = -0.9 * half if style == "hook" else -half
        path = np.array([[0, half, 0], [inset * reach, half, 0], [reach, inset * half, 0]])
        path = np.concatenate([path, [[reach, -inset * half, 0], [inset * reach, low, 0]]])
        if style != "hook":
            path = np.concatenate([path, [[0.0, low, 0.0]]])
    ends = [back, path] if style == "hook" else [back, path, back * [1, -1, 1]]
    return sweep(np.concatenate(ends) + np.asarray(root), outline, (0, 0, 1))


def drawer_fronts(low: Point, high: Point, rows: int, knob: float) -> list[Convex]:
    """Drawer fronts with knobs on the +z face of the box between `low` and `high`."""
    edges = np.linspace(low[1], high[1], rows + 1)
    gap = 0.12 * (edges[1] - edges[0])
    middle = (low[0] + high[0]) / 2.0
    parts = []
    for bottom, top in zip(edges[:-1] + gap, edges[1:] - gap, strict=True):
        face = high[2] + 0.6 * knob
        parts.append(box((low[0] + gap, bottom, high[2] - knob), (high[0] - gap, top, face)))
        center = np.array([middle, (bottom + top) / 2.0, face - 0.2 * knob])
        parts.append(frustum(center, center + [0, 0, 1.4 * knob], knob, knob, 8))
    return parts

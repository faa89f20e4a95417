"""Shape programs for vessels: mug and vase."""

from __future__ import annotations

import numpy as np

from occvae.data.procedural.convex import Convex, frustum, polygon, prism, revolve, scaled, sweep
from occvae.data.procedural.parts import chance, loop_handle, pick
from occvae.data.procedural.solids import Body, Solid


def cavity(outer: np.ndarray, wall: float, floor: float) -> np.ndarray:
    """Inner profile (K, 2) of a vessel that is open at the top.

    Args:
        outer: outer profile (N, 2) of (radius, y), with y ascending.
        wall: smallest distance between the profiles, approximately. It also holds below a flat
            shoulder.
        floor: height of the lowest inner point above the bottom.
    """
    low, high = outer[0, 1] + floor, outer[-1, 1]
    y = np.linspace(low, high, 65)
    shift = np.linspace(-wall, wall, 17)
    around = np.interp(y[:, None] + shift, outer[:, 1], outer[:, 0])
    # The ends of `shift` may exceed `wall` by a rounding error.
    depth = np.sqrt(np.maximum(wall**2 - shift**2, 0.0))
    radius = (around - depth).min(axis=1)
    inner = _thinned(np.stack([np.maximum(radius, 0.012), y], axis=1), 0.12 * wall)
    return np.concatenate([inner, [[inner[-1, 0], high + 0.05]]])


def _thinned(profile: np.ndarray, error: float) -> np.ndarray:
    """Simplifies a profile (K, 2) such that the radius changes by at most `error`."""
    first, last = profile[0], profile[-1]
    chord = np.interp(profile[:, 1], [first[1], last[1]], [first[0], last[0]])
    worst = int(np.argmax(np.abs(chord - profile[:, 0])))
    if abs(chord[worst] - profile[worst, 0]) <= error:
        return profile[[0, -1]]
    below = _thinned(profile[: worst + 1], error)
    return np.concatenate([below[:-1], _thinned(profile[worst:], error)])


def mug(rng: np.random.Generator) -> Solid:
    """Mug, cup, jug or goblet."""
    style = pick(rng, *["mug"] * 6, "cup", "cup", "jug", "goblet")
    sides = 8 if style == "mug" and chance(rng, 0.08) else 24
    high, radius = _mug_size(rng, style)
    wall, floor = rng.uniform(0.035, 0.065), rng.uniform(0.04, 0.1)
    outer = _mug_profile(rng, style, high, radius)
    inner = cavity(outer, wall, floor)
    stem = rng.uniform(0.15, 0.5) if style == "goblet" else 0.0
    parts, cuts = revolve(outer, sides), revolve(inner, sides)
    if style == "jug":
        spout, mouth = _spout(rng, outer, wall)
        parts.append(spout)
        cuts.append(mouth)
    for side in _handle_sides(rng, style):
        parts += scaled(_mug_handle(rng, outer), (side, 1, 1))
    extra = []
    if stem:
        foot = radius * rng.uniform(0.55, 0.95)
        base = [[foot, -stem], [foot, 0.03 - stem], [0.035, 0.06 - stem], [0.045, 0.02]]
        extra = revolve(np.array(base), 24)
    elif style == "cup" and chance(rng, 0.6):
        wide = radius * rng.uniform(1.3, 1.7)
        extra = revolve(np.array([[0.6 * wide, -0.02], [wide, 0.025], [wide, 0.05]]), 24)
    bodies = [Body.of(parts, cuts)]
    return Solid.of(*bodies, Body.of(extra)) if extra else Solid.of(*bodies)


def _mug_size(rng: np.random.Generator, style: str) -> tuple[float, float]:
    """Height and radius."""
    if style == "cup":
        return rng.uniform(0.3, 0.5), rng.uniform(0.28, 0.42)
    if style == "jug":
        return rng.uniform(0.7, 1.0), rng.uniform(0.2, 0.34)
    return rng.uniform(0.55, 0.9), rng.uniform(0.26, 0.4)


def _mug_profile(rng: np.random.Generator, style: str, high: float, radius: float) -> np.ndarray:
    """Outer (radius, y) from y = 0 to `high`."""
    y = np.linspace(0.0, 1.0, 7)
    shape = pick(rng, "straight", "straight", "cone", "barrel", "waist", "bowl")
    if style in ("cup", "goblet"):
        shape = pick(rng, "bowl", "bowl", "bowl", "cone")
    if shape == "straight":
        return np.array([[radius, 0.0], [radius, high]])
    if shape == "cone":
        return np.array([[radius * rng.uniform(0.6, 0.85), 0.0], [radius, high]])
    bulge = rng.uniform(0.08, 0.22)
    if shape == "barrel":
        wide = 1.0 - bulge * (2 * y - 1) ** 2
    elif shape == "waist":
        wide = 1.0 - bulge * (1 - (2 * y - 1) ** 2)
    else:
        base = 0.35 if style in ("cup", "goblet") else 0.6
        wide = base + (1 - base) * (1 - (1 - y) ** 2) ** 0.6
    return np.stack([radius * wide, high * y], axis=1)


def _handle_sides(rng: np.random.Generator, style: str) -> tuple[int, ...]:
    if style == "goblet":
        return (1, -1) if chance(rng, 0.3) else ()
    return (1, -1) if chance(rng, 0.06) else (1,)


def _mug_handle(rng: np.random.Generator, outer: np.ndarray) -> list[Convex]:
    """Handle on the +x side. It is part of the vessel's body, so the cavity cuts it off flush."""
    low, high = outer[0, 1], outer[-1, 1]
    half = (high - low) * rng.uniform(0.22, 0.36)
    middle = low + (high - low) * rng.uniform(0.5, 0.56)
    # Of both ends, the one at the narrower radius must still start inside the wall.
    radius = np.interp([middle - half, middle + half], outer[:, 1], outer[:, 0]).min()
    reach = rng.uniform(0.17, 0.28) + outer[:, 0].max() - radius
    return loop_handle(rng, (0.9 * radius, middle, 0.0), (reach, half), rng.uniform(0.03, 0.05))


def _spout(rng: np.random.Generator, outer: np.ndarray, wall: float) -> tuple[Convex, Convex]:
    """Lip on the -x side of a jug, and the channel through it."""
    high, radius = outer[-1, 1], outer[-1, 0]
    reach, drop = rng.uniform(0.1, 0.22), rng.uniform(0.15, 0.35) * high
    half = 0.55 * radius

    def wedge(inset: float, top: float) -> Convex:
        front, narrow = -radius - reach + 1.5 * inset, 0.3 * (half - inset)
        tip = [[front, top, s * narrow] for s in (-1, 1)]
        wing = [[-0.75 * radius, top, s * (half - inset)] for s in (-1, 1)]
        keel = [-0.75 * radius, high - drop + 2.0 * inset, 0.0]
        return Convex(np.array([*tip, *wing, keel, [-0.6 * radius, top, 0.0]]))

    return wedge(0.0, high), wedge(wall, high + 0.01)


def vase(rng: np.random.Generator) -> Solid:
    """Vase, bottle, bowl or amphora, rarely a planter."""
    style = pick(rng, *["vase"] * 6, *["bottle"] * 3, "bowl", *["amphora"] * 2, *["flute"] * 2)
    if chance(rng, 0.05):
        style = "planter"
    if style == "planter":
        return _planter(rng)
    sides = int(rng.choice([6, 8])) if chance(rng, 0.1) else 20
    outer = _VASES[style](rng)
    flat = rng.uniform(0.6, 0.85) if chance(rng, 0.2) else 1.0
    # Flattening makes the front and back walls thinner.
    wall = rng.uniform(0.035, 0.05) / flat
    widest = outer[:, 0].max()
    inner = cavity(outer, wall, rng.uniform(0.04, 0.1))
    parts, cuts = revolve(outer, sides), revolve(inner, sides)
    if style == "amphora" or (style == "vase" and chance(rng, 0.15)):
        for side in (1, -1) if chance(rng, 0.7) else (1,):
            parts += scaled(_amphora_handle(rng, outer), (side, 1, 1))
    squash = np.diag([1.0, 1.0, flat])
    body = Body.of(parts, cuts).affine(squash, np.zeros(3))
    if style == "bowl" and chance(rng, 0.5):
        foot = frustum((0, -0.1, 0), (0, 0.03, 0), 0.6 * widest, 0.4 * widest, 20)
        return Solid.of(body, Body.of([foot]))
    return Solid.of(body)


def _curve(nodes: list[tuple[float, float]], count: int = 12) -> np.ndarray:
    """Smooth profile (K, 2) through the nodes (radius, y), interpolated by cosines."""
    radius, height = np.array(nodes).T
    y = np.unique(np.concatenate([np.linspace(height[0], height[-1], count), height]))
    index = np.clip(np.searchsorted(height, y, side="right") - 1, 0, len(height) - 2)
    share = (y - height[index]) / (height[index + 1] - height[index])
    share = 0.5 - 0.5 * np.cos(np.pi * share)
    return np.stack([radius[index] + share * (radius[index + 1] - radius[index]), y], axis=1)


def _vase_profile(rng: np.random.Generator) -> np.ndarray:
    belly, neck = rng.uniform(0.2, 0.42), rng.uniform(0.09, 0.18)
    foot, lip = rng.uniform(0.1, 0.25), neck + rng.uniform(0.0, 0.16)
    middle = rng.uniform(0.25, 0.6)
    return _curve([(foot, 0.0), (belly, middle), (neck, rng.uniform(0.75, 0.88)), (lip, 1.0)])


def _bottle_profile(rng: np.random.Generator) -> np.ndarray:
    wide, neck = rng.uniform(0.13, 0.32), rng.uniform(0.07, 0.11)
    shoulder = rng.uniform(0.35, 0.65)
    slope = shoulder + rng.uniform(0.05, 0.2)
    lip = rng.uniform(0.92, 0.96)
    nodes = [(0.9 * wide, 0.0), (wide, 0.05), (wide, shoulder), (neck, slope), (neck, lip - 0.01)]
    return np.array([*nodes, (neck + 0.025, lip), (neck + 0.025, 1.0)])


def _bowl_profile(rng: np.random.Generator) -> np.ndarray:
    high, power = rng.uniform(0.2, 0.5), rng.uniform(0.35, 0.75)
    y = np.linspace(0.0, 1.0, 8)
    radius = 0.15 + 0.35 * (1.0 - (1.0 - y) ** 2) ** power
    return np.stack([radius, high * y], axis=1)


def _flute_profile(rng: np.random.Generator) -> np.ndarray:
    wide, narrow = rng.uniform(0.2, 0.35), rng.uniform(0.08, 0.14)
    return _curve([(narrow + rng.uniform(0, 0.1), 0.0), (narrow, 0.25), (wide, 1.0)])


def _amphora_profile(rng: np.random.Generator) -> np.ndarray:
    belly, neck = rng.uniform(0.22, 0.33), rng.uniform(0.09, 0.14)
    nodes = [(rng.uniform(0.07, 0.16), 0.0), (belly, rng.uniform(0.4, 0.6)), (neck, 0.8)]
    return _curve([*nodes, (neck + 0.04, 1.0)])


_VASES = {
    "vase": _vase_profile,
    "bottle": _bottle_profile,
    "bowl": _bowl_profile,
    "flute": _flute_profile,
    "amphora": _amphora_profile,
}


def _amphora_handle(rng: np.random.Generator, outer: np.ndarray) -> list[Convex]:
    """Bent bar from neck to shoulder on the +x side. The cavity cuts off its ends."""
    upper, lower = 0.9, rng.uniform(0.55, 0.68)
    inner, belly = np.interp([upper, lower], outer[:, 1], outer[:, 0])
    thick, out = rng.uniform(0.025, 0.035), max(belly, inner) + rng.uniform(0.08, 0.16)
    path = [[0.75 * inner, upper], [0.7 * out, upper + 0.03], [out, upper - 0.08]]
    path += [[out, lower + 0.1], [0.75 * belly, lower]]
    nodes = np.insert(np.array(path), 2, 0.0, axis=1)
    return sweep(nodes, polygon(10, thick), (0, 0, 1))


def _planter(rng: np.random.Generator) -> Solid:
    """Round or rounded square pot that is wider at the top, sometimes on legs."""
    half_x, high = rng.uniform(0.2, 0.36), rng.uniform(0.35, 0.7)
    half_z = half_x * rng.uniform(0.8, 1.0)
    wall, flare = rng.uniform(0.035, 0.06), rng.uniform(1.15, 1.5)
    power = rng.choice([2.0, 5.0])
    outer = polygon(24, half_x, half_z, power)
    inner = polygon(24, half_x - wall, half_z - wall, power)
    pot = prism(outer, 0.0, high, taper=flare)
    body = Body.of([pot], [prism(inner, wall, high + 0.01, taper=flare)])
    if chance(rng, 0.7):
        return Solid.of(body)
    leg, thick = rng.uniform(0.06, 0.14), rng.uniform(0.03, 0.05)
    x, z = 0.65 * half_x, 0.65 * half_z
    legs = [
        frustum((a * x, -leg, b * z), (a * x, 0.5 * wall, b * z), 0.7 * thick, thick, 8)
        for a in (-1, 1)
        for b in (-1, 1)
    ]
    return Solid.of(body, Body.of(legs))

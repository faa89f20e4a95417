"""Shape program for airplanes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from occvae.data.procedural.convex import (
    Convex,
    box,
    ellipsoid,
    frustum,
    moved,
    revolve,
    scaled,
    turned,
)
from occvae.data.procedural.parts import chance, pick
from occvae.data.procedural.solids import Body, Solid


class _Planform(NamedTuple):
    """Outline of a half wing that extends to +x."""

    span: float
    chord: float  # at the root
    taper: float  # chord at the tip divided by the chord at the root
    back: float  # sweep: z of the leading edge at the root minus that at the tip
    front: float  # z of the leading edge at the root


def airplane(rng: np.random.Generator) -> Solid:
    """Airliner, propeller plane, biplane, jet fighter or glider, nose towards +z."""
    style = pick(rng, "liner", "liner", "liner", "prop", "prop", "biplane", "fighter", "glider")
    radius = rng.uniform(0.05, 0.075) if style in ("fighter", "glider") else rng.uniform(0.06, 0.1)
    thin = rng.uniform(0.02, 0.03)
    parts = _fuselage(rng, radius, style)
    level = pick(rng, "low", "high") if style in ("liner", "prop") else "low"
    y = {"low": -0.5, "high": 0.75}[level] * radius
    wing = _planform(rng, style)
    rise = rng.uniform(-0.02, 0.1)
    parts += _both_sides([_half_wing(wing, y, rise, thin)])
    if style == "biplane":
        parts += _upper_wing(rng, wing, y, radius, thin)
    parts += _tail(rng, radius, thin, style)
    if style in ("prop", "biplane"):
        parts += _propeller(rng, radius)
    elif style == "liner":
        parts += _pods(rng, wing, radius, y, rise)
    return Solid.of(Body.of(parts))


def _both_sides(parts: list[Convex]) -> list[Convex]:
    return parts + scaled(parts, (-1, 1, 1))


def _planform(rng: np.random.Generator, style: str) -> _Planform:
    if style == "fighter":
        chord = rng.uniform(0.34, 0.46)
        span, taper, back = rng.uniform(0.28, 0.4), rng.uniform(0.12, 0.35), rng.uniform(0.22, 0.3)
        # The wing ends ahead of the tailplane, and about half of the body is ahead of it.
        return _Planform(span, chord, taper, back, chord - rng.uniform(0.3, 0.36))
    if style == "glider":
        span, chord = rng.uniform(0.65, 0.85), rng.uniform(0.11, 0.16)
        return _Planform(span, chord, rng.uniform(0.5, 0.7), rng.uniform(0.0, 0.06), 0.18)
    span, chord, front = rng.uniform(0.42, 0.62), rng.uniform(0.17, 0.26), rng.uniform(0.12, 0.24)
    if style == "liner":
        return _Planform(span, chord, rng.uniform(0.3, 0.5), rng.uniform(0.12, 0.34), front)
    return _Planform(span, chord, rng.uniform(0.6, 1.0), 0.02, front)


def _fuselage(rng: np.random.Generator, radius: float, style: str) -> list[Convex]:
    """Body of revolution along z, from the tail at -0.5 to the nose at 0.45."""
    nose, tail = rng.uniform(0.1, 0.2), rng.uniform(0.25, 0.45)
    end = rng.uniform(0.3, 0.45)
    if style == "fighter":
        nose, end = rng.uniform(0.25, 0.35), rng.uniform(0.6, 0.8)
    turn = np.radians([0.0, 35.0, 62.0, 84.0])
    z = np.concatenate([[-0.5, -0.5 + tail], 0.45 - nose + nose * np.sin(turn)])
    size = radius * np.concatenate([[end, 1.0], np.cos(turn)])
    # Built upright and then laid down, so that the y axis becomes z.
    parts = turned(revolve(np.stack([size, z], axis=1), 16), "x", 90)
    if style != "liner" or chance(rng, 0.2):
        cabin = (0.7 * radius, 0.8 * radius, rng.uniform(0.09, 0.14))
        parts.append(ellipsoid((0, 0.75 * radius, rng.uniform(0.12, 0.2)), cabin, 12, 6))
    return parts


def _half_wing(wing: _Planform, y: float, rise: float, thin: float) -> Convex:
    """Half wing with its root at height `y`.

    The tip is higher by `rise`, and `thin` is half of the largest thickness.
    """
    rows = []
    for x, share, lead in ((0.0, 1.0, wing.front), (wing.span, wing.taper, wing.front - wing.back)):
        depth = max(wing.chord * share, 0.06)
        height = y + rise * x / wing.span
        for offset, half in ((0.0, 0.4), (-0.35 * depth, 1.0), (-depth, 0.4)):
            rows += [[x, height + s * half * thin, lead + offset] for s in (-1, 1)]
    return Convex(np.array(rows))


def _upper_wing(
    rng: np.random.Generator, wing: _Planform, y: float, radius: float, thin: float
) -> list[Convex]:
    """Second wing above the body, with struts down to the first."""
    top = y + radius + rng.uniform(0.12, 0.18)
    parts = _both_sides([_half_wing(wing, top, 0.0, thin)])
    middle = wing.front - 0.4 * wing.chord
    for x in (0.65 * wing.span, 0.4 * radius):
        parts += _both_sides([frustum((x, y, middle), (x, top, middle), 0.02, 0.02, 6)])
    return parts


def _tail(rng: np.random.Generator, radius: float, thin: float, style: str) -> list[Convex]:
    """Fin and tailplane.

    A T-tail has the tailplane on top of the fin. A fighter may have two fins.
    """
    high, chord = rng.uniform(0.16, 0.26), rng.uniform(0.13, 0.2)
    back = rng.uniform(0.03, 0.1)
    fin = _Planform(high, chord, rng.uniform(0.45, 0.75), back, chord - 0.5)
    # A fin is a half wing to +x, turned upright.
    parts = turned([_half_wing(fin, 0.0, 0.0, thin)], "z", 90)
    level = 0.2 * radius
    lead = fin.front
    if style == "fighter" and chance(rng, 0.5):
        parts = _both_sides(moved(turned(parts, "z", -12), (0.5 * radius, 0.0, 0.0)))
    elif style in ("liner", "glider") and chance(rng, 0.3):
        level, lead = 0.92 * high, fin.front - back
    span = rng.uniform(0.18, 0.26)
    plane = _Planform(span, 0.8 * chord, rng.uniform(0.5, 0.8), 0.05, lead)
    return parts + _both_sides([_half_wing(plane, level, 0.0, thin)])


def _propeller(rng: np.random.Generator, radius: float) -> list[Convex]:
    """Blades around a pointed hub at the nose."""
    blade = box((-rng.uniform(0.12, 0.18), -0.024, 0.43), (0.0, 0.024, 0.465))
    count = int(rng.integers(2, 5))
    turn = rng.uniform(0.0, 180.0)
    blades = [turned([blade], "z", turn + 360 * k / count)[0] for k in range(count)]
    return [*blades, frustum((0, 0, 0.4), (0, 0, 0.5), 0.5 * radius, 0.15 * radius, 10)]


def _pods(
    rng: np.random.Generator, wing: _Planform, radius: float, y: float, rise: float
) -> list[Convex]:
    """One or two jet engines under each wing, or one on each side of the tail."""
    size, half = rng.uniform(0.036, 0.055), rng.uniform(0.07, 0.1)
    if chance(rng, 0.25):
        x = radius + 0.7 * size
        ends = (x, 0.4 * radius, -0.27 - half), (x, 0.4 * radius, -0.27 + half)
        bar = box((0.0, 0.3 * radius, -0.3), (x, 0.3 * radius + 0.035, -0.23))
        return _both_sides([frustum(*ends, 0.8 * size, size, 14), bar])
    pods = []
    for share in (0.35,) if chance(rng, 0.6) else (0.3, 0.62):
        lead = wing.front - share * wing.back
        center = np.array([share * wing.span, y + share * rise - 0.75 * size, lead])
        pods.append(frustum(center - [0, 0, half], center + [0, 0, half], 0.75 * size, size, 14))
    return _both_sides(pods)

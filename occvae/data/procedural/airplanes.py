"""Shape program for airplanes."""

from __future__ import annotations

import numpy as np

from occvae.data.procedural.convex import Convex, box, ellipsoid, frustum, revolve, scaled, turned
from occvae.data.procedural.parts import chance, pick
from occvae.data.procedural.solids import Body, Solid


def airplane(rng: np.random.Generator) -> Solid:
    """Airliner, propeller plane, biplane, delta jet, glider or flying wing, nose towards +z."""
    radius = rng.uniform(0.055, 0.12)
    style = pick(rng, "liner", "liner", "prop", "biplane", "delta", "glider", "wing")
    thin = rng.uniform(0.018, 0.03)
    if style == "wing":
        return _flying_wing(rng, radius, 1.3 * thin)
    parts = _fuselage(rng, radius)
    level = pick(rng, "low", "high", "middle")
    y = {"low": -0.6, "middle": 0.0, "high": 0.75}[level] * radius
    # Span of a half wing, chord at the root, taper, sweep back, z of the leading edge at the root.
    if style == "delta":
        shape = (rng.uniform(0.2, 0.5), rng.uniform(0.4, 0.65), 0.12, rng.uniform(0.3, 0.5), 0.0)
    elif style == "liner":
        shape = (rng.uniform(0.3, 0.6), rng.uniform(0.14, 0.3), 0.4, rng.uniform(0.0, 0.4), 0.1)
    elif style == "glider":
        shape = (rng.uniform(0.55, 0.85), rng.uniform(0.1, 0.16), 0.6, rng.uniform(-0.1, 0.1), 0.1)
    else:
        shape = (rng.uniform(0.35, 0.65), rng.uniform(0.14, 0.28), rng.uniform(0.5, 1), 0.02, 0.15)
    shape = (*shape[:4], shape[4] + rng.uniform(-0.12, 0.12))
    rise = rng.uniform(-0.03, 0.14)
    for side in (-1, 1):
        parts += scaled([_wing(shape, y, rise, thin)], (side, 1, 1))
    if style == "biplane":
        parts += _upper_wing(rng, shape, y, radius, thin)
    parts += _tail(rng, radius, thin, style)
    parts += _engines(rng, style, shape, (radius, y, rise))
    return Solid.of(Body.of(parts))


def _flying_wing(rng: np.random.Generator, radius: float, thin: float) -> Solid:
    """Swept wing without a tail, thick in the middle, with or without upright tips."""
    span, chord = rng.uniform(0.4, 0.6), rng.uniform(0.25, 0.45)
    shape = (span, chord, rng.uniform(0.2, 0.5), rng.uniform(0.2, 0.45), 0.5 * chord)
    half = [_wing(shape, 0.0, rng.uniform(0.0, 0.08), thin)]
    if chance(rng, 0.5):
        tip = _wing((rng.uniform(0.1, 0.2), 0.12, 0.6, 0.06, 0.0), 0.0, 0.0, thin)
        x = 0.9 * span
        place = np.array([x, 0.0, shape[4] - 0.9 * shape[3] - 0.01])
        half += [part.affine(np.eye(3), place) for part in turned([tip], "z", 90)]
    middle = ellipsoid((0, 0.2 * radius, 0), (1.2 * radius, 0.8 * radius, 0.55 * chord), 12, 8)
    return Solid.of(Body.of([middle, *half, *scaled(half, (-1, 1, 1))]))


def _fuselage(rng: np.random.Generator, radius: float) -> list[Convex]:
    """Body of revolution along z, from the tail at -0.5 to the nose at about 0.5."""
    nose, tail = rng.uniform(0.08, 0.25), rng.uniform(0.2, 0.45)
    end = rng.uniform(0.25, 0.45)
    z = np.array([-0.5, -0.5 + tail, 0.45 - nose, 0.45 - 0.4 * nose, 0.45])
    size = radius * np.array([end, 1.0, 1.0, 0.75, 0.2])
    # Built upright and then laid down, so that the y axis becomes z.
    parts = turned(revolve(np.stack([size, z], axis=1), 12), "x", 90)
    if chance(rng, 0.5):
        cabin = (0.7 * radius, 0.7 * radius, rng.uniform(0.08, 0.14))
        parts.append(ellipsoid((0, 0.75 * radius, rng.uniform(0.05, 0.22)), cabin, 10, 6))
    return parts


def _wing(shape: tuple[float, ...], y: float, rise: float, thin: float) -> Convex:
    """Half wing to +x of (span, chord, taper, sweep back, z of its leading edge at the root)."""
    span, chord, taper, back, front = shape
    rows = []
    for x, share, lead in ((0.0, 1.0, front), (span, taper, front - back)):
        depth = max(chord * share, 0.05)
        height = y + rise * x / span
        for offset, half in ((0.0, 0.4), (-0.35 * depth, 1.0), (-depth, 0.4)):
            rows += [[x, height + s * half * thin, lead + offset] for s in (-1, 1)]
    return Convex(np.array(rows))


def _upper_wing(
    rng: np.random.Generator, shape: tuple[float, ...], y: float, radius: float, thin: float
) -> list[Convex]:
    """Second wing above the body with struts down to the first."""
    top = y + radius + rng.uniform(0.1, 0.16)
    half = _wing(shape, top, 0.0, thin)
    parts = [half, *scaled([half], (-1, 1, 1))]
    middle = shape[4] - 0.4 * shape[1]
    for x in (-0.6 * shape[0], -0.4 * radius, 0.4 * radius, 0.6 * shape[0]):
        parts.append(frustum((x, y, middle), (x, top, middle), 0.018, 0.018, 6))
    return parts


def _tail(rng: np.random.Generator, radius: float, thin: float, style: str) -> list[Convex]:
    """Fin and tailplane. A T-tail has the tailplane on top of the fin."""
    high, chord = rng.uniform(0.12, 0.24), rng.uniform(0.1, 0.18)
    back = rng.uniform(0.0, 0.1)
    shape = (high, chord, rng.uniform(0.4, 0.8), back, -0.5 + chord)
    # A fin is a half wing to +x, turned upright.
    fin = turned([_wing(shape, 0.0, 0.0, thin)], "z", 90)
    span = rng.uniform(0.12, 0.22)
    level = 0.92 * high if chance(rng, 0.25) else 0.2 * radius
    lead = -0.5 + chord - (back if level > radius else 0.0)
    flat = _wing((span, 0.8 * chord, 0.6, 0.04, lead), level, 0.0, thin)
    if style == "delta":
        return fin
    return [*fin, flat, *scaled([flat], (-1, 1, 1))]


def _engines(
    rng: np.random.Generator,
    style: str,
    shape: tuple[float, ...],
    place: tuple[float, float, float],
) -> list[Convex]:
    """Jet pods under the wings or at the tail, or a propeller at the nose."""
    radius, y, rise = place
    size, half = rng.uniform(0.03, 0.06), rng.uniform(0.06, 0.1)
    if style in ("prop", "biplane"):
        blade = box((-rng.uniform(0.1, 0.17), -0.02, 0.42), (0.0, 0.02, 0.45))
        count = int(rng.integers(2, 5))
        return [p for k in range(count) for p in turned([blade], "z", 90 + 360 * k / count)]
    if style != "liner":
        return []
    if chance(rng, 0.25):
        x = radius + 0.6 * size
        ends = (x, 0.3 * radius, -0.3 - half), (x, 0.3 * radius, -0.3 + half)
        pods = [frustum(*ends, 0.8 * size, size, 10)]
        pods.append(box((0.0, 0.2 * radius, -0.33), (x, 0.2 * radius + 0.03, -0.27)))
        return pods + scaled(pods, (-1, 1, 1))
    pods = []
    for share in (0.35,) if chance(rng, 0.6) else (0.3, 0.62):
        lead = shape[4] - share * shape[3]
        center = np.array([share * shape[0], y + share * rise - 0.75 * size, lead])
        pods.append(frustum(center - [0, 0, half], center + [0, 0, half], 0.75 * size, size, 10))
    return pods + scaled(pods, (-1, 1, 1))

"""Shape program for lamps."""

from __future__ import annotations

import numpy as np

from occvae.data.procedural.convex import (
    Convex,
    ellipsoid,
    frustum,
    polygon,
    revolve,
    rotation,
    sweep,
)
from occvae.data.procedural.parts import pick, slab
from occvae.data.procedural.solids import Body, Solid


def lamp(rng: np.random.Generator) -> Solid:
    """Table, floor or desk lamp."""
    style = pick(rng, "straight", "straight", "straight", "arm", "arc", "tripod")
    pole = rng.uniform(0.022, 0.036)
    if style == "arm":
        return Solid.of(*_arm_lamp(rng, pole))
    if style == "arc":
        return Solid.of(*_arc_lamp(rng, pole))
    high = rng.uniform(0.34, 0.8)
    tall = min(rng.uniform(0.2, 0.36), 0.7 * high)
    # A wide flat shade on three legs would look like a stool.
    size = tall * rng.uniform(0.5, 0.9 if style == "tripod" else 1.2)
    if style == "tripod":
        reach = rng.uniform(0.16, 0.3)
        stand = [frustum((0, 0.6 * high, 0), (0, high + 0.02, 0), 1.3 * pole, pole)]
        for angle in np.radians([90.0, 210.0, 330.0]):
            foot = (reach * np.cos(angle), 0.0, reach * np.sin(angle))
            stand.append(frustum(foot, (0, 0.75 * high, 0), pole, pole, 8))
    else:
        stand = _lamp_stand(rng, high, pole)
    # The pole reaches the closed top of the shade.
    stand.append(frustum((0, 0.5 * high, 0), (0, high + tall - 0.01, 0), pole, pole, 8))
    shade = _shade(rng, pick(rng, *_SHADES), size, tall)
    offset = np.array([0.0, high, 0.0])
    return Solid.of(Body.of(stand), shade.affine(np.eye(3), offset))


_SHADES = ("cone", "cone", "cone", "drum", "drum", "dome", "square")


def _shade(rng: np.random.Generator, style: str, size: float, tall: float) -> Body:
    """Hollow shade that is open below, from y = 0 to `tall`, or a globe of that height."""
    wall = 0.03
    if style == "globe":
        radius = tall / 2
        return Body.of([ellipsoid((0, radius, 0), (radius, radius, radius), 20, 12)])
    sides = 4 if style == "square" else 24
    top = size * (1.0 if style == "drum" else rng.uniform(0.3, 0.75))
    if style == "dome":
        angle = np.linspace(0.0, 0.42 * np.pi, 7)
        outer = np.stack([size * np.cos(angle), tall * np.sin(angle) / np.sin(angle[-1])], axis=1)
    else:
        outer = np.array([[size, 0.0], [top, tall]])
    inner = outer - [wall, wall]
    inner[0, 1] = -0.01
    return Body.of(revolve(outer, sides), revolve(inner, sides))


def _lamp_stand(rng: np.random.Generator, high: float, pole: float) -> list[Convex]:
    """Foot or turned body around the y axis, at least up to half of `high`."""
    style = pick(rng, "disc", "disc", "block", "turned", "ball")
    reach = rng.uniform(0.09, 0.22)
    if style in ("disc", "block"):
        kind = "round" if style == "disc" else "square"
        foot = slab(kind, reach, reach, 0.0, rng.uniform(0.03, 0.09))
        return [foot, frustum((0, 0, 0), (0, 0.6 * high, 0), pole, pole, 8)]
    if style == "ball":
        radius = min(0.4 * high, 1.3 * reach)
        body = ellipsoid((0, 0.45 * high, 0), (radius, 0.45 * high, radius), 16, 8)
        return [body, slab("round", 0.8 * radius, 0.8 * radius, 0.0, 0.1 * high)]
    y = np.linspace(0.0, 0.9 * high, 9)
    wave = 0.5 + 0.5 * np.cos(rng.uniform(4.0, 11.0) * y / high + rng.uniform(0.0, 2.0))
    waist = pole + (reach - pole) * wave * np.linspace(1.0, 0.5, 9)
    return revolve(np.stack([waist, y], axis=1), 20)


def _arm_lamp(rng: np.random.Generator, pole: float) -> tuple[Body, Body]:
    """Desk lamp with a jointed arm that leans to one side."""
    side = rng.choice([-1, 1])
    lower, upper = rng.uniform(0.3, 0.6), rng.uniform(0.3, 0.6)
    lean, fold = np.radians(rng.uniform(5.0, 45.0)), np.radians(rng.uniform(20.0, 90.0))
    elbow = np.array([-side * lower * np.sin(lean), 0.03 + lower * np.cos(lean), 0.0])
    tip = elbow + upper * np.array([side * np.sin(fold), np.cos(fold), 0.0])
    reach = rng.uniform(0.11, 0.18)
    kind = pick(rng, "round", "square", "rounded")
    foot = slab(kind, reach, reach * rng.uniform(0.7, 1.0), 0.0, rng.uniform(0.04, 0.08))
    stand = [foot, frustum((0, 0.03, 0), elbow, pole, pole, 8)]
    stand.append(frustum(elbow, tip, pole, pole, 8))
    stand += [ellipsoid(joint, [1.7 * pole] * 3, 10, 6) for joint in (elbow, tip)]
    size, tall = rng.uniform(0.13, 0.2), rng.uniform(0.16, 0.26)
    shade = Body.of(
        revolve(np.array([[size, -tall], [2.0 * pole, 0.5 * pole]])),
        revolve(np.array([[size - 0.03, -tall - 0.01], [0.8 * pole, -1.5 * pole]])),
    )
    tilt = rotation("z", side * rng.uniform(0.0, 50.0))
    return Body.of(stand), shade.affine(tilt, tip)


def _arc_lamp(rng: np.random.Generator, pole: float) -> tuple[Body, Body]:
    """Floor lamp with a bow that holds the shade to one side."""
    side, high, reach = rng.choice([-1, 1]), rng.uniform(0.6, 0.95), rng.uniform(0.3, 0.6)
    angle = np.linspace(np.pi, rng.uniform(0.1, 0.25) * np.pi, 9)
    bow = np.stack([reach / 2 * (1 + np.cos(angle)), 0.3 * high * np.sin(angle), 0 * angle], 1)
    path = np.concatenate([[[0.0, 0.0, 0.0]], bow + [0.0, 0.65 * high, 0.0]]) * [side, 1, 1]
    stand = sweep(path, polygon(8, pole), (0, 0, 1))
    wide = rng.uniform(0.1, 0.16)
    stand.append(slab(pick(rng, "round", "square"), wide, wide, 0.0, rng.uniform(0.04, 0.09)))
    tall = rng.uniform(0.15, 0.25)
    # Only arc lamps have globes. On a straight stand, a globe would look like a chess pawn.
    shade = _shade(rng, pick(rng, *_SHADES, "globe"), rng.uniform(0.12, 0.22), tall)
    offset = path[-1] - [0.0, tall - 0.8 * pole, 0.0]
    return Body.of(stand), shade.affine(np.eye(3), offset)

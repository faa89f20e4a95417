"""Seeded procedural shapes: the training set that needs no download.

Each category is a program that draws one object from a random generator: first which parts it
has, then their sizes. Objects come upright (+y) with their front towards +z.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from occvae.data.procedural import airplanes, beds, lamps, seating, tables, tools, vessels
from occvae.data.procedural.solids import Solid
from occvae.errors import suggest

_PROGRAMS: dict[str, Callable[[np.random.Generator], Solid]] = {
    "chair": seating.chair,
    "table": tables.table,
    "shelf": tables.shelf,
    "sofa": seating.sofa,
    "bed": beds.bed,
    "lamp": lamps.lamp,
    "mug": vessels.mug,
    "vase": vessels.vase,
    "hammer": tools.hammer,
    "wrench": tools.wrench,
    "scissors": tools.scissors,
    "airplane": airplanes.airplane,
}

CATEGORIES: tuple[str, ...] = tuple(_PROGRAMS)

# Thinner shapes are drawn again: too few of a coarse grid's cells would lie inside them.
_LEAST_VOLUME = 0.012


def make_shape(category: str, seed: int) -> Solid:
    """The shape number `seed` of a category, normalized to the unit box around the origin.

    The same pair gives the same shape everywhere. Raises ValueError for an unknown category.
    """
    program = _PROGRAMS.get(category)
    if program is None:
        hint = suggest(category, CATEGORIES)
        raise ValueError(f"unknown shape category {category!r}; {hint}")
    # By name and not by position: a new category must not change the shapes of the others.
    rng = np.random.default_rng([zlib.crc32(category.encode("ascii")), seed])
    while True:
        solid = program(rng).separated().normalized()
        if solid.volume() > _LEAST_VOLUME and _is_clean(solid):
            return solid


def _is_clean(solid: Solid) -> bool:
    """Whether the surface is one piece, also after merging vertices equal to eight decimals.

    A program's parts overlap, but no proof covers every draw; and readers merge near vertices.
    """
    vertices, faces = solid.mesh()
    if len(np.unique(np.round(vertices, 8), axis=0)) < len(vertices):
        return False
    edges = faces[:, [0, 1, 1, 2]].reshape(-1, 2)
    graph = coo_matrix((np.ones(len(edges)), edges.T), shape=(len(vertices), len(vertices)))
    return connected_components(graph, directed=False, return_labels=False) == 1

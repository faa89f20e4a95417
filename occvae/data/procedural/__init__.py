"""Seeded procedural shapes: a training set that needs no download.

Each category is a program that makes one object from a random generator. It chooses the parts
first, and then their sizes. Objects are upright (+y up) with their front towards +z.
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

# Version of the shape programs. Increase it when a pair of category and seed gives another shape.
# Datasets record it, because a dataset must not mix shapes of two versions.
GENERATOR = 2

# Shapes of less volume are drawn again, because too few cells of a coarse grid would be inside.
_MIN_VOLUME = 0.012


def make_shape(category: str, seed: int) -> Solid:
    """Makes the shape with number `seed` of a category, normalized to the unit cube.

    The same pair gives the same shape on every machine.

    Args:
        category: one of `CATEGORIES`.
        seed: number of the shape.

    Returns:
        A solid whose bounding box is centered on the origin and has a longest edge of 1.

    Raises:
        ValueError: the category is unknown.
    """
    program = _PROGRAMS.get(category)
    if program is None:
        hint = suggest(category, CATEGORIES)
        raise ValueError(f"unknown shape category {category!r}; {hint}")
    # Seeded by name, not by position, so that a new category does not change the others.
    rng = np.random.default_rng([zlib.crc32(category.encode("ascii")), seed])
    while True:
        solid = program(rng).separated().normalized()
        if solid.volume() > _MIN_VOLUME and _is_clean(solid):
            return solid


def _is_clean(solid: Solid) -> bool:
    """Whether the surface is connected, and no vertices agree in eight decimals.

    The parts of a program overlap by design, but not provably for every draw. Readers of meshes
    merge vertices that are nearly equal, which would break the surface.
    """
    vertices, faces = solid.mesh()
    if len(np.unique(np.round(vertices, 8), axis=0)) < len(vertices):
        return False
    edges = faces[:, [0, 1, 1, 2]].reshape(-1, 2)
    graph = coo_matrix((np.ones(len(edges)), edges.T), shape=(len(vertices), len(vertices)))
    return connected_components(graph, directed=False, return_labels=False) == 1

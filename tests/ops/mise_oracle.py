"""Oracle of MISE: the voxel-list algorithm of the published code (2019), written plainly.

It is independent of the package and slow: every round looks again at every known point. There are
two variants. One splits in random order. The other looks at cell corners only, and tests must be
able to tell it from exact MISE.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from random import Random

import numpy as np

Point = tuple[int, int, int]
Evaluate = Callable[[list[Point]], list[float]]


@dataclass
class Voxel:
    origin: Point
    size: int
    children: list[int] | None = None  # indices into the voxel list, x slowest and z fastest


class VoxelList:
    """Octree of voxels over the lattice {0, ..., resolution}^3."""

    def __init__(self, resolution: int, coarse_resolution: int):
        self.resolution = resolution
        self.coarse_resolution = coarse_resolution
        self.size = resolution // coarse_resolution
        cells = np.arange(resolution) // self.size
        x, y, z = np.meshgrid(cells, cells, cells, indexing="ij")
        # Index of the leaf that contains each finest cell, indexed by the cell's lower corner.
        self.leaf_of = (x * coarse_resolution + y) * coarse_resolution + z
        origins = product(range(0, resolution, self.size), repeat=3)
        self.voxels = [Voxel(origin, self.size) for origin in origins]

    def leaves_around(self, point: Point) -> set[int]:
        """The leaves whose closed cube contains a lattice point: those of its 8 finest cells."""
        x, y, z = (slice(max(coordinate - 1, 0), coordinate + 1) for coordinate in point)
        return set(self.leaf_of[x, y, z].flat)

    def leaves_around_all(self, points: np.ndarray) -> np.ndarray:
        """Whether the closed cube of each leaf contains any of the points (N, 3), by index."""
        found = np.zeros(len(self.voxels), bool)
        for offset in product((-1, 0), repeat=3):
            cells = points + offset
            inside = ((cells >= 0) & (cells < self.resolution)).all(1)
            found[self.leaf_of[tuple(cells[inside].T)]] = True
        return found

    def closed_cube(self, index: int) -> Iterator[Point]:
        """All points of the finest lattice in a voxel, its faces included."""
        voxel = self.voxels[index]
        return product(*(range(start, start + voxel.size + 1) for start in voxel.origin))

    def split(self, index: int) -> list[Point]:
        """Adds eight children and returns the 27 points that they have as corners."""
        voxel = self.voxels[index]
        half = voxel.size // 2
        x, y, z = voxel.origin
        voxel.children = []
        for a, b, c in product((0, half), repeat=3):
            corner = (x + a, y + b, z + c)
            self.leaf_of[tuple(slice(start, start + half) for start in corner)] = len(self.voxels)
            voxel.children.append(len(self.voxels))
            self.voxels.append(Voxel(corner, half))
        steps = (0, half, voxel.size)
        return [(x + a, y + b, z + c) for a, b, c in product(steps, repeat=3)]


def voxel_list_mise(
    evaluate: Evaluate, resolution: int, coarse_resolution: int, level: float = 0.0
) -> tuple[dict[Point, float], list[int]]:
    """Points that MISE evaluates with their values, and the number of points of each round."""
    tree = VoxelList(resolution, coarse_resolution)
    unknown = list(product(range(0, resolution + 1, tree.size), repeat=3))
    values: dict[Point, float] = {}
    rounds = []
    while unknown:
        values.update(zip(unknown, evaluate(unknown), strict=True))
        rounds.append(len(unknown))
        points, numbers = np.array(list(values)), np.array(list(values.values()))
        above = tree.leaves_around_all(points[numbers >= level])
        below = tree.leaves_around_all(points[numbers <= level])
        active = [leaf for leaf in np.flatnonzero(above & below) if tree.voxels[leaf].size > 1]
        added = {point for leaf in active for point in tree.split(leaf)}
        unknown = sorted(added - values.keys())
    return values, rounds


def corner_only_mise(
    evaluate: Evaluate, resolution: int, coarse_resolution: int, level: float = 0.0
) -> dict[Point, float]:
    """Refines by the 8 corners of each cell only, one pass per level. Not exact, for contrast."""
    size = resolution // coarse_resolution
    cells = set(product(range(0, resolution, size), repeat=3))
    points = set(product(range(0, resolution + 1, size), repeat=3))
    values: dict[Point, float] = {}
    while True:
        unknown = sorted(points - values.keys())
        values.update(zip(unknown, evaluate(unknown), strict=True))
        if size == 1:
            return values
        half = size // 2
        active = set()
        for x, y, z in cells:
            corners = [values[x + a, y + b, z + c] for a, b, c in product((0, size), repeat=3)]
            if max(corners) >= level >= min(corners):
                active.add((x, y, z))
        steps = (0, half, size)
        points = {
            (x + a, y + b, z + c) for x, y, z in active for a, b, c in product(steps, repeat=3)
        }
        cells = {
            (x + a, y + b, z + c) for x, y, z in active for a, b, c in product((0, half), repeat=3)
        }
        size = half


def random_schedule_mise(
    evaluate: Evaluate, resolution: int, coarse_resolution: int, level: float, order: Random
) -> dict[Point, float]:
    """Exact MISE that splits one random qualifying leaf at a time.

    The points of a split are known at once. A leaf that qualifies stays qualified until it is
    split, so it can wait in a list.
    """
    tree = VoxelList(resolution, coarse_resolution)
    values: dict[Point, float] = {}
    sides: defaultdict[int, set[bool]] = defaultdict(
        set
    )  # sides of known points in each closed cube
    waiting: list[int] = []

    def learn(points: Iterable[Point]) -> list[Point]:
        new = [point for point in points if point not in values]
        if new:
            values.update(zip(new, evaluate(new), strict=True))
        return new

    def show(point: Point, leaves: Iterable[int]) -> None:
        value = values[point]
        seen = {side for side, on_it in ((True, value >= level), (False, value <= level)) if on_it}
        for leaf in leaves:
            before = len(sides[leaf])
            sides[leaf] |= seen
            if before < 2 == len(sides[leaf]) and tree.voxels[leaf].size > 1:
                waiting.append(leaf)

    for point in learn(product(range(0, resolution + 1, tree.size), repeat=3)):
        show(point, tree.leaves_around(point))
    while waiting:
        chosen = order.randrange(len(waiting))
        waiting[chosen], waiting[-1] = waiting[-1], waiting[chosen]
        leaf = waiting.pop()
        new = learn(tree.split(leaf))
        for child in tree.voxels[leaf].children:
            for point in tree.closed_cube(child):
                if point in values:
                    show(point, [child])
        for point in new:
            show(point, tree.leaves_around(point))
    return values

"""Surface metrics computed point by point from their definitions, and meshes to test them on."""

import math

import numpy as np


def nearest(point, others) -> tuple[float, int]:
    distances = [math.dist(point, other) for other in others]
    index = min(range(len(distances)), key=distances.__getitem__)
    return distances[index], index


def compare(points, normals, true_points, true_normals) -> dict[str, float]:
    """Returns mean distances, mean squares and mean absolute cosines in both directions."""

    def one_way(queries, query_normals, others, other_normals):
        distances, cosines = [], []
        for query, normal in zip(queries, query_normals, strict=True):
            distance, index = nearest(query, others)
            other = other_normals[index]
            dot = abs(sum(a * b for a, b in zip(normal, other, strict=True)))
            distances.append(distance)
            cosines.append(dot / (math.hypot(*normal) * math.hypot(*other)))
        return distances, cosines

    forth, forth_cosines = one_way(points, normals, true_points, true_normals)
    back, back_cosines = one_way(true_points, true_normals, points, normals)
    mean = np.mean
    return {
        "accuracy": mean(forth),
        "completeness": mean(back),
        "chamfer_l1": (mean(forth) + mean(back)) / 2,
        "chamfer_l2": (mean(np.square(forth)) + mean(np.square(back))) / 2,
        "normal_consistency": (mean(forth_cosines) + mean(back_cosines)) / 2,
        "forth": forth,
        "back": back,
    }


def f_score(forth, back, threshold: float) -> float:
    precision = sum(distance <= threshold for distance in forth) / len(forth)
    recall = sum(distance <= threshold for distance in back) / len(back)
    return 0.0 if precision + recall == 0 else 2 / (1 / precision + 1 / recall)


def square(height: float = 0.0, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """The unit square at z = height as two triangles."""
    corners = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], float)
    return corners + [shift, 0, height], np.array([[0, 1, 2], [0, 2, 3]])


def fan(count: int = 50, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The same square as a fan around a point near a corner, with slivers and empty faces."""
    rng = np.random.default_rng(seed)
    along = np.sort(rng.random(count)) ** 3
    zero, one = np.zeros(count), np.ones(count)
    sides = [(along, zero), (one, along), (1 - along, one), (zero, 1 - along)]
    border = np.concatenate([np.stack(side, axis=1) for side in sides])
    corners = [[0, 0], [1, 0], [1, 1], [0, 1]]
    border = np.insert(border, np.arange(4) * count, corners, axis=0)
    vertices = np.concatenate([[[0.9, 0.05]], border])
    ring = np.arange(1, len(vertices))
    faces = np.stack([np.zeros_like(ring), ring, np.roll(ring, -1)], axis=1)
    faces = np.concatenate([[[1, 1, 2]], faces, [[5, 6, 5]]])
    return np.pad(vertices, ((0, 0), (0, 1))), faces

"""Volume and area of triangle meshes, for comparison with known shapes."""

import numpy as np


def volume(vertices, faces) -> float:
    a, b, c = vertices[faces].swapaxes(0, 1)
    return float(np.einsum("fi,fi->", a, np.cross(b, c)) / 6)


def area(vertices, faces) -> float:
    a, b, c = vertices[faces].swapaxes(0, 1)
    return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)

"""How far two surfaces lie apart."""

from dataclasses import dataclass

import numpy as np
import torch

from occvae.geometry.nearest_neighbors import nearest_neighbors
from occvae.geometry.surface_sampling import Surface

# What an empty or missing prediction counts as, the constants of Occupancy Networks: every point
# lies the diagonal of the unit cube away from it, and no normal agrees.
EMPTY_DISTANCE, EMPTY_COSINE = 3.0**0.5, -1.0


@dataclass(frozen=True)
class Comparison:
    """Distances and absolute cosines of normals from each point to the other surface.

    Args:
        to_truth, cosines_to_truth: (P,), from each predicted point.
        to_prediction, cosines_to_prediction: (T,), from each true point.
    """

    to_truth: np.ndarray
    cosines_to_truth: np.ndarray
    to_prediction: np.ndarray
    cosines_to_prediction: np.ndarray

    @property
    def accuracy(self) -> float:
        """Mean distance from the prediction to the truth."""
        return float(self.to_truth.mean())

    @property
    def completeness(self) -> float:
        """Mean distance from the truth to the prediction."""
        return float(self.to_prediction.mean())

    @property
    def chamfer_l1(self) -> float:
        """Half the sum of the two mean distances: Euclidean and not squared, despite the name."""
        return 0.5 * (self.accuracy + self.completeness)

    @property
    def chamfer_l2(self) -> float:
        """Half the sum of the two mean squared distances."""
        squares = np.square(self.to_truth).mean() + np.square(self.to_prediction).mean()
        return 0.5 * float(squares)

    @property
    def normal_consistency(self) -> float:
        """Half the sum of the two mean `|cosines|`."""
        return 0.5 * float(self.cosines_to_truth.mean() + self.cosines_to_prediction.mean())

    def f_score(self, threshold: float) -> float:
        """Harmonic mean of the shares of points that lie within `threshold`; 0 if none does."""
        precision = float((self.to_truth <= threshold).mean())
        recall = float((self.to_prediction <= threshold).mean())
        return 2.0 * precision * recall / (precision + recall) if precision + recall else 0.0


def compare_surfaces(
    prediction: Surface, truth: Surface, device: str | torch.device = "cpu"
) -> Comparison:
    """Nearest neighbors both ways. An empty prediction is compared as `EMPTY_DISTANCE` says.

    Raises:
        ValueError: the truth is empty.
    """
    if len(truth) == 0:
        raise ValueError("the true surface has no points")
    if len(prediction) == 0:
        distance, cosine = np.array([EMPTY_DISTANCE]), np.array([EMPTY_COSINE])
        return Comparison(distance, cosine, distance, cosine)
    to_truth, nearest = nearest_neighbors(prediction.points, truth.points, device)
    cosines_to_truth = _cosines(prediction.normals, truth.normals[nearest])
    to_prediction, nearest = nearest_neighbors(truth.points, prediction.points, device)
    cosines_to_prediction = _cosines(truth.normals, prediction.normals[nearest])
    return Comparison(to_truth, cosines_to_truth, to_prediction, cosines_to_prediction)


def _cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.abs(np.einsum("nd,nd->n", first, second))

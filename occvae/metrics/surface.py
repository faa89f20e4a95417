"""Distances between two surfaces."""

from dataclasses import dataclass

import numpy as np
import torch

from occvae.geometry.nearest_neighbors import nearest_neighbors
from occvae.geometry.surface_sampling import Surface

# An empty or missing prediction counts with the constants of Occupancy Networks: every distance is
# the diagonal of the unit cube, and every cosine is -1.
EMPTY_DISTANCE, EMPTY_COSINE = 3.0**0.5, -1.0


@dataclass(frozen=True)
class Comparison:
    """Distance of each point to the nearest point of the other surface, and agreement of normals.

    Distances have the unit of the points. Cosines are absolute cosines of the angle between the
    normals of the two points.

    Args:
        to_truth: (P,) distances from the predicted points.
        cosines_to_truth: (P,) their cosines.
        to_prediction: (T,) distances from the true points.
        cosines_to_prediction: (T,) their cosines.
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
        """Half the sum of the two mean distances, which are Euclidean and not squared."""
        return 0.5 * (self.accuracy + self.completeness)

    @property
    def chamfer_l2(self) -> float:
        """Half the sum of the two mean squared distances."""
        squares = np.square(self.to_truth).mean() + np.square(self.to_prediction).mean()
        return 0.5 * float(squares)

    @property
    def normal_consistency(self) -> float:
        """Half the sum of the two mean absolute cosines."""
        return 0.5 * float(self.cosines_to_truth.mean() + self.cosines_to_prediction.mean())

    def f_score(self, threshold: float) -> float:
        """Returns the harmonic mean of precision and recall.

        Precision is the fraction of predicted points within `threshold` of the truth, recall that
        of true points within `threshold` of the prediction. The result is 0 if both are 0.
        """
        precision = float((self.to_truth <= threshold).mean())
        recall = float((self.to_prediction <= threshold).mean())
        return 2.0 * precision * recall / (precision + recall) if precision + recall else 0.0


def compare_surfaces(
    prediction: Surface, truth: Surface, device: str | torch.device = "cpu"
) -> Comparison:
    """Compares two surfaces by nearest neighbors in both directions.

    An empty prediction gets distance `EMPTY_DISTANCE` and cosine `EMPTY_COSINE`.

    Args:
        prediction: predicted points with normals.
        truth: true points with normals.
        device: device for the search of nearest neighbors.

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

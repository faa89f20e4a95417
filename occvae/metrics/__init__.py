"""Metrics by named protocol, confidence intervals, and published tables.

Names of metrics end in their units.
"""

from occvae.geometry.surface_sampling import Surface, sample_surface
from occvae.metrics.protocols import (
    PIX2VOX_THRESHOLDS,
    PROTOCOLS,
    best_threshold,
    measure_mesh,
    occupancy_iou,
    what3d_f_score,
)
from occvae.metrics.published import (
    TABLES,
    PublishedTable,
    shapenet_category,
)
from occvae.metrics.statistics import summarize
from occvae.metrics.surface import Comparison, compare_surfaces

__all__ = [
    "PIX2VOX_THRESHOLDS",
    "PROTOCOLS",
    "TABLES",
    "Comparison",
    "PublishedTable",
    "Surface",
    "best_threshold",
    "compare_surfaces",
    "measure_mesh",
    "occupancy_iou",
    "sample_surface",
    "shapenet_category",
    "summarize",
    "what3d_f_score",
]

"""Meshes and cases with known values."""

import numpy as np
import trimesh

from occvae.visualize.report import Case

HOSTILE = '</script><img src="http://evil.invalid/x" onerror="alert(1)"><b>&'


def sphere(subdivisions: int = 2, radius: float = 0.4) -> tuple[np.ndarray, np.ndarray]:
    mesh = trimesh.creation.icosphere(subdivisions, radius)
    return np.asarray(mesh.vertices), np.asarray(mesh.faces)


def box() -> tuple[np.ndarray, np.ndarray]:
    """A box that is longest along x, so that its views change when it turns around y."""
    mesh = trimesh.creation.box((1.0, 0.3, 0.2))
    return np.asarray(mesh.vertices), np.asarray(mesh.faces)


def case(name: str, iou: float, prediction=None, error=None, category="box") -> Case:
    image = np.full((16, 16, 3), 200, np.uint8)
    return Case(name, category, {"iou": iou}, image, box(), prediction, error)


def evaluation(ious: dict[str, float]) -> dict:
    """An evaluation as `occvae evaluate` writes it, with an interval and a hostile name."""
    mean = float(np.mean(list(ious.values())))
    return {
        "model": "runs/one",
        "num_shapes": len(ious),
        "iou": {
            "per_category": {HOSTILE: 0.125},
            "macro": {"mean": 0.25, "interval": [0.2031, 0.3027]},
            "micro": mean,
        },
        "controls": {"mean_shape": {"per_category": {HOSTILE: 0.0625}, "macro": 0.1, "micro": 0.2}},
        "micro_by_threshold": {"0.2": {"iou": 0.4375}, "0.5": {"iou": 0.4}},
        "shapes": [{"id": name, "category": "box", "iou": iou} for name, iou in ious.items()],
    }

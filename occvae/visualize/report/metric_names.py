"""How people read metrics: label, unit, which way is better, and figures as text."""

import math
from typing import TypeGuard

# Longest first, as one suffix may end with another.
_UNITS = {
    "_tenth_edge": "edge/10",
    "_half_edge": "edge/2",
    "_edge2": "edge²",
    "_edge": "edge",
    "_percent": "%",
    "_per_s": "1/s",
}
_WORDS = {"iou": "IoU", "f": "F", "l1": "L1", "l2": "L2", "lr": "learning rate"}
_WORDS |= {"onet": "ONet", "pix2vox": "Pix2Vox", "what3d": "What3D", "vecset": "VecSet"}
_DISTANCES = ("chamfer", "accuracy", "completeness", "distance", "error", "loss", "empty")

EDGE_NOTE = (
    "Distances are in units of an object's longest bounding-box edge (edge), or of a tenth or a "
    'half of it where that is said. IoU, F-scores and normal consistency have no unit; "from 0.3" '
    "is the probability from which a point counts as occupied, where it is not the model's. In "
    "brackets: 95 % intervals by bootstrap over shapes. Empty meshes count with the worst figures."
)


def label(name: str) -> str:
    """`chamfer_l1_tenth_edge` -> `Chamfer L1 (edge/10)`, `f_score_1_percent` -> `F-score 1 %`."""
    unit = next((suffix for suffix in _UNITS if name.endswith(suffix)), "")
    words = name.removeprefix("num_").removesuffix(unit).split("_")
    words = [_WORDS.get(word, word) for word in words if word]
    if not unit and len(words) > 1 and words[-1].replace(".", "", 1).isdigit():
        words.insert(-1, "from")  # a threshold of probability
    text = " ".join(words).replace("F score", "F-score")
    text = text[:1].upper() + text[1:]
    if not unit:
        return text
    # A threshold in per cent is part of the name, not the unit of the score.
    return f"{text} %" if unit == "_percent" else f"{text} ({_UNITS[unit]})"


def higher_is_better(name: str) -> bool:
    return not any(word in name for word in _DISTANCES)


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a finite int or float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def decimal(value: float | None) -> str:
    """Four decimals where that is enough to tell values of a column apart."""
    if isinstance(value, float) and (value == 0 or 0.01 <= abs(value) < 1000):
        return f"{value:.4f}"
    return number(value)


def number(value: float | None) -> str:
    """Four significant digits, and integers in full."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    return f"{value:.4g}"

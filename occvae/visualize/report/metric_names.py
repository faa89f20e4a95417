"""How a page shows metrics: label, unit, direction (higher or lower is better), number format."""

import math
from collections.abc import Iterable
from typing import TypeGuard

# Longer suffixes come first, because one suffix may end with another.
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
_HEADLINE = ("iou", "chamfer_l1", "f_score_1_percent", "normal_consistency")
_DISTANCES = ("chamfer", "accuracy", "completeness", "distance", "error", "loss", "empty")

EDGE_NOTE = (
    "Distances are in units of the object's longest bounding-box edge (edge), or of a tenth "
    "(edge/10) or a half (edge/2) of it. IoU, F-scores and normal consistency have no unit. "
    '"At threshold 0.3" means that points of probability 0.3 or more count as occupied; other '
    "rows use the model's own threshold. Brackets hold 95 % bootstrap intervals over shapes. "
    "An empty mesh gets the worst value of each metric."
)


def label(name: str) -> str:
    """Returns the text that a page shows for the name of a metric.

    Example:
        >>> label("chamfer_l1_tenth_edge"), label("f_score_1_percent")
        ('Chamfer L1 (edge/10)', 'F-score 1 %')
    """
    unit = next((suffix for suffix in _UNITS if name.endswith(suffix)), "")
    words = name.removeprefix("num_").removesuffix(unit).split("_")
    words = [_WORDS.get(word, word) for word in words if word]
    if not unit and len(words) > 1 and words[-1].replace(".", "", 1).isdigit():
        words.insert(-1, "at threshold")
    text = " ".join(words).replace("F score", "F-score")
    text = text[:1].upper() + text[1:]
    if not unit:
        return text
    # A distance in percent is part of the name of an F-score. The score itself has no unit.
    return f"{text} %" if unit == "_percent" else f"{text} ({_UNITS[unit]})"


def higher_is_better(name: str) -> bool:
    return not any(word in name for word in _DISTANCES)


def headline(names: Iterable[str]) -> list[str]:
    """Returns the metrics to show first: at most one of each kind, or four if no kind is known."""
    known = list(names)
    found = [next((name for name in known if name.startswith(kind)), "") for kind in _HEADLINE]
    return [name for name in found if name] or known[:4]


def is_number(value: object) -> TypeGuard[float]:
    """Returns whether a value is a finite int or float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def decimal(value: float | None) -> str:
    """Formats a value with four decimals, or like `number` if that suits its size better."""
    if isinstance(value, float) and (value == 0 or 0.01 <= abs(value) < 1000):
        return f"{value:.4f}"
    return number(value)


def number(value: float | None) -> str:
    """Formats a value with four significant digits, integers in full."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    return f"{value:.4g}"

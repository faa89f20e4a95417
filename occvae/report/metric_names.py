"""How people read the names of metrics: label, unit, and which way is better."""

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
_DISTANCES = ("chamfer", "accuracy", "completeness", "distance", "error", "loss", "empty")

EDGE_NOTE = (
    "Distances are in units of an object's longest bounding-box edge (edge), or of a tenth or a "
    "half of it where that is said. IoU, F-scores and normal consistency have no unit."
)


def label(name: str) -> str:
    """`chamfer_l1_tenth_edge` -> `Chamfer L1 (edge/10)`, `f_score_1_percent` -> `F-score 1 %`."""
    unit = next((suffix for suffix in _UNITS if name.endswith(suffix)), "")
    words = [_WORDS.get(word, word) for word in name.removesuffix(unit).split("_") if word]
    text = " ".join(words).replace("F score", "F-score")
    text = text[:1].upper() + text[1:] if not text.startswith("IoU") else text
    if not unit:
        return text
    # A threshold in per cent is part of the name, not the unit of the score.
    return f"{text} %" if unit == "_percent" else f"{text} ({_UNITS[unit]})"


def higher_is_better(name: str) -> bool:
    return not any(word in name for word in _DISTANCES)


def number(value) -> str:
    """Four significant digits, and integers in full."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    return f"{value:.4g}"

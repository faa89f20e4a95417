"""A report as plain text tables."""

from collections.abc import Sequence
from typing import Any

from occvae.evaluation.scores import MESH_PROTOCOL
from occvae.metrics import PROTOCOLS
from occvae.metrics.surface import EMPTY_COSINE, EMPTY_DISTANCE
from occvae.system.terminal import one_line

_MEANS = {"macro": "mean of categories (macro)", "micro": "mean of shapes (micro)"}
# Columns of a table: title, metric, digits.
_OCCUPANCY = (
    ("IoU points", "iou_points", 4),
    ("IoU voxels", "iou_voxels", 4),
    ("voxel F@1%", "voxel_f_score_1_percent", 4),
    ("IoU mesh", "iou_mesh", 4),
)
_SURFACE = (
    ("Chamfer-L1", "chamfer_l1_tenth_edge", 4),
    ("accuracy", "accuracy_edge", 5),
    ("completeness", "completeness_edge", 5),
    ("Chamfer-L2", "chamfer_l2_edge2", 5),
    ("normals", "normal_consistency", 4),
    ("F@1%", "f_score_1_percent", 4),
    ("F@1.5%", "f_score_1.5_percent", 4),
    ("F@2%", "f_score_2_percent", 4),
)
_CONTROLS = (
    ("shuffled", "shuffled_images", 4),
    ("shuffled", "shuffled_inputs", 4),
    ("mean shape", "mean_shape", 4),
    ("category mean", "category_mean_shape", 4),
)
_SURFACE_POINTS = PROTOCOLS[MESH_PROTOCOL].num_samples
_UNITS = (
    "Chamfer-L1 in tenths of an object's longest edge; accuracy and completeness in edges, "
    "Chamfer-L2 in edges squared; below each mean its 95 % interval by bootstrap over shapes"
)


def format_table(report: dict[str, Any]) -> str:
    """Formats a report of `evaluate`."""
    blocks = [
        _heading(report),
        _block(report["metrics"], _OCCUPANCY),
        _block(report["metrics"], _SURFACE, _UNITS),
        _block(
            report["controls"],
            _CONTROLS,
            f"controls: voxel IoU of predictions that do not use the shape's {_observed(report)}",
        ),
        _notes(report),
        _published(report["published"]),
    ]
    return "\n\n".join(block for block in blocks if block)


def _heading(report: dict[str, Any]) -> str:
    data, options = report["data"], report["options"]
    count = f"{data['num_shapes']} shapes"
    if data["num_shapes"] < data["num_stored"]:
        count = f"{data['num_shapes']} of {data['num_stored']} shapes"
    parts = [f"{count} of {one_line(data['root'])} ({data['split']})"]
    if options["num_points"]:
        parts.append(f"{options['num_points']} points")
    if data["voxel_resolution"]:
        parts.append(f"voxels {data['voxel_resolution']}^3")
    if options["mesh_resolution"]:
        parts.append(f"meshes {options['mesh_resolution']}^3")
    parts.append(
        f"occupied from probability {options['threshold']} ({options['threshold_origin']})"
    )
    return ", ".join(parts)


def _block(
    summaries: dict[str, dict[str, Any]], columns: Sequence[tuple[str, str, int]], note: str = ""
) -> str:
    """Formats rows of categories and means, with an interval below each mean."""
    columns = [column for column in columns if column[1] in summaries]
    if not columns:
        return ""
    names = list(summaries[columns[0][1]]["per_category"])
    rows = [("", [title for title, *_ in columns])]

    shown = [(summaries[metric], digits) for _, metric, digits in columns]
    for name in names:
        means = [f"{entry['per_category'][name]['mean']:.{digits}f}" for entry, digits in shown]
        rows.append((name, means))
    for key, title in _MEANS.items():
        rows.append((title, [f"{entry[key]['mean']:.{digits}f}" for entry, digits in shown]))
        intervals = [_interval(entry[key]["interval"], digits - 1) for entry, digits in shown]
        if any(intervals):
            rows.append(("", intervals))
    return "\n".join([*([note] if note else []), *aligned(rows)])


def _interval(interval: list[float], digits: int) -> str:
    """Formats an interval. It is empty if the interval has no width, e.g. for a single shape."""
    low, high = interval
    return f"{low:.{digits}f}-{high:.{digits}f}" if low < high else ""


def _observed(report: dict[str, Any]) -> str:
    """What the model observes. Reports of earlier versions are all of models of images."""
    return str(report["options"].get("observation", "image"))


def _notes(report: dict[str, Any]) -> str:
    data = report["data"]
    lines: list[str] = []
    if data.get("trained_on"):
        lines.append(
            f"the model was trained on {data['trained_on']} of these {data['num_shapes']} shapes: "
            "the scores say little about other shapes"
        )
    if report["controls"] and not any(name.startswith("shuffled") for name in report["controls"]):
        lines.append(f"no control with shuffled {_observed(report)}s: it needs at least two shapes")
    if report["num_empty_meshes"]:
        lines.append(
            f"{report['num_empty_meshes']} of {data['num_shapes']} meshes are empty; they count "
            f"with distance {EMPTY_DISTANCE:.3f}, normals {EMPTY_COSINE:g}, IoU and F-score 0"
        )
    elif report["options"]["mesh_resolution"]:
        lines.append(f"none of {data['num_shapes']} meshes is empty")
    if report["options"]["mesh_resolution"] and not data["num_surface_points"]:
        lines.append(
            "the dataset has no points on the surfaces: no Chamfer distance, normals or F-score"
        )
    if report["options"]["mesh_resolution"] and 0 < data["num_surface_points"] < _SURFACE_POINTS:
        lines.append(
            f"the dataset has {data['num_surface_points']} points on each surface: fewer than the "
            f"{_SURFACE_POINTS} of the protocols, which makes distances larger and F-scores lower "
            "even for a perfect mesh"
        )
    return "\n".join(lines)


def _published(published: dict[str, Any]) -> str:
    blocks = [published["note"]] if published["note"] else []
    for metric, rows in published["tables"].items():
        names = [name for name in rows[0] if name not in ("method", "source", "setting")]
        table = [(metric, names)]
        for row in rows:
            cells = [f"{row[name]:.3f}" if name in row else "-" for name in names]
            table.append((row["method"], cells))
        blocks.append("\n".join(aligned(table)))
    blocks += [f"{name}: {definition}" for name, definition in published["protocols"].items()]
    return "\n\n".join(blocks)


def aligned(rows: list[tuple[str, list[str]]]) -> list[str]:
    """Aligns the first column to the left and the others to the right."""
    rows = [(one_line(name), cells) for name, cells in rows]
    first = max(len(name) for name, _ in rows)
    widths = [max(map(len, column)) for column in zip(*(cells for _, cells in rows), strict=True)]
    return [
        f"{name:<{first}}"
        + "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        for name, cells in rows
    ]

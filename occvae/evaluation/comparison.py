"""Comparison with published figures of the same protocol on the same data."""

from typing import Any

from occvae.evaluation.splits import PUBLISHED
from occvae.metrics import PROTOCOLS, TABLES, PublishedTable, shapenet_category
from occvae.metrics.published import SHAPENET

# For each published division of ShapeNet: our metric, its protocol and its name in the tables.
_COUNTERPARTS = {
    "onet": {
        "iou_mesh": ("onet", "iou"),
        "chamfer_l1_tenth_edge": ("onet", "chamfer_l1_tenth_edge"),
        "normal_consistency": ("onet", "normal_consistency"),
        "iou_points": ("onet", "iou_points"),
        "iou_voxels": ("onet", "iou_voxels"),
    },
    "pix2vox": {
        "iou_voxels": ("pix2vox", "iou"),
        "voxel_f_score_1_percent": ("what3d", "f_score_1_percent"),
        **{f"iou_voxels_{t}": ("pix2vox", f"iou_{t}") for t in (0.2, 0.3, 0.4, 0.5)},
    },
}
_POINTS = 100_000
_RESOLUTION = 32


def published_beside(report: dict[str, Any]) -> dict[str, Any]:
    """Returns the published figures that are comparable with a report.

    Args:
        report: report of `evaluate`. Only `data`, `options` and `metrics` are needed.

    Returns:
        A dict of JSON values:

        - `tables`: {metric: [row]}. A row has `method`, `source`, `setting`, and figures by
          category and `mean`. The first row is the evaluated model.
        - `protocols`: {name: definition} of the protocols in the tables.
        - `note`: why figures are missing, or "".
    """
    reason = _obstacle(report)
    if reason:
        return _result({}, [], f"not comparable with published tables: {reason}")
    data, names = report["data"], _categories(report)
    tables, protocols, unlike = {}, [], []
    for metric, counterpart in _COUNTERPARTS[data["splits"]].items():
        rows = [
            row
            for table in TABLES
            if _is_of(table, data, *counterpart) and (row := _row(table, counterpart[1], names))
        ]
        if metric not in report["metrics"] or not rows:
            continue
        if _same_protocol(metric, report):
            tables[metric] = [_own_row(report, metric, rows), *rows]
            protocols.append(counterpart[0])
        else:
            unlike.append(metric)
    note = f"measured unlike the published figures: {', '.join(unlike)}" if unlike else ""
    if not tables and not unlike:
        note = f"not comparable with published tables: none for split {data['split']!r}"
    return _result(tables, protocols, note)


def comparable_by_views(report: dict[str, Any]) -> bool:
    """Returns whether published figures by number of views are of the same data as a report."""
    data = report["data"]
    return (
        not _obstacle(report)
        and (data["splits"], data["split"]) == ("pix2vox", "test")
        and data["voxel_resolution"] == _RESOLUTION
        and set(SHAPENET) == _categories(report).keys()
    )


def _result(tables: dict[str, Any], protocols: list[str], note: str) -> dict[str, Any]:
    definitions = {name: PROTOCOLS[name].definition for name in protocols}
    return {"tables": tables, "protocols": definitions, "note": note}


def _obstacle(report: dict[str, Any]) -> str:
    data = report["data"]
    if data["splits"] not in PUBLISHED:
        known = " or ".join(PUBLISHED.values())
        return f"the splits of the data ({data['splits']}) are not those of {known}"
    if data["num_shapes"] < data["num_stored"]:
        return f"{data['num_shapes']} of {data['num_stored']} shapes were evaluated"
    metric = next(iter(report["metrics"].values()))
    unknown = [name for name in metric["per_category"] if shapenet_category(name) is None]
    return f"no figures for {', '.join(unknown)}" if unknown else ""


def _categories(report: dict[str, Any]) -> dict[str, str]:
    """Maps published category names to the names in the report."""
    metric = next(iter(report["metrics"].values()))
    names = metric["per_category"]
    return {known: name for name in names if (known := shapenet_category(name)) is not None}


def _is_of(table: PublishedTable, data: dict[str, Any], protocol: str, metric: str) -> bool:
    return (
        (table.splits, table.split, table.protocol) == (data["splits"], data["split"], protocol)
        and table.num_views == 1
        and metric in table.metrics
    )


def _row(table: PublishedTable, metric: str, names: dict[str, str]) -> dict[str, Any] | None:
    """Returns a table's figures for the categories of the report, or None if there are none.

    The mean is included only if it is over the same categories.
    """
    values = table.metrics[metric]
    row = {ours: values[published] for published, ours in names.items() if published in values}
    if "mean" in values and set(table.categories) == names.keys():
        row["mean"] = values["mean"]
    if not row:
        return None
    return {"method": table.method, "source": table.source, "setting": table.setting, **row}


def _same_protocol(metric: str, report: dict[str, Any]) -> bool:
    data, options = report["data"], report["options"]
    if metric.startswith(("iou_voxels", "voxel_")):
        return data["voxel_resolution"] == _RESOLUTION
    if metric.startswith("iou_"):
        return options["num_points"] == _POINTS
    return data["num_surface_points"] >= _POINTS


def _own_row(report: dict[str, Any], metric: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    summary = report["metrics"][metric]
    # Occupancy Networks publishes means over categories, Pix2Vox means over shapes.
    mean = summary["macro" if report["data"]["splits"] == "onet" else "micro"]["mean"]
    values = {name: entry["mean"] for name, entry in summary["per_category"].items()}
    setting = f"threshold {report['options']['threshold']}"
    if any("mean" in row for row in rows):
        values["mean"] = mean
    return {"method": "this model", "source": "", "setting": setting, **values}

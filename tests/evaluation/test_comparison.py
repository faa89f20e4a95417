"""Published figures are shown only beside comparable scores."""

import pytest

from occvae.evaluation.comparison import comparable_by_views, published_beside
from occvae.evaluation.table import format_table
from occvae.metrics import summarize
from occvae.metrics.published import SHAPENET

METRICS = (
    "iou_points iou_voxels iou_voxels_0.4 iou_mesh voxel_f_score_1_percent chamfer_l1_tenth_edge "
    "normal_consistency"
).split()


def make_report(splits: str, split: str = "test", names=SHAPENET, **data) -> dict:
    """Makes a report of two shapes of the first category and one of each other.

    All scores are 0.5, except for the first shape with 0.
    """
    categories = [names[0], *names]
    summary = summarize([0.0] + [0.5] * len(names), categories, num_resamples=10)
    return {
        "data": {
            "root": "data",
            "splits": splits,
            "split": split,
            "num_shapes": len(categories),
            "num_stored": len(categories),
            "voxel_resolution": 32,
            "num_surface_points": 100_000,
            **data,
        },
        "options": {
            "num_points": 100_000,
            "threshold": 0.2,
            "threshold_origin": "as asked for",
            "mesh_resolution": 128,
        },
        "metrics": dict.fromkeys(METRICS, summary),
        "num_empty_meshes": 0,
        "controls": {},
    }


def row(tables: dict, metric: str, method: str) -> dict:
    [found] = [row for row in tables[metric] if row["method"] == method]
    return found


def test_tables_of_occupancy_networks_are_shown_for_its_splits():
    published = published_beside(make_report("onet"))
    tables = published["tables"]
    assert published["note"] == ""
    expected = "iou_mesh chamfer_l1_tenth_edge normal_consistency iou_points iou_voxels"
    assert list(tables) == expected.split()
    released = row(tables, "iou_mesh", "ONet (released model)")
    assert (released["mean"], released["lamp"]) == (0.593, 0.400)
    assert row(tables, "chamfer_l1_tenth_edge", "AtlasNet")["mean"] == 0.175
    ours = tables["iou_mesh"][0]
    assert (ours["method"], ours["airplane"], ours["lamp"]) == ("this model", 0.25, 0.5)
    assert ours["mean"] == pytest.approx((0.25 + 12 * 0.5) / 13)  # mean over categories
    assert "mean" not in row(tables, "iou_voxels", "ONet (released model, run by a user)")
    assert "mean" not in tables["iou_voxels"][0]


def test_figures_by_views_are_comparable_on_the_same_data_only():
    assert comparable_by_views(make_report("pix2vox"))
    for other in (
        make_report("onet"),
        make_report("own"),
        make_report("pix2vox", split="val"),
        make_report("pix2vox", num_stored=99),
        make_report("pix2vox", voxel_resolution=64),
        make_report("pix2vox", names=("chair", "lamp")),
    ):
        assert not comparable_by_views(other)


def test_tables_of_pix2vox_are_shown_for_its_splits():
    published = published_beside(make_report("pix2vox"))
    tables = published["tables"]
    assert row(tables, "iou_voxels", "Pix2Vox++/A, 1 view")["mean"] == 0.670
    assert row(tables, "voxel_f_score_1_percent", "LRGT+, 1 view")["mean"] == 0.338
    assert not any("2 views" in row["method"] for row in tables["iou_voxels"])
    rerun = row(tables, "iou_voxels_0.4", "Pix2Vox-A (released model, run by a user), 1 view")
    assert rerun["chair"] == 0.563 and "vessel" not in rerun
    assert tables["iou_voxels"][0]["mean"] == pytest.approx(13 * 0.5 / 14)  # mean over shapes
    assert "iou_mesh" not in tables


def test_means_of_other_categories_are_left_out():
    tables = published_beside(make_report("onet", names=("chair", "watercraft")))["tables"]
    released = row(tables, "iou_mesh", "ONet (released model)")
    assert released["watercraft"] == 0.547 and "mean" not in released
    methods = {row["method"] for row in tables["iou_mesh"]}
    assert "Pixel2Mesh" not in methods  # only its mean is known
    vehicles = ("airplane", "car", "vessel")
    report = make_report("pix2vox", "val", names=vehicles)
    method = "Pix2Vox-VAE, model of vehicles only, 1 view"
    assert row(published_beside(report)["tables"], "iou_voxels_0.4", method)["mean"] == 0.735


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        (make_report("own"), "the splits of the data (own) are not those of Occupancy Networks"),
        (make_report("onet", num_stored=99), "14 of 99 shapes were evaluated"),
        (make_report("onet", names=("chair", "mug")), "no figures for mug"),
        (make_report("onet", "val"), "none for split 'val'"),
    ],
)
def test_the_note_says_why_nothing_is_comparable(report, reason):
    published = published_beside(report)
    assert published["tables"] == {} and reason in published["note"]
    report["published"] = published
    assert f"not comparable with published tables: {reason}" in format_table(report)


def test_metrics_measured_differently_are_not_compared():
    report = make_report("onet", voxel_resolution=64, num_surface_points=1000)
    published = published_beside(report)
    assert list(published["tables"]) == ["iou_mesh", "iou_points"]
    assert published["note"] == (
        "measured unlike the published figures: chamfer_l1_tenth_edge, normal_consistency, "
        "iou_voxels"
    )
    report["options"]["num_points"] = 2048
    assert published_beside(report)["tables"] == {}


def test_the_table_shows_published_figures_with_their_protocol():
    report = make_report("onet")
    report["published"] = published_beside(report)
    lines = format_table(report).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("iou_mesh"))
    assert lines[start].split() == ["iou_mesh", *SHAPENET, "mean"]
    assert lines[start + 1].split()[-1] == "0.481"
    [released] = [line for line in lines[start:] if line.startswith("ONet (released model) ")][:1]
    assert released.split()[-2:] == ["0.547", "0.593"]
    assert any(line.startswith("onet: Occupancy Networks (Mescheder") for line in lines)

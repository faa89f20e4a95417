"""Published figures are consistent with their means and with the names of protocols."""

import numpy as np
import pytest

from occvae.metrics import PROTOCOLS, TABLES, shapenet_category
from occvae.metrics.published import SHAPENET


def published_tables(protocol, metric=None):
    """Returns the tables of a protocol, or only those with a metric."""
    tables = [table for table in TABLES if table.protocol == protocol]
    return [table for table in tables if metric is None or metric in table.metrics]


def test_entries_are_complete():
    assert len({(table.method, table.protocol) for table in TABLES}) == len(TABLES)
    for table in TABLES:
        assert table.protocol in PROTOCOLS and table.source and table.dataset and table.metrics
        assert table.splits in ("onet", "pix2vox") and set(table.categories) <= set(SHAPENET)
        for values in table.metrics.values():
            assert values.keys() <= {*SHAPENET, "mean"}
            assert all(0.0 < value < 1.0 for value in values.values())


def test_macro_means_are_those_of_their_rows():
    """A typing error in a row would change its mean."""
    checked = 0
    for table in published_tables("onet"):
        for values in table.metrics.values():
            rows = [values[name] for name in SHAPENET if name in values]
            if len(rows) == 13 and "mean" in values:
                assert np.mean(rows) == pytest.approx(values["mean"], abs=0.0011)
                checked += 1
    assert checked == 7


def test_tables_are_found_by_protocol_and_metric():
    chamfer = published_tables("onet", "chamfer_l1_tenth_edge")
    [released] = [table for table in chamfer if table.method == "ONet (released model)"]
    assert released.metrics["chamfer_l1_tenth_edge"]["lamp"] == 0.368
    assert "PSGN" in {table.method for table in chamfer}
    assert "PSGN" not in {table.method for table in published_tables("onet", "iou")}
    views = {table.method: table for table in published_tables("what3d")}
    assert views["Pix2Vox++/A, 1 view"].metrics == {"f_score_1_percent": {"mean": 0.436}}
    assert views["Pix2Vox++/A, 20 views"].metrics == {"f_score_1_percent": {"mean": 0.462}}
    assert not any(name.startswith("3D-RETR") for name in views)
    assert published_tables("vecset") == []


def test_category_names_are_translated():
    assert [shapenet_category(name) for name in ("vessel", "watercraft", "04530566")] == [
        "vessel"
    ] * 3
    assert shapenet_category("03001627") == "chair"
    assert shapenet_category("mug") is None

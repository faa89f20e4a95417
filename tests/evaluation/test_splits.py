"""Models of one published division are kept from the shapes of another."""

import json
from pathlib import Path

import pytest

from occvae.data.manifest import Manifest
from occvae.errors import UserError
from occvae.evaluation.splits import check_splits


def dataset(root: Path, splits: str) -> Path:
    root.mkdir()
    Manifest("meshes", splits, {}, [], complete=True).save(root)
    return root


def run_on(data: Path, run: Path) -> Path:
    """The export of a run."""
    (run / "best").mkdir(parents=True)
    (run / "train_config.json").write_text(json.dumps({"data": {"root": str(data)}}))
    (run / "best" / "config.json").write_text("{}")
    return run / "best"


def converted(folder: Path, system: str) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"converted_from": {"system": system}}))
    return folder


def test_published_divisions_do_not_meet(tmp_path):
    onet, pix2vox = (dataset(tmp_path / name, name) for name in ("onet", "pix2vox"))
    own = dataset(tmp_path / "own", "own")
    export = run_on(onet, tmp_path / "run")
    with pytest.raises(UserError) as caught:
        check_splits(export, pix2vox)
    message = str(caught.value)
    assert "follows the splits of Pix2Vox" in message
    assert "was trained on those of Occupancy Networks" in message and "\n" not in message
    check_splits(export, onet)
    check_splits(export, own)
    check_splits(run_on(own, tmp_path / "mine"), pix2vox)


def test_official_checkpoints_bring_their_division(tmp_path):
    onet, pix2vox = (dataset(tmp_path / name, name) for name in ("onet", "pix2vox"))
    for system, good, bad in (
        ("occupancy_networks, legacy layout", onet, pix2vox),
        ("pix2voxpp-a", pix2vox, onet),
    ):
        export = converted(tmp_path / system, system)
        check_splits(export, good)
        with pytest.raises(UserError, match="follows the splits of"):
            check_splits(export, bad)


def test_what_is_not_known_is_not_refused(tmp_path):
    onet = dataset(tmp_path / "onet", "onet")
    check_splits(run_on(tmp_path / "gone", tmp_path / "run"), onet)
    export = tmp_path / "export"
    export.mkdir()
    (export / "config.json").write_text("{}")
    check_splits(export, onet)

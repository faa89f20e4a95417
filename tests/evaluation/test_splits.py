"""A model trained on one published split is not evaluated on another."""

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


def export(folder: Path, **config: str) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_models_are_not_evaluated_on_another_published_split(tmp_path):
    onet, pix2vox = (dataset(tmp_path / name, name) for name in ("onet", "pix2vox"))
    own = dataset(tmp_path / "own", "own")
    model = export(tmp_path / "model", splits="onet")
    with pytest.raises(UserError) as caught:
        check_splits(model, pix2vox)
    message = str(caught.value)
    assert "follows the splits of Pix2Vox" in message
    assert "was trained on those of Occupancy Networks" in message and "\n" not in message
    with pytest.raises(UserError, match="follows the splits of Occupancy Networks"):
        check_splits(export(tmp_path / "other", splits="pix2vox"), onet)
    check_splits(model, onet)
    check_splits(model, own)
    check_splits(export(tmp_path / "mine", splits="own"), pix2vox)


def test_a_model_with_unknown_splits_is_not_refused(tmp_path):
    check_splits(export(tmp_path / "model"), dataset(tmp_path / "onet", "onet"))

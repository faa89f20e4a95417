"""Published divisions of ShapeNet: what a model was trained on must not be what it is tested on.

Occupancy Networks ("onet") and Pix2Vox ("pix2vox") divide the same shapes differently, so that many
test shapes of either are training shapes of the other.
"""

import json
from pathlib import Path

from occvae.data.manifest import MANIFEST, Manifest
from occvae.errors import UserError
from occvae.models.pretrained import CONFIG
from occvae.train.checkpoint import TRAIN_CONFIG

PUBLISHED = {"onet": "Occupancy Networks", "pix2vox": "Pix2Vox"}


def check_splits(export: Path, root: str | Path) -> None:
    """UserError if the model of an export was trained by one published division and the dataset
    follows another. What a model was trained on is not always known, and is then not checked."""
    trained, tested = _trained_splits(export), Manifest.load(root).splits
    if trained in PUBLISHED and tested in PUBLISHED and trained != tested:
        raise UserError(
            f"{root}: follows the splits of {PUBLISHED[tested]}, but {export} was trained on those "
            f"of {PUBLISHED[trained]}, and so on many of these shapes; evaluate it on a dataset "
            f"imported from {PUBLISHED[trained]}"
        )


def _trained_splits(export: Path) -> str | None:
    """By the dataset of its run, or by the system that an official checkpoint came from."""
    run = export.parent / TRAIN_CONFIG
    if run.is_file():
        root = Path(json.loads(run.read_text())["data"]["root"])
        return Manifest.load(root).splits if (root / MANIFEST).is_file() else None
    origin = json.loads((export / CONFIG).read_text()).get("converted_from")
    if origin is None:
        return None
    return "onet" if origin["system"].startswith("occupancy_networks") else "pix2vox"

"""Published divisions of ShapeNet: what a model was trained on must not be what it is tested on.

Occupancy Networks ("onet") and Pix2Vox ("pix2vox") divide the same shapes differently, so that many
test shapes of either are training shapes of the other.
"""

import json
from pathlib import Path

from occvae.data.manifest import Manifest
from occvae.errors import UserError
from occvae.models.pretrained import CONFIG

PUBLISHED = {"onet": "Occupancy Networks", "pix2vox": "Pix2Vox"}


def check_splits(export: Path, root: str | Path) -> None:
    """UserError if the model of an export was trained by one published division and the dataset
    follows another. Where an export does not say what it was trained on, nothing is checked."""
    trained = json.loads((export / CONFIG).read_text()).get("splits")
    tested = Manifest.load(root).splits
    if trained in PUBLISHED and tested in PUBLISHED and trained != tested:
        raise UserError(
            f"{root}: follows the splits of {PUBLISHED[tested]}, but {export} was trained on those "
            f"of {PUBLISHED[trained]}, and so on many of these shapes; evaluate it on a dataset "
            f"imported from {PUBLISHED[trained]}"
        )

"""A check that a model is not tested on shapes that it was trained on.

Occupancy Networks ("onet") and Pix2Vox ("pix2vox") split ShapeNet differently. Many test shapes of
one are training shapes of the other.
"""

import json
from pathlib import Path

from occvae.data.manifest import Manifest
from occvae.errors import UserError
from occvae.models.pretrained import CONFIG

PUBLISHED = {"onet": "Occupancy Networks", "pix2vox": "Pix2Vox"}


def check_splits(export: Path, root: str | Path) -> None:
    """Checks that a model and a dataset do not follow different published splits.

    Nothing is checked if the export does not record the splits that the model was trained on.

    Args:
        export: folder of the exported model.
        root: dataset folder.

    Raises:
        UserError: the model was trained on one published split, and the dataset follows another.
    """
    trained = json.loads((export / CONFIG).read_text()).get("splits")
    tested = Manifest.load(root).splits
    if trained in PUBLISHED and tested in PUBLISHED and trained != tested:
        raise UserError(
            f"{root}: follows the splits of {PUBLISHED[tested]}, but {export} was trained on those "
            f"of {PUBLISHED[trained]}, which include many of these shapes; evaluate it on a "
            f"dataset imported from {PUBLISHED[trained]}"
        )

"""Official checkpoints of other systems as our exports, with every tensor accounted for."""

import hashlib
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from occvae.convert import occupancy_networks, pix2vox
from occvae.convert.checkpoint import holds_tensors, read_checkpoint
from occvae.errors import UserError
from occvae.models.pretrained import CONFIG, save_pretrained
from occvae.models.protocol import Model
from occvae.system.atomic_write import check_writable

# Each has WEIGHTS, TRAINING_STATE, SPLITS, recognize(checkpoint) and convert(checkpoint).
SOURCES = (occupancy_networks, pix2vox)


class Conversion(NamedTuple):
    """What became of a file."""

    model: Model
    origin: str
    """The system and layout that it came from."""
    splits: str
    """The division of ShapeNet that it was trained by, see `Manifest`."""
    ignored: list[str]
    """Entries beside the weights, such as the optimizer's state."""


def convert_checkpoint(source: str | Path) -> Conversion:
    """Reads a checkpoint of occupancy_networks (image models), Pix2Vox or Pix2Vox++.

    Which of them it is shows in its keys. The model is in eval mode.

    Raises:
        UserError: not readable, unknown, or tensors missing, left over, or of other shapes.
    """
    checkpoint = read_checkpoint(source)
    for module in SOURCES:
        if module.recognize(checkpoint):
            break
    else:
        keys = ", ".join(sorted(map(str, checkpoint))[:8])
        raise UserError(
            f"{source}: neither a checkpoint of occupancy_networks nor of Pix2Vox; its keys begin "
            f"with {keys or 'none'}"
        )
    try:
        ignored = _beside_the_weights(checkpoint, module)
        model, origin = module.convert(checkpoint)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    return Conversion(model.eval(), origin, module.SPLITS, ignored)


def _beside_the_weights(checkpoint: dict[str, Any], module: ModuleType) -> list[str]:
    """Names of the entries that training needs and a model does not."""
    if not checkpoint.keys() & set(module.WEIGHTS):
        return []  # a bare state dict
    others = {key: value for key, value in checkpoint.items() if key not in module.WEIGHTS}
    unknown = [
        str(key)
        for key, value in others.items()
        if key not in module.TRAINING_STATE and holds_tensors(value)
    ]
    if unknown:
        raise UserError(f"left over: tensors in {', '.join(sorted(unknown))}")
    return sorted(map(str, others))


def convert_file(source: str | Path, folder: str | Path) -> Conversion:
    """Writes the converted model to a folder that `from_pretrained` loads."""
    if not str(folder):
        raise UserError("the name of the model's folder is empty")
    check_writable(Path(folder) / CONFIG)
    conversion = convert_checkpoint(source)
    with open(source, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    origin = {"file": Path(source).name, "sha256": digest, "system": conversion.origin}
    save_pretrained(conversion.model, folder, splits=conversion.splits, converted_from=origin)
    return conversion

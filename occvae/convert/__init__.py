"""Converts official checkpoints of other systems to exports, and accounts for every tensor."""

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

# Each module defines WEIGHTS, TRAINING_STATE, SPLITS, recognize(checkpoint), convert(checkpoint).
SOURCES = (occupancy_networks, pix2vox)


class Conversion(NamedTuple):
    """A converted checkpoint."""

    model: Model
    origin: str
    """The system and the layout of the source file."""
    splits: str
    """Name of the division of ShapeNet into splits that it was trained on, see `Manifest`."""
    ignored: list[str]
    """Names of entries that only training needs, such as the optimizer's state."""


def convert_checkpoint(source: str | Path) -> Conversion:
    """Reads a checkpoint of occupancy_networks, Pix2Vox or Pix2Vox++.

    The keys of the file tell which system it is of.

    Args:
        source: File that `torch.save` wrote.

    Returns:
        The conversion. Its model is in eval mode.

    Raises:
        UserError: The file is not readable or is of another system, or a tensor is missing, left
            over, not finite or of another shape.
    """
    checkpoint = read_checkpoint(source)
    for module in SOURCES:
        if module.recognize(checkpoint):
            break
    else:
        keys = ", ".join(sorted(map(str, checkpoint))[:8])
        raise UserError(
            f"{source}: not a checkpoint of occupancy_networks, Pix2Vox or Pix2Vox++; its first "
            f"keys are {keys or 'none'}"
        )
    try:
        ignored = _beside_the_weights(checkpoint, module)
        model, origin = module.convert(checkpoint)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    return Conversion(model.eval(), origin, module.SPLITS, ignored)


def _beside_the_weights(checkpoint: dict[str, Any], module: ModuleType) -> list[str]:
    """Names of the entries that only training needs.

    Raises:
        UserError: another entry beside the weights holds tensors.
    """
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
    """Converts a checkpoint and writes the export to a folder.

    The export's config.json names the source file, its SHA-256 and its system.

    Args:
        source: As in `convert_checkpoint`.
        folder: Created if it does not exist. An export in it is replaced.

    Returns:
        The conversion.

    Raises:
        UserError: As in `convert_checkpoint`, or the folder cannot be written. That is checked
            before the file is read.
    """
    if not str(folder):
        raise UserError("the name of the output folder is empty; give a folder")
    check_writable(Path(folder) / CONFIG)
    conversion = convert_checkpoint(source)
    with open(source, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    origin = {"file": Path(source).name, "sha256": digest, "system": conversion.origin}
    save_pretrained(conversion.model, folder, splits=conversion.splits, converted_from=origin)
    return conversion

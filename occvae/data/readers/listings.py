"""Which shapes and images a published dataset lists, and which of them it has."""

import hashlib
import itertools
import os
from pathlib import Path

from occvae.data.sources import Item
from occvae.errors import UserError


def subfolders(folder: Path) -> set[str]:
    """Names of the folders in a folder. Empty if the folder does not exist."""
    if not folder.is_dir():
        return set()
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if entry.is_dir()}


def name_unlisted(category: str, models: set[str]) -> dict[str, str]:
    """What `Source.skipped` says of folders that no split lists, in one line a class."""
    if not models:
        return {}
    return {f"{category}/*": f"{len(models)} folders are in no list ({min(models)}, ...)"}


def numbered(names: list[str]) -> list[str]:
    """Sorts the names of images by number.

    A missing number is an error, because every later image would get the camera of its neighbor.
    """
    by_number = {int(Path(name).stem): name for name in names if Path(name).stem.isdecimal()}
    if len(by_number) != len(names):
        raise UserError(f"images are not numbered, or twice ({', '.join(sorted(names)[:3])} ...)")
    for number in range(len(names)):
        if number not in by_number:
            raise UserError(f"image {number} is missing ({len(names)} others are there)")
    return [by_number[number] for number in range(len(names))]


def list_digest(items: list[Item]) -> str:
    """Identifies a list of shapes, so that a build never continues one of another list."""
    lines = "".join(f"{item.id}\t{item.category}\t{item.split}\n" for item in items)
    return hashlib.sha256(lines.encode()).hexdigest()


def nothing_usable(where: str | Path, what: str, skipped: dict[str, str]) -> UserError:
    """The error to raise when every shape was skipped. It gives the first reasons."""
    reasons = "; ".join(f"{key}: {reason}" for key, reason in itertools.islice(skipped.items(), 5))
    return UserError(f"{where}: {what} ({reasons[:200]})")

"""Compares the lists of a published dataset with its files."""

import hashlib
import itertools
import os
from pathlib import Path

from occvae.data.sources import Item
from occvae.errors import UserError


def subfolders(folder: Path) -> set[str]:
    """Names of the subfolders of a folder. Empty if the folder does not exist."""
    if not folder.is_dir():
        return set()
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if entry.is_dir()}


def name_unlisted(category: str, models: set[str]) -> dict[str, str]:
    """Reports folders that no split lists, as an entry for `Source.skipped`.

    Args:
        category: folder of the class.
        models: names of its subfolders that no split lists.

    Returns:
        One entry, or none if `models` is empty.
    """
    if not models:
        return {}
    return {f"{category}/*": f"{len(models)} folders are not in any list ({min(models)}, ...)"}


def sort_by_number(names: list[str]) -> list[str]:
    """Sorts image files by number. Their names without the ending must be 0, 1, 2 and so on.

    Image i belongs to camera i. If a number were missing, all later images would get wrong cameras.

    Raises:
        UserError: a name is not a number, or a number is missing or occurs twice.
    """
    by_number = {int(Path(name).stem): name for name in names if Path(name).stem.isdecimal()}
    if len(by_number) != len(names):
        raise UserError(f"images are not numbered uniquely ({', '.join(sorted(names)[:3])} ...)")
    for number in range(len(names)):
        if number not in by_number:
            raise UserError(f"image {number} is missing ({len(names)} others exist)")
    return [by_number[number] for number in range(len(names))]


def list_digest(items: list[Item]) -> str:
    """A hash of a list of shapes, so that a build never continues with another list."""
    lines = "".join(f"{item.id}\t{item.category}\t{item.split}\n" for item in items)
    return hashlib.sha256(lines.encode()).hexdigest()


def nothing_usable(where: str | Path, what: str, skipped: dict[str, str]) -> UserError:
    """Makes the error for a source without usable shapes.

    Args:
        where: folder or file of the source.
        what: what is wrong with all shapes.
        skipped: `Source.skipped`. The message gives the first reasons.
    """
    reasons = "; ".join(f"{key}: {reason}" for key, reason in itertools.islice(skipped.items(), 5))
    return UserError(f"{where}: {what} ({reasons[:200]})")

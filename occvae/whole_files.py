"""Files that are there whole or not at all, whatever interrupts their writing."""

import os
from collections.abc import Callable
from pathlib import Path


def write_whole(path: Path, save: Callable[[Path], object]) -> None:
    """Saves a file under another name and renames it; its folder is made if absent.

    Args:
        path: of the file; one that is there is replaced.
        save: writes to the path it is given, which has the same suffix.

    Raises:
        OSError: it cannot be written; nothing is left then.
    """
    temporary = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(temporary)
        os.replace(temporary, path)
    finally:
        _remove(temporary)


def _remove(temporary: Path) -> None:
    try:
        temporary.unlink(missing_ok=True)
    except OSError:
        pass  # where its folder is a file, or cannot be written: then there is nothing to remove

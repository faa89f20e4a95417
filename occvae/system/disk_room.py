"""Checks the free room on a disk before something large is written."""

import shutil
from pathlib import Path

from occvae.errors import UserError


def check_room(folder: Path, num_bytes: int, purpose: str) -> None:
    """Checks that the disk of a folder has room.

    Args:
        folder: an existing folder.
        num_bytes: number of bytes that will be written.
        purpose: what the bytes are for, e.g. "unpacking x.zip".

    Raises:
        UserError: less is free.
    """
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise UserError(
            f"{folder}: {purpose} needs {format_bytes(num_bytes)}, but only {format_bytes(free)} "
            "are free; free some room or choose a folder on another disk"
        )


def format_bytes(count: int) -> str:
    """A number of bytes in decimal units, such as "73.4 GB"."""
    value, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{count} bytes" if unit == "bytes" else f"{value:.1f} {unit}"

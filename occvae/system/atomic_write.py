"""Files that are there whole or not at all, whatever interrupts their writing."""

import os
from collections.abc import Callable
from pathlib import Path

from occvae.errors import UserError


class WriteError(UserError):
    """The system refuses to write a file, for lack of space or permission, and maybe others."""


def write_whole(path: Path, save: Callable[[Path], object], advice: str = "") -> None:
    """Saves a file under another name and renames it; its folder is made if absent.

    Args:
        path: of the file; one that is there is replaced.
        save: writes to the path it is given, which has the same suffix.
        advice: what to do where the file cannot be written.

    Raises:
        WriteError: it cannot be written; nothing is left then.
    """
    try:
        _write_and_rename(path, save)
    except OSError as error:
        hint = f"; {advice}" if advice else ""
        reason = error.strerror or error
        raise WriteError(f"{path}: cannot be written ({reason}){hint}") from None


def write_whole_text(path: Path, text: str, advice: str = "") -> None:
    """As `write_whole`, in UTF-8. Names of files that are not UTF-8 get backslashes."""
    content = text.encode("utf-8", "backslashreplace")
    write_whole(path, lambda file: file.write_bytes(content), advice)


def _write_and_rename(path: Path, save: Callable[[Path], object]) -> None:
    temporary = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(temporary)
        to_disk(temporary)
        os.replace(temporary, path)
        to_disk(path.parent)
    finally:
        _remove(temporary)


def to_disk(path: Path) -> None:
    """Waits until a file's content, or a folder's names, would survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(temporary: Path) -> None:
    try:
        temporary.unlink(missing_ok=True)
    except OSError:
        pass  # where its folder is a file, or cannot be written: then there is nothing to remove


def check_writable(path: Path) -> None:
    """UserError unless a file can be made there, as far as can be told without making one."""
    if path.is_dir():
        raise UserError(f"{path}: is a folder")
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise UserError(f"{path}: cannot be written, {folder} is no folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{path}: cannot be written, no permission to write in {folder}")

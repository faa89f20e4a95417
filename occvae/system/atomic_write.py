"""Atomic file writes: a file is complete or absent, even after a crash."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

from occvae.errors import UserError


class WriteError(UserError):
    """A file cannot be written, e.g. because space or permission is missing.

    Other files may be affected too.
    """


def write_whole(path: Path, save: Callable[[Path], object], advice: str = "") -> None:
    """Writes a file under a temporary name, then renames it.

    Args:
        path: file to write. Its folder is created if absent. An existing file is replaced.
        save: writes the file to the path that it is given, which has the same suffix.
        advice: what the user can do if the file cannot be written, for the error message.

    Raises:
        WriteError: the file cannot be written. No partial file is left then.
    """
    try:
        _write_and_rename(path, save)
    except OSError as error:
        hint = f"; {advice}" if advice else ""
        reason = error.strerror or error
        raise WriteError(f"{path}: cannot be written ({reason}){hint}") from None


def write_whole_text(path: Path, text: str, advice: str = "") -> None:
    """Writes text in UTF-8 like `write_whole`. Characters that UTF-8 lacks become escapes."""
    content = text.encode("utf-8", "backslashreplace")
    write_whole(path, lambda file: file.write_bytes(content), advice)


def _write_and_rename(path: Path, save: Callable[[Path], object]) -> None:
    temporary = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A killed write may have left a link to another file, which must not be written through.
        temporary.unlink(missing_ok=True)
        save_with_usual_mode(temporary, save)
        to_disk(temporary)
        os.replace(temporary, path)
        to_disk(path.parent)
    finally:
        _remove(temporary)


def save_with_usual_mode(path: Path, save: Callable[[Path], object]) -> None:
    """Writes a new file with the access rights that `open` gives to new files.

    Some libraries create files that only their owner can read.

    Args:
        path: file to write, in a folder that exists.
        save: writes the file to the path that it is given.
    """
    path.touch()
    mode = path.stat().st_mode
    save(path)
    if path.stat().st_mode != mode:
        path.chmod(stat.S_IMODE(mode))


def to_disk(path: Path) -> None:
    """Waits until the content of a file, or the list of names in a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(temporary: Path) -> None:
    try:
        temporary.unlink(missing_ok=True)
    except OSError:
        pass  # its folder is a file or is not writable, so there is nothing to remove


def check_writable(path: Path) -> None:
    """Checks that a file can be written, without creating it. A later write may still fail.

    Raises:
        UserError: `path` is a folder, or its folder cannot be written or created.
    """
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give the path of a file")
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise UserError(f"{path}: cannot be written, {folder} is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{path}: cannot be written, no permission to write in {folder}")

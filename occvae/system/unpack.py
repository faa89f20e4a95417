"""Unpacks archives from the web. No file is written outside the folder, whatever its name."""

import gzip
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import IO, TypeVar

from tqdm import tqdm

from occvae.errors import UserError
from occvae.system.atomic_write import WriteError
from occvae.system.disk_room import check_room
from occvae.system.verbosity import is_quiet

_Entry = TypeVar("_Entry")

# Raised by zipfile for a compression that it does not know, and without a password.
_UNKNOWN = (NotImplementedError, RuntimeError)
_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    struct.error,
    UnicodeDecodeError,
    EOFError,
)


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks the regular files of an archive. An interrupted call can be repeated.

    Files that exist with the size of the archive's file are kept, so a repeated call continues.
    The archive's checksums are compared with the data that is read.

    Args:
        archive: a .zip or .tgz file.
        folder: where to unpack it.

    Raises:
        UserError: the archive is damaged, has a file with a path that leaves the folder, or has
            links or devices.
        UserError: a zip archive needs more room than there is on the disk.
        WriteError: a file cannot be written.
    """
    try:
        if archive.suffix == ".zip":
            _unpack_zip(archive, folder)
        else:
            _unpack_tgz(archive, folder)
    except (*_DAMAGED, *_UNKNOWN) as error:
        raise UserError(
            f"{archive}: is not a whole archive ({error}); delete it and run the same command again"
        ) from None
    except OSError as error:
        raise WriteError(
            f"{folder}: {archive.name} cannot be unpacked ({error.strerror or error}); fix that "
            "and run the same command again; it continues where it stopped"
        ) from None


def _unpack_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        # The end of a truncated archive may hold a whole smaller one, e.g. an .npz file.
        if min((entry.header_offset for entry in file.infolist()), default=-1) != 0:
            raise zipfile.BadZipFile("it does not begin with a file")
        missing = []
        for entry in file.infolist():
            if entry.is_dir():
                continue
            path = _target(archive, folder, entry.filename)
            if stat.S_ISLNK(entry.external_attr >> 16):
                raise _unsafe(archive, entry.filename, "is a link")
            if not _is_there(path, entry.file_size):
                missing.append((path, entry))
        size = sum(entry.file_size for _, entry in missing)
        check_room(folder, size, f"unpacking {archive.name}")
        for path, entry in _progress(missing, archive):
            with file.open(entry) as source:
                _write(path, source, entry.file_size)


def _unpack_tgz(archive: Path, folder: Path) -> None:
    # tarfile's own gzip does not compare the checksum, which also finds a missing end.
    with gzip.open(archive) as content:
        with tarfile.open(fileobj=content, mode="r|") as file:
            for entry in _progress(file, archive):
                _unpack_entry(archive, folder, file, entry)
                # Otherwise it keeps an object for each of a million files.
                file.members = []  # type: ignore[attr-defined]
        while content.read(1 << 20):
            pass


def _progress(entries: Iterable[_Entry], archive: Path) -> "tqdm[_Entry]":
    return tqdm(entries, desc=f"unpack {archive.name}", unit="file", disable=is_quiet())


def _unpack_entry(
    archive: Path, folder: Path, file: tarfile.TarFile, entry: tarfile.TarInfo
) -> None:
    if entry.isdir():
        return
    path = _target(archive, folder, entry.name)
    if not entry.isreg():
        raise _unsafe(archive, entry.name, "is a link or a device")
    source = file.extractfile(entry)
    if source is not None and not _is_there(path, entry.size):
        _write(path, source, entry.size)


def _target(archive: Path, folder: Path, name: str) -> Path:
    """The path of a file of the archive, once it is known to lie in the folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
        raise _unsafe(archive, name, "has a path outside the folder")
    return folder / path


def _unsafe(archive: Path, name: str, reason: str) -> UserError:
    return UserError(f"{archive}: {name!r} {reason}; the archive is not safe, so delete it")


def _is_there(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _write(path: Path, source: IO[bytes], size: int) -> None:
    """Writes a file under a temporary name, so that a file with its own name is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.partial")
    with temporary.open("wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    if temporary.stat().st_size != size:
        temporary.unlink()
        raise EOFError(f"{path.name} ends early")
    os.replace(temporary, path)

"""Files appear complete, with the access rights of other new files."""

import os
import stat
from pathlib import Path

import pytest

from occvae.system.atomic_write import write_whole


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_files_get_the_mode_of_the_umask(tmp_path, mask):
    """Also if the library that writes them creates private files, as safetensors does."""

    def save_private(path: Path) -> None:
        path.unlink()
        path.touch(mode=0o600)

    before = os.umask(mask)
    try:
        write_whole(tmp_path / "file.bin", save_private)
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "file.bin") == 0o666 & ~mask

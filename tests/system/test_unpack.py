"""Archives are unpacked completely, again after an interruption, and only into their folder."""

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from occvae.errors import UserError
from occvae.system import unpack as module
from occvae.system.unpack import unpack
from tests.small_disk import mounted

FILES = {
    f"top/{name}": np.random.default_rng(seed).bytes(20_000)
    for seed, name in enumerate(("a.npz", "b/c.png", "b/d/e.lst"))
} | {"./top/empty": b""}
KINDS = ("zip", "tgz")


def write(path: Path, files: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("top/", b"")
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, "w:gz") as archive:
        folder = tarfile.TarInfo("top")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


EXPECTED = {name.removeprefix("./"): content for name, content in FILES.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_all_files_are_unpacked(tmp_path, kind):
    (tmp_path / "out").mkdir()
    unpack(write(tmp_path / f"x.{kind}", FILES), tmp_path / "out")
    assert files_in(tmp_path / "out") == EXPECTED


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_call_continues(tmp_path, kind, monkeypatch):
    archive, out = write(tmp_path / f"x.{kind}", FILES), tmp_path / "out"
    out.mkdir()

    calls = []

    def stop(source, target, *_):
        calls.append(1)
        target.write(source.read(10_000))
        if len(calls) == 2:
            raise KeyboardInterrupt
        target.write(source.read())

    with monkeypatch.context() as patched:
        patched.setattr(module.shutil, "copyfileobj", stop)
        with pytest.raises(KeyboardInterrupt):
            unpack(archive, out)
    assert files_in(out).keys() == {"top/a.npz", "top/b/c.png.partial"}
    before = (out / "top" / "a.npz").stat()
    (out / "top" / "empty").write_bytes(b"of another size")
    unpack(archive, out)
    assert files_in(out) == EXPECTED
    after = (out / "top" / "a.npz").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["../up", "top/../../up", "/tmp/up", "top/..", "..\\up"])
def test_paths_that_leave_the_folder_are_refused(tmp_path, kind, name):
    archive, out = write(tmp_path / f"x.{kind}", {name: b"x"}), tmp_path / "out"
    out.mkdir()
    with pytest.raises(
        UserError, match=r"x\.\w+: .* has a path outside the folder; the archive is"
    ):
        unpack(archive, out)
    assert not files_in(out) and {path.name for path in tmp_path.iterdir()} == {"out", archive.name}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_in_a_tgz_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "x.tgz", "w:gz") as archive:
        entry = tarfile.TarInfo("top")
        entry.type, entry.linkname = kind, "/etc"
        archive.addfile(entry)
    with pytest.raises(UserError, match="'top' is a link or a device; the archive is not safe"):
        unpack(tmp_path / "x.tgz", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["x.tgz"]


def test_links_in_a_zip_are_refused_before_anything_is_written(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("first", b"x")
        entry = zipfile.ZipInfo("top")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc")
    with pytest.raises(UserError, match="'top' is a link; the archive is not safe"):
        unpack(tmp_path / "x.zip", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["x.zip"]


def spoil(content: bytes, damage: str) -> bytes:
    middle = len(content) // 2
    return {
        "empty": b"",
        "page": b"<html>" * 100,
        "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "half": content[:middle],
        "end": content[:-5],
        "checksum": content[:-8] + bytes([content[-8] ^ 1]) + content[-7:],
    }[damage]


DAMAGE = [(kind, name) for kind in KINDS for name in ("empty", "page", "flipped", "half", "end")]


@pytest.mark.parametrize(("kind", "damage"), [*DAMAGE, ("tgz", "checksum")])
def test_damaged_archives_are_reported(tmp_path, kind, damage):
    archive, out = write(tmp_path / f"x.{kind}", FILES), tmp_path / "out"
    out.mkdir()
    archive.write_bytes(spoil(archive.read_bytes(), damage))
    with pytest.raises(
        UserError, match=r"x\.\w+: is not a whole archive \(.*\); delete it and run"
    ):
        unpack(archive, out)
    for name, content in files_in(out).items():
        assert name.endswith(".partial") or EXPECTED[name] == content or damage == "flipped"


@pytest.mark.parametrize("files", [{}, {"only": b"x"}])
def test_the_end_of_a_longer_zip_is_not_an_archive(tmp_path, files):
    """Files in a zip archive may be zip archives themselves, and a truncated one ends in one."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    content = (tmp_path / "x.zip").read_bytes()
    (tmp_path / "x.zip").write_bytes(b"what came before" + content)
    with pytest.raises(UserError, match="x.zip: is not a whole archive .it does not begin with a"):
        unpack(tmp_path / "x.zip", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["x.zip"]


def test_a_zip_that_needs_more_room_is_refused_before_anything_is_written(tmp_path):
    archive = write(tmp_path / "x.zip", FILES)
    with mounted(tmp_path / "small", "32k") as out:
        message = "small: unpacking x.zip needs 60.0 kB, but only 3.* are free; free some room"
        with pytest.raises(UserError, match=message):
            unpack(archive, out)
        assert not list(out.iterdir())


def test_a_full_disk_is_reported(tmp_path):
    archive = write(tmp_path / "x.tgz", FILES)
    with mounted(tmp_path / "small", "48k") as out:
        with pytest.raises(
            UserError, match=r"small: x.tgz cannot be unpacked \(No space left on d"
        ):
            unpack(archive, out)

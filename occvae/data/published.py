"""Downloads published datasets from the addresses that their projects name."""

import json
from dataclasses import dataclass
from pathlib import Path

from occvae.data.manifest import sole_writer
from occvae.errors import UserError
from occvae.system.atomic_write import write_whole_text
from occvae.system.disk_room import check_room
from occvae.system.download import download
from occvae.system.unpack import unpack

_RECORD = "download.json"


@dataclass(frozen=True)
class PublishedFile:
    """A file of a published dataset.

    Args:
        url: its address.
        path: where it is downloaded to, within the folder of the dataset.
        result: path that exists once the file is downloaded and, if it is an archive, unpacked.
        num_bytes: approximate size of the download.
        unpacked_bytes: approximate room for the unpacked files; 0 if it is not an archive.
    """

    url: str
    path: str
    result: str
    num_bytes: int
    unpacked_bytes: int = 0


@dataclass(frozen=True)
class PublishedDataset:
    """The files of a published dataset.

    Args:
        files: the files, small ones first, so that a wrong address is found early.
        root: what `occvae data import` takes, within the folder of the dataset.
    """

    files: tuple[PublishedFile, ...]
    root: str

    @property
    def num_bytes(self) -> int:
        return sum(file.num_bytes for file in self.files)

    @property
    def unpacked_bytes(self) -> int:
        return sum(file.unpacked_bytes for file in self.files)


_GITHUB = "https://raw.githubusercontent.com"
_S3 = "https://s3.eu-central-1.amazonaws.com"
_CVGL = "http://cvgl.stanford.edu/data2"

PUBLISHED = {
    # The README of autonomousvision/occupancy_networks names 73.4 GB. Unpacked, 43,783 shapes take
    # 1.9 MB each (100,000 points and 100,000 surface points in float16, 24 images).
    "onet": PublishedDataset(
        files=(
            PublishedFile(
                f"{_GITHUB}/autonomousvision/occupancy_networks/master/data/metadata.yaml",
                "ShapeNet/metadata.yaml",
                "ShapeNet/metadata.yaml",
                1_200,
            ),
            PublishedFile(
                f"{_S3}/avg-projects/occupancy_networks/data/dataset_small_v1.1.zip",
                "dataset_small_v1.1.zip",
                "ShapeNet/03001627",  # one of its classes
                73_400_000_000,
                86_000_000_000,
            ),
        ),
        root="ShapeNet",
    ),
    # The README of hzxie/Pix2Vox names the addresses and no sizes. These are estimates: 1.05
    # million images of 12 kB, and 43,783 grids, rounded up to blocks of 4 kB.
    "pix2vox": PublishedDataset(
        files=(
            PublishedFile(
                f"{_GITHUB}/hzxie/Pix2Vox/master/datasets/ShapeNet.json",
                "ShapeNet.json",
                "ShapeNet.json",
                2_000_000,
            ),
            PublishedFile(
                f"{_CVGL}/ShapeNetVox32.tgz",
                "ShapeNetVox32.tgz",
                "ShapeNetVox32",
                50_000_000,
                400_000_000,
            ),
            PublishedFile(
                f"{_CVGL}/ShapeNetRendering.tgz",
                "ShapeNetRendering.tgz",
                "ShapeNetRendering",
                12_500_000_000,
                15_000_000_000,
            ),
        ),
        root=".",
    ),
}
"""Published datasets, by the name of the format that imports them."""


def download_published(
    dataset: PublishedDataset, folder: str | Path, *, keep_archives: bool = False
) -> Path:
    """Downloads and unpacks a published dataset. An interrupted call continues when repeated.

    An archive that already lies in the folder is used instead of a download, and is kept.

    Args:
        dataset: one of `PUBLISHED`.
        folder: where to write the files, created if absent.
        keep_archives: whether to keep downloaded archives after they are unpacked.

    Returns:
        The folder to import.

    Raises:
        UserError: the disk has too little room, a file cannot be downloaded, or an archive is
            damaged or unsafe.
    """
    folder = Path(folder)
    with sole_writer(folder):
        record = _Record(folder)
        left = [file for file in dataset.files if not record.is_finished(file)]
        _check_room(folder, left)
        for file in left:
            _obtain(file, folder, record)
            record.set_finished(file)
            if file.unpacked_bytes and not keep_archives and record.is_downloaded(file):
                (folder / file.path).unlink()
    return folder / dataset.root


def _obtain(file: PublishedFile, folder: Path, record: "_Record") -> None:
    path = folder / file.path
    if not path.is_file():
        download(file.url, path)
        record.set_downloaded(file)
    if file.unpacked_bytes:
        unpack(path, folder)
        if not (folder / file.result).exists():
            raise UserError(f"{path}: has no {file.result}; is it the file of {file.url}?")


def _check_room(folder: Path, left: list[PublishedFile]) -> None:
    """Checks the room for what is left, as far as the sizes are known before the download."""
    needed = 0
    for file in left:
        if not (folder / file.path).is_file():
            partial = folder / f"{file.path}.partial"
            done = partial.stat().st_size if partial.is_file() else 0
            needed += max(0, file.num_bytes - done) + file.unpacked_bytes
        elif not (folder / file.result).exists():
            needed += file.unpacked_bytes
    check_room(folder, needed, "the dataset with its archives")


class _Record:
    """Which files were downloaded and finished, stored in the folder of the dataset.

    It spares another download after the archives are deleted. It also tells downloaded archives,
    by their time of change, from those that the user put there, which are never deleted.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._finished: list[str] = []
        self._downloaded: dict[str, int] = {}
        path = folder / _RECORD
        try:
            content = json.loads(path.read_text())
            self._finished = list(content["finished"])
            self._downloaded = dict(content["downloaded"])
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}: cannot be read ({error!r}); delete it and run the same command again"
            ) from None

    def is_finished(self, file: PublishedFile) -> bool:
        return file.path in self._finished and (self._folder / file.result).exists()

    def is_downloaded(self, file: PublishedFile) -> bool:
        return self._downloaded.get(file.path) == self._time(file)

    def set_finished(self, file: PublishedFile) -> None:
        self._finished = sorted({*self._finished, file.path})
        self._save()

    def set_downloaded(self, file: PublishedFile) -> None:
        self._downloaded[file.path] = self._time(file)
        self._save()

    def _time(self, file: PublishedFile) -> int:
        return (self._folder / file.path).stat().st_mtime_ns

    def _save(self) -> None:
        content = {"finished": self._finished, "downloaded": self._downloaded}
        write_whole_text(self._folder / _RECORD, json.dumps(content, indent=1) + "\n")

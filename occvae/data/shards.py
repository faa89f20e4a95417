"""The dataset on disk: HDF5 shards made for training reads, and the manifest that lists them.

A dataset is a folder with `dataset.json` and shards of a few dozen shapes each:

    points       (S, N, 3)  uint16  uniform in the padded cube, in random order: any contiguous
                                    slice is a random sample; see `quantise_points`
    occupancies  (S, N/8)   uint8   numpy.packbits of the points' occupancies
    voxels       (S, R^3/8) uint8   numpy.packbits of the [x, y, z] grid in C order
    image_bytes  (T,)       uint8   encoded pictures, one after the other
    image_ends   (S, V)     int64   where each ends in image_bytes
    extrinsics   (S, V, 3, 4) float32, intrinsics (3, 3) float32   cameras, see rendering.py
    ids, categories (S,)    str

Shards are written to a temporary name and renamed, so one that exists is whole.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

import h5py
import numpy as np

from occvae.errors import UserError

FORMAT_VERSION = 1
MANIFEST = "dataset.json"
# Queries live in the cube of half edge 0.55: the unit cube of the shapes with a padding of 0.1.
HALF_EXTENT = 0.55


@dataclass
class Sample:
    """One shape, ready to be written."""

    id: str
    category: str
    points: np.ndarray  # (N, 3) uint16, quantised
    occupancies: np.ndarray  # (N,) bool
    voxels: np.ndarray  # (R, R, R) bool
    images: list[bytes]  # V encoded pictures
    extrinsics: np.ndarray  # (V, 3, 4)
    intrinsics: np.ndarray  # (3, 3)


@dataclass(frozen=True)
class ShardEntry:
    """What the manifest says of one shard."""

    file: str
    split: str
    num_shapes: int
    num_bytes: int
    sha256: str


@dataclass
class Manifest:
    """`dataset.json`: the settings of a build, its shards, and what was left out and why."""

    name: str
    settings: dict
    categories: list[str]
    shards: list[ShardEntry] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    complete: bool = False
    format_version: int = FORMAT_VERSION

    def save(self, root: Path) -> None:
        temporary = root / (MANIFEST + ".tmp")
        temporary.write_text(json.dumps(asdict(self), indent=1) + "\n")
        os.replace(temporary, root / MANIFEST)

    @classmethod
    def load(cls, root: str | Path) -> "Manifest":
        path = Path(root) / MANIFEST
        if not path.is_file():
            raise UserError(f"{path}: no dataset here; make one with `occvae data build`")
        try:
            content = json.loads(path.read_text())
            check_version(path, content["format_version"])
            content["shards"] = [ShardEntry(**entry) for entry in content["shards"]]
            return cls(**content)
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not a dataset manifest ({error!r})") from None


def check_version(path: Path, version: int) -> None:
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path}: written as format version {version}, this occvae reads version "
            f"{FORMAT_VERSION}; build the dataset again with `occvae data build`"
        )


def quantise_points(points: np.ndarray) -> np.ndarray:
    """(..., 3) coordinates in [-0.55, 0.55] to uint16: a step of 1.7e-5 everywhere in the cube.

    Half precision, the usual choice, has steps of 2.4e-4 at the border and piles points up on them.
    """
    scaled = (points / (2.0 * HALF_EXTENT) + 0.5) * 65536.0
    return np.clip(np.floor(scaled), 0, 65535).astype(np.uint16)


def dequantise_points(quantised: np.ndarray) -> np.ndarray:
    """The float32 centre of each quantisation step; inverse of `quantise_points`."""
    scale = np.float32(2.0 * HALF_EXTENT / 65536.0)
    return (quantised.astype(np.float32) - np.float32(32767.5)) * scale


def write_shard(path: Path, samples: list[Sample]) -> None:
    """Writes samples of equal point, voxel and view counts; `path` appears only when complete."""
    blobs = [blob for sample in samples for blob in sample.images]
    ends = np.cumsum([len(blob) for blob in blobs], dtype=np.int64)
    arrays = {
        "points": np.stack([sample.points for sample in samples]),
        "occupancies": np.stack([np.packbits(sample.occupancies) for sample in samples]),
        "voxels": np.stack([np.packbits(sample.voxels) for sample in samples]),
        "image_bytes": np.frombuffer(b"".join(blobs), np.uint8),
        "image_ends": ends.reshape(len(samples), -1),
        "extrinsics": np.stack([sample.extrinsics for sample in samples]).astype(np.float32),
        "intrinsics": samples[0].intrinsics.astype(np.float32),
    }
    temporary = path.with_suffix(".tmp")
    with h5py.File(temporary, "w") as file:
        file.attrs["format_version"] = FORMAT_VERSION
        for name, array in arrays.items():
            file.create_dataset(name, data=array)
        for name, texts in (
            ("ids", [sample.id for sample in samples]),
            ("categories", [sample.category for sample in samples]),
        ):
            file.create_dataset(name, data=texts, dtype=h5py.string_dtype())
    os.replace(temporary, path)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# What h5py raises on files that are not, or no longer, a shard.
_DAMAGE = (OSError, KeyError, RuntimeError)


class Shard:
    """Reads one shard; safe to copy into worker processes.

    HDF5 handles must not cross a fork, so each process opens the file at its first read.
    """

    _DATASETS = ("points", "occupancies", "voxels", "image_bytes", "image_ends", "extrinsics")

    def __init__(self, root: Path, entry: ShardEntry):
        self.path = Path(root) / entry.file
        self._pid = None
        self._datasets: dict[str, h5py.Dataset] = {}
        self._check_size(entry)
        try:
            with self._open() as file:
                self._read_layout(file)
        except _DAMAGE as error:
            raise self._damaged(error) from None

    def __len__(self) -> int:
        return len(self.ids)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_pid": None, "_datasets": {}}

    def points(self, index: int, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """A contiguous slice of a shape's points.

        Args:
            index: shape within the shard.
            start: first point, a multiple of 8 because occupancies are bits.
            count: number of points.

        Returns:
            (count, 3) float32 world coordinates and (count,) bool occupancies.
        """
        quantised = self._dataset("points")[index, start : start + count]
        packed = self._dataset("occupancies")[index, start // 8 : (start + count + 7) // 8]
        return dequantise_points(quantised), np.unpackbits(packed, count=count).astype(bool)

    def packed_voxels(self, index: int) -> np.ndarray:
        """(R^3/8,) uint8 bits."""
        return self._dataset("voxels")[index]

    def voxels(self, index: int) -> np.ndarray:
        """(R, R, R) bool."""
        edge = self.voxel_resolution
        bits = np.unpackbits(self.packed_voxels(index), count=edge**3)
        return bits.reshape(edge, edge, edge).astype(bool)

    def image(self, index: int, view: int) -> bytes:
        """One encoded picture."""
        ends = self._dataset("image_ends")
        flat = index * self.num_views + view
        end = int(ends[index, view])
        start = int(ends[(flat - 1) // self.num_views, (flat - 1) % self.num_views]) if flat else 0
        return self._dataset("image_bytes")[start:end].tobytes()

    def extrinsics(self, index: int, view: int) -> np.ndarray:
        """(3, 4) float32 world to camera."""
        return self._dataset("extrinsics")[index, view]

    def _check_size(self, entry: ShardEntry) -> None:
        if not self.path.is_file():
            raise UserError(f"{self.path}: missing shard; run the same `occvae data build` again")
        size = self.path.stat().st_size
        if size != entry.num_bytes:
            raise UserError(
                f"{self.path}: {size} bytes where the manifest says {entry.num_bytes} (truncated "
                "or changed); delete it and run the same `occvae data build` again"
            )

    def _open(self) -> h5py.File:
        # Without locking: shards never change, and many network file systems have no locks.
        return h5py.File(self.path, "r", locking=False)

    def _read_layout(self, file: h5py.File) -> None:
        check_version(self.path, int(file.attrs.get("format_version", 0)))
        self.ids = [text.decode() for text in file["ids"][:]]
        self.categories = [text.decode() for text in file["categories"][:]]
        self.intrinsics = file["intrinsics"][:]
        self.num_points = file["points"].shape[1]
        self.num_views = file["image_ends"].shape[1]
        self.voxel_resolution = round((file["voxels"].shape[1] * 8) ** (1 / 3))

    def _damaged(self, error: Exception) -> UserError:
        return UserError(
            f"{self.path}: damaged or not a shard ({' '.join(str(error).split())}); delete it and "
            "run the same `occvae data build` again"
        )

    def _dataset(self, name: str) -> h5py.Dataset:
        if self._pid != os.getpid():
            try:
                file = self._open()
                # Dataset objects are kept because looking one up by name costs more than a read.
                self._datasets = {key: file[key] for key in self._DATASETS}
            except _DAMAGE as error:
                raise self._damaged(error) from None
            self._pid = os.getpid()
        return self._datasets[name]

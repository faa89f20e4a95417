"""Writes and reads the HDF5 shards of a dataset.

A dataset is a folder with a manifest `dataset.json` and shards of up to 64 shapes each. All shapes
of a shard have the same layout. Arrays that the source does not provide are absent.
`docs/data_format.md` describes the format in full::

    points, near_points           (S, N, 3)  uint16 or float16  in random order, so that any
                                             contiguous slice is a random sample
    occupancies, near_occupancies (S, N/8)   uint8   numpy.packbits of the points' occupancies
    surface_points                (S, P, 3)  uint16 or float16
    surface_normals               (S, P, 3)  float16
    mesh_vertices                 (A, 3)     uint16  vertices of all meshes, one after the other
    mesh_faces                    (B, 3)     uint16  faces of all meshes, with vertex numbers within
                                                     the mesh
    mesh_ends                     (S, 2)     int64   end of each shape's vertices and of its faces
    voxels_R                      (S, ceil(R^3/8)) uint8  numpy.packbits of the [x, y, z] grid in
                                             C order
    image_bytes                   (T,)       uint8   encoded images, one after the other
    image_ends                    (S, V)     int64   end of each image in image_bytes
    extrinsics                    (S, V, 3, 4) float32  world to camera
    intrinsics                    (S, V, 3, 3) float32  camera to pixels
    locations, scales             (S, 3), (S,) float64  original = unit * scale + location
    ids, categories               (S,)       str

Nothing is compressed. Points hardly compress, and a slice of them is one read at a known offset.
`Shard` asks HDF5 only for these offsets and then reads the file itself, because HDF5 reads at least
64 kB at a time, five times what a training sample needs. Shards are written under a temporary name
and renamed, so a shard that exists is complete.
"""

import hashlib
import math
import os
import weakref
from collections import deque
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from occvae.data.manifest import FORMAT_VERSION, ShardEntry, check_version
from occvae.data.points import decode_points
from occvae.data.sample import Sample
from occvae.data.sources import CONTINUES, machine_failure
from occvae.errors import UserError
from occvae.system.atomic_write import write_whole


def write_shard(path: Path, samples: list[Sample]) -> None:
    """Writes samples of equal layout to a shard. `path` appears only when it is complete.

    Raises:
        UserError: it cannot be written, for example because the disk is full.
    """
    try:
        content = _encode(samples)
    except MemoryError:
        raise UserError(f"{path}: out of memory; {CONTINUES}") from None
    write_whole(path, lambda temporary: temporary.write_bytes(content), CONTINUES)


def _encode(samples: list[Sample]) -> bytes:
    """The bytes of the file. They are made in memory, because HDF5 aborts if the disk is full."""
    with h5py.File("shard", "w", driver="core", backing_store=False) as file:
        file.attrs["format_version"] = FORMAT_VERSION
        for name, array in _arrays(samples).items():
            file.create_dataset(name, data=array)
        for name, texts in (
            ("ids", [sample.id for sample in samples]),
            ("categories", [sample.category for sample in samples]),
        ):
            file.create_dataset(name, data=texts, dtype=h5py.string_dtype())
        file.flush()
        return file.id.get_file_image()


def _arrays(samples: list[Sample]) -> dict[str, np.ndarray]:
    first = samples[0]
    blobs = [blob for sample in samples for blob in sample.images]
    ends = np.cumsum([len(blob) for blob in blobs], dtype=np.int64)
    arrays: dict[str, np.ndarray] = {
        "image_bytes": np.frombuffer(b"".join(blobs), np.uint8),
        "image_ends": ends.reshape(len(samples), -1),
        "locations": np.array([sample.location for sample in samples], np.float64),
        "scales": np.array([sample.scale for sample in samples], np.float64),
    }
    for name in ("points", "near_points", "surface_points", "surface_normals"):
        if getattr(first, name) is not None:
            arrays[name] = np.stack([getattr(sample, name) for sample in samples])
    for name in ("occupancies", "near_occupancies"):
        if getattr(first, name) is not None:
            arrays[name] = np.stack([np.packbits(getattr(sample, name)) for sample in samples])
    for name in ("extrinsics", "intrinsics"):
        if getattr(first, name) is not None:
            arrays[name] = np.stack([getattr(sample, name) for sample in samples]).astype(
                np.float32
            )
    arrays |= _mesh_arrays(samples)
    for resolution in first.voxels:
        bits = [np.packbits(sample.voxels[resolution]) for sample in samples]
        arrays[_voxels_name(resolution)] = np.stack(bits)
    return arrays


def _mesh_arrays(samples: list[Sample]) -> dict[str, np.ndarray]:
    """Arrays of the meshes. Left out if all are empty, because HDF5 gives these no offset."""
    none = np.empty((0, 3), np.uint16)
    vertices = [none if s.mesh_vertices is None else s.mesh_vertices for s in samples]
    faces = [none if s.mesh_faces is None else s.mesh_faces for s in samples]
    if not any(map(len, faces)):
        return {}
    counts = [(len(points), len(corners)) for points, corners in zip(vertices, faces, strict=True)]
    return {
        "mesh_vertices": np.concatenate(vertices),
        "mesh_faces": np.concatenate(faces),
        "mesh_ends": np.cumsum(counts, axis=0, dtype=np.int64),
    }


def _voxels_name(resolution: int | str) -> str:
    return f"voxels_{resolution}"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Errors that h5py raises on damaged files and on files that are not shards.
_H5PY_ERRORS = (OSError, KeyError, RuntimeError, ValueError)
REPAIR = "delete it and run the command that built the dataset again"

# Shards of this process with an open file. A dataset may have more shards than a process may open.
_open_shards: deque["weakref.ref[Shard]"] = deque()
_MAX_OPEN = 64

# Optional arrays. Their names are those of the fields of a sample.
_OPTIONAL = (
    "points",
    "occupancies",
    "near_points",
    "near_occupancies",
    "surface_points",
    "surface_normals",
    "extrinsics",
    "intrinsics",
)


@dataclass(frozen=True)
class _Array:
    """Position of an array in the file, in bytes. Its elements are in C order."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype


class Shard:
    """Reads one shard. It can be pickled for worker processes and used after a fork.

    In all methods, `index` is the number of a shape within the shard.

    Args:
        root: folder of the dataset.
        entry: the manifest's entry for the shard.

    Attributes:
        path: path of the file.
        ids: id of each shape.
        categories: category of each shape.
        num_points: uniform points per shape, 0 if absent.
        num_near_points: points near the surface per shape, 0 if absent.
        num_surface_points: points on the surface per shape, 0 if absent.
        num_views: images per shape.
        voxel_resolutions: resolutions of the voxel grids, in ascending order.
        has_cameras: whether there are extrinsics and intrinsics.
        num_meshes: number of shapes with a mesh.

    Raises:
        UserError: the file is missing, damaged, or of another format version.
    """

    def __init__(self, root: Path, entry: ShardEntry):
        self.path = Path(root) / entry.file
        self._file: FileIO | None = None  # opened by the first read
        self._check_size(entry)
        try:
            # No locking: shards never change, and many network file systems do not support locks.
            with h5py.File(self.path, "r", locking=False) as file:
                self._read_layout(file, entry.num_bytes)
        except _H5PY_ERRORS as error:
            raise self._unreadable(error) from None

    def __len__(self) -> int:
        return len(self.ids)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def points(self, index: int, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Reads a contiguous slice of a shape's uniform points.

        Args:
            index: number of the shape within the shard.
            start: first point. It must be a multiple of 8, because occupancies are packed bits.
            count: number of points.

        Returns:
            Coordinates (count, 3) float32 in the unit frame, and occupancies (count,) bool.
        """
        return self._slice("points", "occupancies", index, start, count)

    def near_points(self, index: int, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Reads a contiguous slice of the points near the surface, like `points`."""
        return self._slice("near_points", "near_occupancies", index, start, count)

    def surface(self, index: int, count: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Points on the surface and their normals, (P, 3) float32 each.

        Args:
            index: number of the shape within the shard.
            count: number of points, the first ones, at most all; None for all.
        """
        points = decode_points(self.row("surface_points", index)[:count])
        return points, self.row("surface_normals", index)[:count].astype(np.float32)

    def surface_points(self, index: int, rows: np.ndarray) -> np.ndarray:
        """Chosen points on the surface, (N, 3) float32.

        Args:
            index: number of the shape within the shard.
            rows: (N,) integer numbers of the points, below `num_surface_points`.
        """
        return decode_points(self.row("surface_points", index)[rows])

    def mesh(self, index: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Vertices (V, 3) float32 and faces (F, 3) int64 of the surface, or None if not stored."""
        vertices, faces = self._stored_mesh(index)
        if vertices is None or faces is None:
            return None
        return decode_points(vertices), faces.astype(np.int64)

    def packed_voxels(self, index: int, resolution: int | None = None) -> np.ndarray:
        """Packed bits (ceil(R^3 / 8),) uint8 of a voxel grid, by default of the coarsest."""
        return self.row(_voxels_name(resolution or self.voxel_resolutions[0]), index)

    def voxels(self, index: int, resolution: int | None = None) -> np.ndarray:
        """A voxel grid (R, R, R) bool indexed [x, y, z], by default the coarsest."""
        edge = resolution or self.voxel_resolutions[0]
        bits = np.unpackbits(self.packed_voxels(index, edge), count=edge**3)
        return bits.reshape(edge, edge, edge).view(bool)

    def image(self, index: int, view: int) -> bytes:
        """The encoded bytes of one image."""
        flat = index * self.num_views + view
        start = int(self._image_ends[flat - 1]) if flat else 0
        return self._read("image_bytes", start, int(self._image_ends[flat]) - start).tobytes()

    def extrinsics(self, index: int, view: int) -> np.ndarray:
        """Camera matrix (3, 4) float32, unit coordinates to camera coordinates."""
        return self.row("extrinsics", index)[view]

    def intrinsics(self, index: int, view: int) -> np.ndarray:
        """Camera matrix (3, 3) float32, camera coordinates to pixels."""
        return self.row("intrinsics", index)[view]

    def original_frame(self, index: int) -> tuple[np.ndarray, float]:
        """Location (3,) and scale, where original = unit * scale + location."""
        return self.row("locations", index), float(self.row("scales", index))

    def row(self, name: str, index: int) -> np.ndarray:
        """The row of an array that belongs to one shape, as it is stored.

        Args:
            name: name of an array with one row per shape, see the top of this file.
            index: number of the shape within the shard.
        """
        shape = self._arrays[name].shape[1:]
        size = math.prod(shape)
        return self._read(name, index * size, size).reshape(shape)

    def sample(self, index: int) -> Sample:
        """Everything that is stored for a shape, as it was written. Only its note is None."""
        views = range(self.num_views)
        present: dict[str, Any] = {
            name: self.row(name, index) for name in self._arrays if name in _OPTIONAL
        }
        for name, count in (
            ("occupancies", self.num_points),
            ("near_occupancies", self.num_near_points),
        ):
            if name in present:
                present[name] = np.unpackbits(present[name], count=count).view(bool)
        location, scale = self.original_frame(index)
        mesh_vertices, mesh_faces = self._stored_mesh(index)
        return Sample(
            id=self.ids[index],
            category=self.categories[index],
            images=[self.image(index, view) for view in views],
            voxels={edge: self.voxels(index, edge) for edge in self.voxel_resolutions},
            location=location,
            scale=scale,
            mesh_vertices=mesh_vertices,
            mesh_faces=mesh_faces,
            **present,
        )

    def _stored_mesh(self, index: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Vertices and faces as they are stored, or None twice for a shape without a mesh."""
        if "mesh_ends" not in self._arrays:
            return None, None
        ends = self.row("mesh_ends", index)
        starts = self.row("mesh_ends", index - 1) if index else np.zeros_like(ends)
        if ends[1] == starts[1]:
            return None, None
        vertices, faces = (
            self._read(name, 3 * int(start), 3 * int(end - start)).reshape(-1, 3)
            for name, start, end in zip(("mesh_vertices", "mesh_faces"), starts, ends, strict=True)
        )
        return vertices, faces

    def _slice(
        self, points: str, occupancies: str, index: int, start: int, count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        stored = self._read(points, 3 * (index * self._arrays[points].shape[1] + start), 3 * count)
        first = index * self._arrays[occupancies].shape[1] + start // 8
        packed = self._read(occupancies, first, (count + 7) // 8)
        inside = np.unpackbits(packed, count=count).view(bool)
        return decode_points(stored.reshape(count, 3)), inside

    def _read(self, name: str, first: int, count: int) -> np.ndarray:
        """Reads `count` consecutive elements of an array, the first at flat index `first`."""
        array = self._arrays[name]
        content = np.empty(count, array.dtype)
        try:
            # preadv takes an offset, so processes can share the open file.
            file = self._open()
            size = os.preadv(
                file.fileno(), [content.data], array.offset + first * array.dtype.itemsize
            )
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror})") from None
        if size < content.nbytes:
            raise self._damaged(f"{name} ends at {size} of {content.nbytes} bytes")
        return content

    def _open(self) -> FileIO:
        """Opens the file. If too many are open, the one that was opened first is closed."""
        file = self._file
        if file is None:
            file = self._file = FileIO(self.path)
            _open_shards.append(weakref.ref(self))
            if len(_open_shards) > _MAX_OPEN and (oldest := _open_shards.popleft()()) is not None:
                oldest._file = None  # closes the file once no other thread reads from it
        return file

    def _check_size(self, entry: ShardEntry) -> None:
        if not self.path.is_file():
            raise UserError(
                f"{self.path}: the shard is missing; {REPAIR.removeprefix('delete it and ')}"
            )
        size = self.path.stat().st_size
        if size != entry.num_bytes:
            raise UserError(
                f"{self.path}: {size} bytes where the manifest says {entry.num_bytes} (the file "
                f"was truncated or changed); {REPAIR}"
            )

    def _read_layout(self, file: h5py.File, num_bytes: int) -> None:
        check_version(self.path, int(file.attrs.get("format_version", 0)))
        self.ids = [text.decode() for text in file["ids"][:]]
        self.categories = [text.decode() for text in file["categories"][:]]
        counts = {
            name: file[name].shape[1] if name in file else 0
            for name in ("points", "near_points", "surface_points")
        }
        self.num_points, self.num_near_points, self.num_surface_points = counts.values()
        self.num_views = file["image_ends"].shape[1]
        # Kept in memory, because each image needs two of them: 12 kB for 64 shapes with 24 views.
        self._image_ends = file["image_ends"][:].reshape(-1)
        self.has_cameras = "extrinsics" in file
        face_ends = file["mesh_ends"][:, 1] if "mesh_ends" in file else np.zeros(len(self.ids))
        self.num_meshes = int(np.count_nonzero(np.diff(face_ends, prepend=0)))
        grids = [name for name in file if name.startswith(_voxels_name(""))]
        self.voxel_resolutions = sorted(int(name.removeprefix(_voxels_name(""))) for name in grids)
        self._arrays = {
            name: _find_array(dataset, num_bytes)
            for name, dataset in file.items()
            if name not in ("ids", "categories")
        }

    def _unreadable(self, error: Exception) -> UserError:
        if failure := machine_failure(error):
            return UserError(f"{self.path}: cannot be read ({failure})")
        return self._damaged(error)

    def _damaged(self, error: Exception | str) -> UserError:
        return UserError(
            f"{self.path}: damaged or not a shard ({' '.join(str(error).split())}); {REPAIR}"
        )


def _find_array(dataset: h5py.Dataset, num_bytes: int) -> _Array:
    offset = dataset.id.get_offset() if isinstance(dataset, h5py.Dataset) else None
    if offset is None or offset + dataset.nbytes > num_bytes:
        raise ValueError("an array is not stored as one contiguous block")
    return _Array(offset, dataset.shape, dataset.dtype)

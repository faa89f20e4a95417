"""Reads point clouds from files, and centers and scales them as a model expects them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from occvae.errors import UserError
from occvae.geometry.mesh_files.ply import read_ply
from occvae.geometry.mesh_files.text import plain_text
from occvae.ops.inside_mesh import GREATEST_COORDINATE

ENDINGS = (".ply", ".xyz", ".npz", ".npy")
"""Endings of files that hold point clouds, in lower case."""
# Clouds in the unit cube reach this far with their noise.
_FARTHEST = 0.6


@dataclass(frozen=True)
class Scan:
    """A point cloud in the unit cube: original coordinates are points * scale + location.

    Attributes:
        points: (N, 3) float32.
        location: (3,) float64, center of the object's bounding box in original coordinates.
        scale: longest edge of that box.
        notes: what was done to the points, in words.
    """

    points: np.ndarray
    location: np.ndarray
    scale: float
    notes: list[str]


def load_scan(
    source: str | Path | np.ndarray,
    *,
    num_points: int | None = None,
    box: tuple[float, ...] | None = None,
    seed: int = 0,
) -> Scan:
    """Loads a point cloud and moves and scales it to the unit cube.

    Training shapes have a bounding box that is centered at 0, with a longest edge of 1. The same is
    done with the box of the points. If the points show a part of an object only, give the box of
    the whole object instead. Points that are not finite, or lie outside a given box, are left out,
    and a note says how many.

    Args:
        source: a file with one of `ENDINGS`, or an array (N, 3 or more). Normals, colors and faces
            are ignored.
        num_points: largest number of points to keep. They are chosen at random. None keeps all.
        box: x, y, z of the lower corner of the object, then of the upper corner, in original
            coordinates. None takes the bounding box of the points.
        seed: seed of the choice of points.

    Raises:
        UserError: the file cannot be read, has no points, all points are at one place, or the box
            is empty or holds no points.
    """
    name = str(source) if isinstance(source, str | Path) else "the point cloud"
    try:
        points = source if isinstance(source, np.ndarray) else _read(Path(source))
        return _to_unit_cube(_check_shape(points), num_points, box, seed)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def check_cloud(points: np.ndarray) -> np.ndarray:
    """Returns a cloud (N, 3) that is in the unit cube already as float32.

    Raises:
        UserError: it has another shape, no points, or points that are not finite or outside.
    """
    if points.ndim != 2 or points.shape[1] != 3 or not len(points):
        raise UserError(f"a point cloud must be (N, 3) and not empty, got {points.shape}")
    if not np.isfinite(points).all():
        raise UserError("the point cloud has points that are not finite")
    farthest = float(np.abs(points).max())
    if farthest > _FARTHEST:
        raise UserError(
            f"the point cloud reaches {farthest:.3g}, outside the unit cube [-0.5, 0.5]; "
            "occvae.observations.scans.load_scan centers and scales it"
        )
    return points.astype(np.float32)


def _to_unit_cube(
    points: np.ndarray, num_points: int | None, box: tuple[float, ...] | None, seed: int
) -> Scan:
    notes: list[str] = []
    finite = np.abs(points) <= GREATEST_COORDINATE
    points = _keep(points, np.all(finite, axis=1), "are not finite", notes)
    if box is None:
        low, high = points.min(0), points.max(0)
    else:
        low, high = _corners(box)
        inside = (points >= low) & (points <= high)
        points = _keep(points, np.all(inside, axis=1), "are outside the box", notes)
    location, scale = low + (high - low) / 2, float((high - low).max())
    if scale < np.finfo(np.float64).tiny:
        raise UserError("all points are at one place")
    count = len(points)
    if num_points is not None and num_points < count:
        rows = np.random.default_rng(seed).choice(count, num_points, replace=False)
        points = points[rows]
        notes.append(f"{num_points} of {count} points used")
    center = ", ".join(f"{value:.4g}" for value in location)
    notes.append(f"centered at ({center}) and scaled by 1/{scale:.4g}")
    return Scan(((points - location) / scale).astype(np.float32), location, scale, notes)


def _keep(points: np.ndarray, chosen: np.ndarray, what: str, notes: list[str]) -> np.ndarray:
    """Returns the chosen points, and adds a note of how many are left out."""
    if not chosen.any():
        raise UserError(f"all {len(points)} points {what}" if len(points) else "has no points")
    if not chosen.all():
        notes.append(f"{(~chosen).sum()} of {len(points)} points {what} and left out")
    return points[chosen]


def _corners(box: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    corners = np.array(box, np.float64)
    if corners.shape != (6,) or not np.isfinite(corners).all():
        raise UserError(f"a box has six numbers, the lower and the upper corner; got {box}")
    if (corners[:3] >= corners[3:]).any():
        raise UserError(f"the lower corner of the box must be below the upper one; got {box}")
    return corners[:3], corners[3:]


def _check_shape(points: np.ndarray) -> np.ndarray:
    if points.dtype.kind not in "fiu" or points.ndim != 2 or points.shape[1] < 3:
        raise UserError(f"expected numbers (N, 3), got {points.dtype} {points.shape}")
    with np.errstate(all="ignore"):
        return np.asarray(points[:, :3], np.float64)


def _read(path: Path) -> np.ndarray:
    if not path.is_file():
        raise UserError("no such file")
    readers = {".ply": _read_ply, ".xyz": _read_xyz, ".npz": _read_npz, ".npy": _read_npy}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"not a point cloud; expected a file ending in {', '.join(ENDINGS)}")
    try:
        return reader(path)
    except MemoryError:
        raise UserError("too large for the memory") from None
    except OSError as error:
        raise UserError(error.strerror or str(error)) from None


def _read_ply(path: Path) -> np.ndarray:
    with np.errstate(all="ignore"):
        return read_ply(path.read_bytes())[0]


def _read_xyz(path: Path) -> np.ndarray:
    lines = plain_text(path.read_bytes()).decode("utf-8", "replace").split("\n")
    lines = [line for line in lines if line.strip()]
    if not lines:
        raise UserError("has no points")
    try:
        return np.loadtxt(
            lines,
            delimiter="," if "," in lines[0] else None,
            usecols=(0, 1, 2),
            ndmin=2,
            comments=None,
        )
    except (ValueError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"not lines of at least three numbers ({reason[:120]})") from None


def _read_npz(path: Path) -> np.ndarray:
    """The array `points`, as in the datasets of Occupancy Networks, or else the only array."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = archive.files
            if "points" not in names and len(names) != 1:
                raise UserError(f"has no array points; its arrays are {', '.join(names) or 'none'}")
            return archive["points" if "points" in names else names[0]]
    except UserError:
        raise
    except Exception as error:  # numpy and zipfile raise many kinds of errors on damaged files
        raise UserError(f"not a readable .npz archive ({type(error).__name__})") from None


def _read_npy(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except Exception as error:  # numpy raises many kinds of errors on damaged files
        raise UserError(f"not a readable .npy file ({type(error).__name__})") from None

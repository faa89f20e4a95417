"""Scans of all formats are centered and scaled like training shapes, or refused in one line."""

import io

import numpy as np
import pytest

from occvae.errors import UserError
from occvae.observations.scans import load_scan

POINTS = np.random.default_rng(0).uniform((-4, 10, 2), (6, 12, 3), (50, 3)).round(6)


def binary_ply(points: np.ndarray) -> bytes:
    """Positions between other properties, as scanners write them, and faces."""
    kinds = [("nx", "<f4"), ("x", "<f8"), ("y", "<f8"), ("z", "<f8"), ("red", "u1")]
    rows = np.zeros(len(points), kinds)
    for axis, name in enumerate("xyz"):
        rows[name] = points[:, axis]
    names = {"<f4": "float", "<f8": "double", "u1": "uchar"}
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}"]
    header += [f"property {names[kind]} {name}" for name, kind in kinds]
    return "\n".join([*header, "end_header", ""]).encode() + rows.tobytes()


def text_ply(points: np.ndarray) -> bytes:
    header = ["ply", "format ascii 1.0", "comment a scan", f"element vertex {len(points)}"]
    header += [f"property float {name}" for name in ("x", "y", "z")]
    header += [f"property uchar {name}" for name in ("red", "green", "blue")]
    lines = [" ".join(map(repr, map(float, point))) + " 1 2 3" for point in points]
    return "\n".join([*header, "end_header", *lines, ""]).encode()


def text(points: np.ndarray, separator: str = " ", more: str = "", start: str = "") -> bytes:
    lines = [separator.join(repr(float(value)) for value in point) + more for point in points]
    return (start + "\n".join(lines)).encode()


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


FILES = {
    "text.ply": text_ply(POINTS),
    "binary.PLY": binary_ply(POINTS),
    "plain.xyz": text(POINTS),
    "normals.xyz": text(POINTS, more=" 0 0 1", start="# x y z nx ny nz\n\n"),
    "commas.xyz": text(POINTS, ", ", ", 255, 0, 0"),
    "windows.xyz": b"\xef\xbb\xbf" + text(POINTS, "\t").replace(b"\n", b"\r\n") + b"\r\n\r\n",
    "a.npy": npy(POINTS),
    "colors.npy": npy(np.hstack([POINTS, POINTS])),
    "onet.npz": npz(points=POINTS, normals=-POINTS, loc=np.zeros(3)),
    "one.npz": npz(cloud=POINTS),
}


@pytest.mark.parametrize("name", FILES)
def test_all_formats_are_centered_and_scaled_alike(tmp_path, name):
    (tmp_path / name).write_bytes(FILES[name])
    scan = load_scan(tmp_path / name)
    assert scan.points.dtype == np.float32 and scan.points.shape == (50, 3)
    low, high = POINTS.min(0), POINTS.max(0)
    np.testing.assert_allclose(scan.location, (low + high) / 2)
    assert scan.scale == pytest.approx((high - low).max())
    np.testing.assert_allclose(scan.points * scan.scale + scan.location, POINTS, atol=1e-5)
    assert np.ptp(scan.points, axis=0).max() == pytest.approx(1.0)
    np.testing.assert_allclose(scan.points.min(0), -scan.points.max(0), atol=1e-6)
    [note] = scan.notes
    assert note.startswith("centered at (") and "and scaled by 1/9." in note


def test_points_are_chosen_at_random(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, POINTS)
    scan = load_scan(path, num_points=20)
    everything = load_scan(path)
    assert scan.points.shape == (20, 3) and scan.scale == everything.scale
    assert len(np.unique(scan.points, axis=0)) == 20
    assert {tuple(p) for p in scan.points} <= {tuple(p) for p in everything.points}
    assert scan.notes[0] == "20 of 50 points used"
    assert not np.array_equal(scan.points, load_scan(path, num_points=20, seed=1).points)
    assert np.array_equal(scan.points, load_scan(path, num_points=20).points)
    assert len(load_scan(path, num_points=50).notes) == 1


def test_millions_of_points_are_read():
    points = np.random.default_rng(0).random((2_000_000, 3), np.float32)
    scan = load_scan(points, num_points=300)
    assert scan.points.shape == (300, 3) and scan.scale == pytest.approx(1.0, abs=1e-4)


def test_a_box_replaces_the_box_of_the_points():
    box = (-10.0, 8.0, 0.0, 10.0, 12.0, 4.0)
    scan = load_scan(POINTS, box=box)
    assert scan.scale == 20.0 and scan.location.tolist() == [0.0, 10.0, 2.0]
    np.testing.assert_allclose(scan.points * 20.0 + [0, 10, 2], POINTS, atol=1e-5)
    half = load_scan(POINTS, box=(-10.0, 8.0, 0.0, 1.0, 12.0, 4.0))
    kept = (POINTS[:, 0] <= 1.0).sum()
    assert len(half.points) == kept
    assert half.notes[0] == f"{50 - kept} of 50 points are outside the box and left out"
    unit = load_scan(POINTS / 20.0, box=(-0.5, -0.5, -0.5, 0.5, 0.7, 0.5))
    assert unit.scale == pytest.approx(1.2)


def test_points_that_are_not_finite_are_left_out_and_counted():
    points = POINTS.copy()
    points[3, 1], points[7], points[9, 0] = np.nan, np.inf, 1e300
    scan = load_scan(points)
    assert len(scan.points) == 47 and np.isfinite(scan.points).all()
    assert scan.notes[0] == "3 of 50 points are not finite and left out"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.ply", b"", "it does not begin with ply"),
        ("a.ply", text_ply(POINTS)[:-200], "vertex"),
        ("a.ply", text_ply(np.empty((0, 3))), "has no points"),
        ("a.xyz", b"", "has no points"),
        ("a.xyz", b"# nothing\n", "has no points"),
        ("a.xyz", b"1 2\n3 4\n", "not lines of at least three numbers"),
        ("a.xyz", b"1 2 3\n4 five 6\n", "not lines of at least three numbers"),
        ("a.xyz", b"0,5 1,5 2,5\n0,5 1,5 2,7\n", "not lines of at least three numbers"),
        ("a.xyz", b"\0\0\1\0", "not text"),
        ("a.xyz", b"nan nan nan\n", "all 1 points are not finite"),
        ("a.npy", b"nonsense", "not a readable .npy file"),
        ("a.npy", npy(np.zeros((0, 3))), "has no points"),
        ("a.npy", npy(np.zeros((4, 2))), "expected numbers (N, 3), got float64 (4, 2)"),
        ("a.npy", npy(np.zeros((4, 3, 3))), "expected numbers (N, 3), got float64 (4, 3, 3)"),
        ("a.npy", npy(np.array(["a", "b"])), "expected numbers (N, 3), got <U1 (2,)"),
        ("a.npy", npy(np.array([{}], object)), "not a readable .npy file"),
        ("a.npy", npy(np.full((4, 3), np.nan)), "all 4 points are not finite"),
        ("a.npy", npy(np.full((4, 3), 7.0)), "all points are at one place"),
        ("a.npy", npy(np.zeros((1, 3))), "all points are at one place"),
        ("a.npz", b"PK", "not a readable .npz archive"),
        ("a.npz", npz(a=POINTS, b=POINTS), "has no array points; its arrays are a, b"),
        ("a.obj", b"v 1 2 3\n", "expected a file ending in .ply, .xyz, .npz, .npy"),
        ("a.xyz", None, "no such file"),
    ],
)
def test_files_that_cannot_be_used_are_refused_in_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_scan(path, num_points=10)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and message in text and "\n" not in text


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((0, 0, 0, 1, 1), "a box has six numbers"),
        ((0, 0, 0, 1, np.nan, 1), "a box has six numbers"),
        ((0, 0, 0, 1, 0, 1), "the lower corner of the box must be below the upper one"),
        ((100, 100, 100, 101, 101, 101), "all 50 points are outside the box"),
    ],
)
def test_wrong_boxes_are_refused(box, message):
    with pytest.raises(UserError, match=message):
        load_scan(POINTS, box=box)

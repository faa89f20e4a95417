"""Imports of voxel archives in all documented forms, and refusals of others."""

import errno
import os
import shutil
import zipfile

import numpy as np
import pytest
import scipy.io

from occvae.data.formats.voxels import VoxelArchiveSource, VoxelShape
from occvae.errors import UserError
from tests.data.readers.binvox_writer import write_binvox

GRIDS = np.random.default_rng(0).random((9, 4, 4, 4)) < 0.4
PACKED = np.packbits(GRIDS.reshape(9, -1), axis=1)


def archive(tmp_path, name: str = "shapes", **content) -> str:
    path = tmp_path / f"{name}.npz"
    np.savez_compressed(path, **content)
    return str(path)


@pytest.mark.parametrize(
    "content",
    [
        {"voxels": GRIDS},
        {"voxels": GRIDS.astype(np.uint8)},
        {"voxels": GRIDS.astype(np.uint8) * 255},
        {"voxels": np.where(GRIDS, 0.5, 0.49).astype(np.float16)},
        {"voxels": np.where(GRIDS, 1.0, np.nan)},
        {"voxels": PACKED, "resolution": 4},
    ],
    ids=["bool", "uint8", "bytes", "float16", "nan", "packed"],
)
def test_all_forms_hold_the_same_grids(tmp_path, content):
    source = VoxelArchiveSource([archive(tmp_path, **content)], up="y")
    found = [source.shape(index).grid for index in range(len(source.items))]
    np.testing.assert_array_equal(found, GRIDS)
    assert not source.skipped


def test_packed_bits_of_an_odd_resolution_are_read(tmp_path):
    grids = np.random.default_rng(1).random((2, 3, 3, 3)) < 0.5
    bits = np.packbits(grids.reshape(2, -1), axis=1)
    source = VoxelArchiveSource([archive(tmp_path, voxels=bits, resolution=3)], up="y")
    np.testing.assert_array_equal([source.shape(0).grid, source.shape(1).grid], grids)


def test_z_up_is_turned_to_y_up_with_the_front_towards_z(tmp_path):
    grids = np.zeros((3, 5, 5, 5), bool)
    grids[0, 4, 2, 2] = True  # on the right
    grids[1, 2, 0, 2] = True  # in front: towards -y
    grids[2, 2, 2, 4] = True  # on top: +z
    source = VoxelArchiveSource([archive(tmp_path, voxels=grids)])
    right, front, top = (np.argwhere(source.shape(index).grid).tolist() for index in range(3))
    assert (right, front, top) == ([[4, 2, 2]], [[2, 2, 4]], [[2, 4, 2]])


def test_id_category_and_split_have_defaults(tmp_path):
    source = VoxelArchiveSource([archive(tmp_path, "parts", voxels=GRIDS)])
    assert [item.id for item in source.items[:2]] == ["parts-00000", "parts-00001"]
    assert {item.category for item in source.items} == {"object"}
    assert [item.split for item in source.items] == ["train"] * 7 + ["val", "train"]


def test_columns_are_taken_from_the_archive(tmp_path):
    path = archive(
        tmp_path,
        voxels=GRIDS[:2],
        id=np.array([7, 9]),
        category=np.array([b"cup", b"jar"]),
        split=np.array(["val", "train"]),
    )
    first, second = VoxelArchiveSource([path]).items
    assert (first.id, first.category, first.split) == ("7", "cup", "val")
    assert (second.id, second.category, second.split) == ("9", "jar", "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"grid": GRIDS}, r"has no 'voxels' array \(found grid\)"),
        ({"voxels": GRIDS[:, :3]}, r"'voxels' is bool \(9, 3, 4, 4\); expected \(N, R, R, R\)"),
        ({"voxels": GRIDS[0, 0]}, r"'voxels' is bool \(4, 4\)"),
        ({"voxels": GRIDS[0, :3]}, r"'voxels' is bool \(1, 3, 4, 4\)"),
        ({"voxels": PACKED}, r"'voxels' is uint8 \(9, 8\)"),
        ({"voxels": PACKED, "resolution": 5}, r"'voxels' is uint8 \(9, 8\)"),
        ({"voxels": PACKED, "resolution": [4, 4]}, "an integer 'resolution'"),
        ({"voxels": PACKED, "resolution": "four"}, "an integer 'resolution'"),
        ({"voxels": GRIDS.astype(str)}, "expected bool or numbers"),
        ({"voxels": GRIDS.astype(complex)}, "expected bool or numbers"),
        ({"voxels": GRIDS.astype(object)}, "not a readable"),
        ({"voxels": GRIDS, "category": np.array(["a"] * 8)}, r"'category' has shape \(8,\)"),
        ({"voxels": GRIDS, "id": np.array("one")}, r"'id' has shape \(\); expected \(9,\)"),
        (
            {"voxels": GRIDS, "split": ["val"] * 8 + ["tset"]},
            "split 'tset' must be one of train",
        ),
        ({"voxels": GRIDS, "id": np.array([b"\xff"] * 9)}, "names that are not text"),
        ({"voxels": GRIDS[:0]}, "the files have no shapes"),
    ],
)
def test_wrong_content_is_described(tmp_path, content, message):
    path = archive(tmp_path, "bad", **content)
    with pytest.raises(UserError, match=f"no voxel file can be read: .*{message}") as caught:
        VoxelArchiveSource([path])
    assert "\n" not in str(caught.value)


def test_a_bad_archive_is_skipped_with_a_reason(tmp_path):
    good = archive(tmp_path, "good", voxels=GRIDS)
    late = archive(tmp_path, "late", voxels=GRIDS, split=["train"] * 8 + ["tset"])
    source = VoxelArchiveSource([late, good, str(tmp_path / "missing.npz")])
    assert {item.id.split("-")[0] for item in source.items} == {"good"}
    assert "'tset'" in source.skipped[late]
    assert "no such file" in source.skipped[str(tmp_path / "missing.npz")]


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut"])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "other.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"other\.npz: not a readable \.npz archive"):
        VoxelArchiveSource([path])


def write_all_kinds(folder) -> dict[str, str]:
    """Writes the first grid, or all of them, in each kind of file. Returns the paths by kind."""
    folder.mkdir(exist_ok=True)
    np.save(folder / "one.npy", GRIDS[0])
    np.save(folder / "all.npy", GRIDS.astype(np.float32))
    np.savez(folder / "one.npz", voxels=GRIDS[0])
    scipy.io.savemat(folder / "old.mat", {"Volume": GRIDS[0].astype(np.uint8)})
    variables = {"instance": GRIDS[0].astype(float), "name": "cup", "box": np.zeros((4, 3, 4))}
    scipy.io.savemat(folder / "new.mat", variables, do_compression=True)
    write_binvox(folder / "model.binvox", GRIDS[0])
    return {path.name: str(path) for path in folder.iterdir()}


def test_every_kind_of_file_holds_the_same_grids(tmp_path):
    for name, path in write_all_kinds(tmp_path).items():
        source = VoxelArchiveSource([path], up="y")
        found = [source.shape(index).grid for index in range(len(source.items))]
        np.testing.assert_array_equal(found, GRIDS if name == "all.npy" else GRIDS[:1])
        assert source.items[0].id == f"{name.split('.')[0]}-00000"


def test_the_content_decides_how_a_file_is_read(tmp_path):
    for number, path in enumerate(write_all_kinds(tmp_path).values()):
        for ending in (".npz", ".mat", ""):
            renamed = tmp_path / f"{number}{ending}"
            shutil.copy(path, renamed)
            np.testing.assert_array_equal(
                VoxelArchiveSource([renamed], up="y").shape(0).grid, GRIDS[0]
            )


def test_files_of_the_same_name_have_different_ids(tmp_path):
    for folder in ("a", "b"):
        write_all_kinds(tmp_path / folder)
    paths = [tmp_path / folder / "model.binvox" for folder in ("a", "b")]
    items = VoxelArchiveSource([*paths, tmp_path / "a" / "old.mat"]).items
    first, second = (path.with_suffix("").as_posix() for path in paths)
    assert [item.id for item in items] == [f"{first}-00000", f"{second}-00000", "old-00000"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npy", b"\x93NUMPY\x01", r"a\.npy: not a readable \.npy file"),
        ("a.npy", b"text", r"a\.npy: not a readable \.npy file"),
        ("a.mat", b"text", r"a\.mat: not a usable MATLAB file .*save it with -v7"),
        ("a.mat", b"MATLAB 7.3 MAT-file", r"a\.mat: not a usable MATLAB file .*save it with -v7"),
        ("a.binvox", b"text", r"a\.binvox: not a usable binvox file"),
        ("a.vox", b"VOX ", r"a\.vox: not a voxel file; expected \.npz, \.npy, \.mat, \.binvox"),
    ],
)
def test_damaged_and_unknown_files_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        VoxelArchiveSource([tmp_path / name])
    assert "\n" not in str(caught.value)


def test_a_cut_or_odd_array_is_refused(tmp_path):
    whole = write_all_kinds(tmp_path)["all.npy"]
    (tmp_path / "cut.npy").write_bytes(open(whole, "rb").read()[:-1])
    np.save(tmp_path / "flat.npy", GRIDS[0].reshape(-1))
    np.save(tmp_path / "objects.npy", np.array([None] * 8).reshape(2, 2, 2))
    for name, message in (
        ("cut", "not a readable"),
        ("flat", r"is bool \(64,\); expected \(N, R, R, R\)"),
        ("objects", "not a readable"),
    ):
        with pytest.raises(UserError, match=rf"{name}\.npy: .*{message}"):
            VoxelArchiveSource([tmp_path / f"{name}.npy"])


def test_a_matlab_file_needs_exactly_one_grid(tmp_path):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"a": GRIDS[0].astype(float), "b": GRIDS[1].astype(float)})
    with pytest.raises(UserError, match=r"a\.mat has several \(R, R, R\) arrays \(a, b\)"):
        VoxelArchiveSource([path])
    scipy.io.savemat(path, {"a": np.zeros((3, 4, 4)), "b": "text"})
    with pytest.raises(UserError, match=r"a\.mat has no \(R, R, R\) array \(found a, b\)"):
        VoxelArchiveSource([path])


def write_raw(path, header: bytes) -> str:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("voxels.npy", header)
    return str(path)


def test_a_wrong_header_skips_only_its_archive(tmp_path):
    good = archive(tmp_path, "good", voxels=GRIDS)
    text = "{'descr': '|b1', 'fortran_order': False, 'shape': (900000000, 64, 64, 64), }"
    huge = b"\x93NUMPY\x01\x00v\x00" + text.ljust(117).encode() + b"\n"
    bad = [
        write_raw(tmp_path / "huge.npz", huge + b"1234"),
        write_raw(tmp_path / "open.npz", huge.replace(b"}", b"(") + b"1234"),
    ]
    source = VoxelArchiveSource([*bad, good])
    assert len(source.items) == 9 and source.skipped.keys() == set(bad)
    assert "but it has 132 bytes" in source.skipped[bad[0]]


def test_an_archive_without_permission_ends_the_import(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    paths = [archive(tmp_path, name, voxels=GRIDS) for name in ("a", "b")]
    monkeypatch.setattr(np, "load", refuse)
    with pytest.raises(
        UserError, match=r"a\.npz: Permission denied; fix that and run the same command again"
    ):
        VoxelArchiveSource(paths)


def test_every_eighth_shape_of_many_archives_is_held_out(tmp_path):
    paths = [archive(tmp_path, name, voxels=GRIDS[:3]) for name in "abcdef"]
    held_out = [item.id for item in VoxelArchiveSource(paths).items if item.split == "val"]
    assert held_out == ["c-00001", "f-00000"]


def test_folders_and_pipes_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    for path in (tmp_path, tmp_path / "pipe.npz"):
        with pytest.raises(UserError, match="not a readable"):
            VoxelArchiveSource([path])


def test_random_damage_raises_only_user_errors(tmp_path):
    path = archive(tmp_path, voxels=GRIDS)
    whole = open(path, "rb").read()
    rng = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[rng.integers(len(damaged))] = rng.integers(256)
        open(path, "wb").write(damaged)
        try:
            VoxelArchiveSource([path])
        except UserError:
            pass


def test_wrong_arguments_are_refused():
    with pytest.raises(UserError, match="up must be 'y' or 'z', got 'x'"):
        VoxelArchiveSource([], up="x")


def test_points_in_occupied_cells_are_inside_a_voxel_shape():
    shape = VoxelShape(GRIDS[0])
    points = np.random.default_rng(2).uniform(-0.55, 0.55, (500, 3))
    for point, inside in zip(points, shape.contains(points), strict=True):
        cell = np.floor((point + 0.5) * 4).astype(int)
        expected = bool((0 <= cell).all() and (cell < 4).all() and GRIDS[0][tuple(cell)])
        assert inside == expected

"""Imports of mesh folders: their splits and categories, and the sample of a mesh."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import trimesh

from occvae.cli import main as cli
from occvae.data.build import build_dataset, verify_dataset
from occvae.data.formats.meshes import MeshSource
from occvae.data.points import dequantize_points
from occvae.data.shapes import ShapeSettings
from occvae.data.shards import Shard
from occvae.errors import UserError
from occvae.geometry import mesh_io
from occvae.images.io import load_square_image
from tests.mesh_builders import box, sphere

SETTINGS = ShapeSettings(
    num_points=512,
    num_near_points=512,
    num_surface_points=256,
    training_surface=True,
    voxel_resolutions=(8, 16),
    num_views=2,
    image_size=32,
)
LOW, HIGH = [2.0, 0.0, 0.0], [4.0, 1.0, 0.5]  # of a box


def write(path: Path, low=LOW, high=HIGH) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    vertices, faces = box(low, high)
    trimesh.Trimesh(vertices.numpy(), faces.numpy(), process=False).export(path)
    return path


def splits(source) -> dict[str, str]:
    return {item.id: item.split for item in source.items}


def test_a_mesh_becomes_a_sample(tmp_path):
    write(tmp_path / "box.off")
    source = MeshSource(tmp_path / "box.off", SETTINGS)
    sample = source.sample(0)
    sample.check()
    assert sample.scale == 2 and sample.location.tolist() == [3, 0.5, 0.25]
    assert sample.note == "watertight; inside by crossing parity"
    assert sample.layout() == {
        "views": 2, "cameras": True, "points": [512, "uint16"], "near_points": [512, "uint16"],
        "surface_points": [256, "uint16"], "voxels": [8, 16],
    }  # fmt: skip
    half = np.array([0.5, 0.25, 0.125])
    for points, occupancies in (
        (sample.points, sample.occupancies), (sample.near_points, sample.near_occupancies)
    ):  # fmt: skip
        assert np.array_equal((abs(dequantize_points(points)) < half).all(1), occupancies)
    surface = dequantize_points(sample.surface_points) / half
    axis = np.abs(sample.surface_normals).argmax(1)
    on_face = np.take_along_axis(surface * sample.surface_normals, axis[:, None], 1)
    np.testing.assert_allclose(on_face, 1, atol=1e-3)  # and normals point outwards
    assert sample.voxels[8].sum() == 8 * 4 * 2
    spread = np.linalg.norm((dequantize_points(sample.near_points)), axis=1)
    assert 0.1 < spread.min() and sample.near_occupancies.mean() == pytest.approx(0.5, abs=0.15)


def test_cameras_project_the_shape_onto_its_image(tmp_path):
    write(tmp_path / "box.off")
    sample = MeshSource(tmp_path, SETTINGS).sample(0)
    points = dequantize_points(sample.surface_points)
    for image, extrinsics, intrinsics in zip(
        sample.images, sample.extrinsics, sample.intrinsics, strict=True
    ):
        seen = (load_square_image(image, SETTINGS.image_size) < 250).any(-1)
        camera = points @ extrinsics[:, :3].T + extrinsics[:, 3]
        pixels = camera @ intrinsics.T
        column, row = (pixels[:, :2] / pixels[:, 2:]).astype(int).T
        assert seen[row, column].mean() > 0.97
        assert np.ptp(column) > 0.9 * np.ptp(np.nonzero(seen)[1])


def test_z_up_meshes_are_turned_to_y_up(tmp_path):
    """Turning a box that is tall in z makes it tall in y, and moves its front from -y to +z."""
    write(tmp_path / "tower.off", [0, 0, 0], [1, 2, 4])
    assert np.argwhere(MeshSource(tmp_path, SETTINGS).sample(0).voxels[8])[:, 2].tolist()[-1] == 7
    sample = MeshSource(tmp_path, SETTINGS, up="z").sample(0)
    assert sample.voxels[8].any((0, 2)).all() and sample.voxels[8].any((0, 1)).sum() == 4
    assert sample.location.tolist() == [0.5, 2, -1]  # of the turned mesh
    with pytest.raises(UserError, match="up must be 'y' or 'z', got 'x'"):
        MeshSource(tmp_path, SETTINGS, up="x")


def test_categories_and_ids_are_folders_and_paths(tmp_path):
    for name in ("cup/a.off", "cup/deep/a.off", "jar/a.off", "jar/A.OBJ", "lone.stl"):
        write(tmp_path / name)
    (tmp_path / "jar" / "notes.txt").write_text("no mesh")
    source = MeshSource(tmp_path, SETTINGS)
    assert {item.id: item.category for item in source.items} == {
        "cup/a.off": "cup", "cup/deep/a.off": "cup", "jar/a.off": "jar", "jar/A.OBJ": "jar",
        "lone.stl": "object",
    }  # fmt: skip
    assert [item.category for item in source.items[:3]] == ["cup", "jar", "object"]
    assert source.skipped == {}


def test_every_eighth_shape_of_a_category_is_held_out(tmp_path):
    for number in range(24):
        for category in ("cup", "jar"):
            write(tmp_path / category / f"{number:02d}.off")
    source = MeshSource(tmp_path, SETTINGS)
    held_out = sorted(id for id, split in splits(source).items() if split == "val")
    assert held_out == [
        "cup/07.off", "cup/15.off", "cup/23.off", "jar/06.off", "jar/14.off", "jar/22.off"
    ]  # fmt: skip


@pytest.mark.parametrize("pattern", ["{split}/cup/{number}.off", "cup/{split}/{number}.off"])
def test_folders_name_splits(tmp_path, pattern):
    for split, count in (("train", 9), ("val", 2), ("test", 2)):
        for number in range(count):
            write(tmp_path / pattern.format(split=split, number=number))
    source = MeshSource(tmp_path, SETTINGS)
    assert all(split in id.split("/") for id, split in splits(source).items())
    assert {item.category for item in source.items} == {"cup"}


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_split_name_beside_categories_is_a_category(tmp_path, split, capsys):
    for category in ("bus", "car", split):
        for number in range(3):
            write(tmp_path / "in" / category / f"{number}.off")
    source = MeshSource(tmp_path / "in", SETTINGS)
    assert {item.id: item.category for item in source.items} == {
        f"{category}/{number}.off": category
        for category in ("bus", "car", split)
        for number in range(3)
    }
    assert source.split_like_categories == {Path(split)}
    options = "--points 8 --near-points 8 --surface-points 8 --voxels 8 --views 1 --workers 1"
    arguments = [str(tmp_path / "in"), str(tmp_path / "out"), *options.split()]
    assert not cli.main(["data", "import", "meshes", *arguments, "--image-size", "8"])
    assert f"in/{split}: imported as a category, not as a split" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        # Splits inside of categories, one of which has the name of a split.
        (
            ["bus/train/1.off", "bus/test/2.off", "train/train/3.off", "train/test/4.off"],
            [("bus", "train"), ("bus", "test"), ("train", "train"), ("train", "test")],
        ),
        # Categories inside of splits.
        (
            ["train/bus/1.off", "train/train/2.off", "val/bus/3.off", "val/train/4.off"],
            [("bus", "train"), ("train", "train"), ("bus", "val"), ("train", "val")],
        ),
        (["chair/1.off", "test/chair/2.off"], [("chair", "train"), ("chair", "test")]),
        (["bus/1.off", "train/2.off", "val/3.off"], [("bus", "train"), ("object", "train")]),
        (["cup/extra/1.off", "cup/test/2.off"], [("cup", "train"), ("cup", "test")]),
        (["1.off", "test/2.off"], [("object", "train"), ("object", "test")]),
    ],
)
def test_other_split_names_are_splits(tmp_path, files, expected):
    for name in files:
        write(tmp_path / name)
    found = {item.id: item for item in MeshSource(tmp_path, SETTINGS).items}
    for name, (category, split) in zip(files, expected, strict=False):
        assert found[name].category == category
        # Validation shapes are taken from train.
        assert found[name].split in ({"train", "val"} if split == "train" else {split})


def test_named_splits_without_val_take_it_from_train(tmp_path):
    """As in ModelNet: validation shapes come from train, and none from test."""
    for number in range(16):
        write(tmp_path / "cup" / "train" / f"{number:02d}.off")
    write(tmp_path / "cup" / "test" / "16.off")
    found = splits(MeshSource(tmp_path, SETTINGS))
    assert [id for id, split in found.items() if split != "train"] == [
        "cup/test/16.off", "cup/train/07.off", "cup/train/15.off"
    ]  # fmt: skip
    assert found["cup/test/16.off"] == "test"


@pytest.mark.parametrize("count", [2, 3, 7])
def test_few_shapes_leave_one_for_validation(tmp_path, count):
    for number in range(count):
        write(tmp_path / f"{number}.off")
    expected = ["train"] * (count - 1) + ["val"]
    assert list(splits(MeshSource(tmp_path, SETTINGS)).values()) == expected


def test_only_meshes_decided_by_parity_are_stored(tmp_path):
    """An open mesh does not show which points are inside, so sheets draw the occupancies."""
    vertices, faces = box(LOW, HIGH)
    write(tmp_path / "closed.off")
    opened = trimesh.Trimesh(vertices.numpy(), faces.numpy()[:-2], process=False)
    opened.export(tmp_path / "open.off")
    sheet = trimesh.Trimesh(vertices.numpy(), faces.numpy()[:2], process=False)
    sheet.export(tmp_path / "sheet.off")
    source = MeshSource(tmp_path, SETTINGS)
    samples = {item.id: source.sample(i) for i, item in enumerate(source.items)}
    assert {id: sample.mesh_faces is not None for id, sample in samples.items()} == {
        "closed.off": True,
        "open.off": False,
        "sheet.off": False,
    }


def test_one_shape_is_used_for_training_and_validation(tmp_path):
    write(tmp_path / "box.off")
    source = MeshSource(tmp_path, SETTINGS)
    assert splits(source) == {"box.off": "train", "box.off (again)": "val"}
    manifest = build_dataset(source, tmp_path / "data", num_workers=1)
    assert manifest.count_shapes() == {"train": 1, "val": 1}
    assert manifest.notes["box.off (again)"].startswith("also used for validation")


def test_bad_files_are_skipped_and_leave_a_validation_shape(tmp_path):
    write(tmp_path / "a.off")
    write(tmp_path / "b.off")
    (tmp_path / "c.off").write_text("OFF\n3 1 0\n0 0 0\n1 nan 0\n0 1 0\n3 0 1 2\n")
    (tmp_path / "d.obj").write_text("")
    (tmp_path / "e.fbx").write_text("")
    source = MeshSource(tmp_path, SETTINGS)
    assert splits(source) == {"a.off": "train", "b.off": "val"}
    assert source.skipped.keys() == {"c.off", "d.obj", "*.fbx"}
    assert "1 of 3 vertices are not finite" in source.skipped["c.off"]
    assert source.skipped["*.fbx"] == "1 files of a format that is not read"


def test_bad_files_among_many_are_skipped_by_the_build(tmp_path):
    for number in range(9):
        write(tmp_path / "in" / f"{number}.off")
    (tmp_path / "in" / "3.off").write_text("OFF\n")
    manifest = build_dataset(MeshSource(tmp_path / "in", SETTINGS), tmp_path / "out", num_workers=1)
    assert manifest.skipped.keys() == {"3.off"} and len(manifest.notes) == 8
    assert "the file is cut" in manifest.skipped["3.off"]


def test_other_shapes_are_held_out_if_none_of_the_first_can_be_read(tmp_path):
    for number in range(20):
        write(tmp_path / f"{number:02d}.off")
    for number in (7, 15):
        (tmp_path / f"{number:02d}.off").write_text("OFF\n")
    source = MeshSource(tmp_path, SETTINGS)
    assert set(source.skipped) == {"07.off", "15.off"}
    held_out = [id for id, split in splits(source).items() if split == "val"]
    assert held_out == ["08.off", "17.off"]


def test_a_folder_without_training_shapes_is_an_error(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder or file"):
        MeshSource(tmp_path / "nowhere", SETTINGS)
    with pytest.raises(
        UserError, match=r"no meshes in this folder.*\(found no files\); supported are .*\.obj"
    ):
        MeshSource(tmp_path, SETTINGS)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(UserError, match=r"found 1 \.txt"):
        MeshSource(tmp_path, SETTINGS)
    (tmp_path / "a.obj").write_text("v 0 0 0\n")
    with pytest.raises(UserError, match=r"no mesh can be read: .*a\.obj: no faces"):
        MeshSource(tmp_path, SETTINGS)
    write(tmp_path / "test" / "b.off")
    with pytest.raises(UserError, match="no shapes for training"):
        MeshSource(tmp_path, SETTINGS)


def test_an_import_is_reproducible_and_continues_only_its_own_dataset(tmp_path, capsys):
    vertices, faces = sphere(2)
    (tmp_path / "in").mkdir()
    trimesh.Trimesh(vertices.numpy(), faces[1:].numpy()).export(tmp_path / "in" / "open.ply")
    write(tmp_path / "in" / "box.obj")
    options = "--points 64 --near-points 64 --surface-points 16 --voxels 8,16 --views 1"
    for name in ("first", "second"):
        arguments = [str(tmp_path / "in"), str(tmp_path / name), *options.split(), "--workers", "1"]
        assert not cli.main(["data", "import", "meshes", *arguments])
    first, second = (verify_dataset(tmp_path / name) for name in ("first", "second"))
    assert [entry.sha256 for entry in first.shards] == [entry.sha256 for entry in second.shards]
    assert "open.ply: not watertight: 3 open edges; inside by winding number" in (
        capsys.readouterr().out
    )
    shard = Shard(tmp_path / "first", first.shards[0])
    assert shard.num_near_points == 64 and list(shard.voxel_resolutions) == [8, 16]
    write(tmp_path / "in" / "new.obj")
    assert MeshSource(tmp_path / "in", SETTINGS).settings["meshes"] != first.settings["meshes"]


def test_changed_content_of_the_same_size_is_another_folder(tmp_path):
    write(tmp_path / "a.stl")
    before = MeshSource(tmp_path, SETTINGS).settings
    size = (tmp_path / "a.stl").stat().st_size
    write(tmp_path / "a.stl", high=[4.0, 2.0, 0.5])
    assert (tmp_path / "a.stl").stat().st_size == size
    assert MeshSource(tmp_path, SETTINGS).settings["meshes"] != before["meshes"]


def test_links_are_followed_once_and_broken_links_are_listed(tmp_path):
    write(tmp_path / "elsewhere" / "far.off")
    write(tmp_path / "in" / "a.off")
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "gone.off").symlink_to(tmp_path / "nowhere.off")
    os.mkfifo(tmp_path / "in" / "pipe.off")
    (tmp_path / "in" / "linked.off").symlink_to(tmp_path / "in" / "pipe.off")
    source = MeshSource(tmp_path / "in", SETTINGS)
    assert {item.id for item in source.items} == {"a.off", "linked/far.off"}
    assert source.skipped == {
        "gone.off": "is a broken link",
        "linked.off": "is not a regular file",
        "pipe.off": "is not a regular file",
    }


def test_unprintable_names_and_archives_are_listed_as_skipped(tmp_path):
    for name in (os.fsdecode(b"bad\xff.off"), "two\nlines.off", "ok \u6f22.off"):
        write(tmp_path / name)
    (tmp_path / "a.obj.gz").write_bytes(b"")
    source = MeshSource(tmp_path, SETTINGS)
    assert {item.id for item in source.items} == {"ok \u6f22.off", "ok \u6f22.off (again)"}
    assert set(source.skipped) == {"'bad\\udcff.off'", "'two\\nlines.off'", "*.gz"}


def test_folders_that_cannot_be_listed_are_skipped_with_a_reason(tmp_path, monkeypatch):
    write(tmp_path / "a.off")
    write(tmp_path / "locked" / "b.off")

    def scandir(path, listed=os.scandir):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    source = MeshSource(tmp_path, SETTINGS)
    assert source.skipped == {"locked": "cannot be listed (Permission denied)"}
    with pytest.raises(UserError, match=r"locked: cannot be listed \(Permission denied\)$"):
        MeshSource(tmp_path / "locked", SETTINGS)


def test_formats_that_need_another_package_name_it(tmp_path, monkeypatch):
    write(tmp_path / "a.off")
    for name in ("b.dae", "c.dae", "d.zip", "e.txt"):
        (tmp_path / name).write_bytes(b"")
    wanting = {".dae": "pip install pycollada"}
    monkeypatch.setattr(mesh_io, "mesh_endings", lambda: {".off"})
    monkeypatch.setattr(mesh_io, "missing_packages", lambda: wanting)
    assert MeshSource(tmp_path, SETTINGS).skipped == {
        "*.dae": "2 files of a format that is not read without another package "
        "(pip install pycollada)",
        "*.zip": "1 files of a format that is not read",
    }


def test_a_file_without_permission_ends_the_import(tmp_path, monkeypatch):
    for name in ("a.off", "b.off"):
        write(tmp_path / name)

    def refuse(path, **_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(
        UserError, match="^a.off: Permission denied; fix that and run the same command again"
    ):
        MeshSource(tmp_path, SETTINGS)


def test_an_import_without_validation_shapes_prints_a_warning(tmp_path, capsys):
    """A mesh without area can be read. Only sampling finds the problem."""
    for number in range(9):
        write(tmp_path / "in" / f"{number}.off")
    (tmp_path / "in" / "7.off").write_text("OFF\n3 1 0\n0 0 0\n1 0 0\n2 0 0\n3 0 1 2\n")
    options = "--points 8 --near-points 8 --surface-points 8 --voxels 8 --views 1 --workers 1"
    arguments = [str(tmp_path / "in"), str(tmp_path / "out"), *options.split()]
    assert not cli.main(["data", "import", "meshes", *arguments, "--image-size", "8"])
    message = "warning: no val shapes: all were skipped; `occvae data split`"
    assert message in capsys.readouterr().out

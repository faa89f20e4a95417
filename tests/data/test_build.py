"""Builds are deterministic, continue where they stopped, and name what they leave out."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from occvae.data import build
from occvae.data.build import BuildSettings, build_dataset, cell_centres, make_sample
from occvae.data.shards import Manifest, Shard
from occvae.data.sources import ProceduralSource, VoxelArchiveSource, VoxelShape
from occvae.errors import UserError
from tests.tiny import write_archive

SETTINGS = BuildSettings(
    num_points=64, voxel_resolution=8, num_views=2, image_size=12, shapes_per_shard=3
)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> VoxelArchiveSource:
    folder = tmp_path_factory.mktemp("archives")
    return VoxelArchiveSource([write_archive(folder / "boxes.npz", count=12, resolution=8)])


def make(source, root: Path, workers: int = 1, **changes) -> Manifest:
    return build_dataset(source, root, replace(SETTINGS, **changes), workers)


def files(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(root.iterdir())}


@pytest.fixture(scope="module")
def straight(source, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("built") / "straight"
    assert make(source, root).complete
    return root


def test_the_same_seed_gives_the_same_bytes(source, straight, tmp_path):
    make(source, tmp_path / "again", workers=2)
    assert files(tmp_path / "again") == files(straight)
    make(source, tmp_path / "other", seed=1)
    assert files(tmp_path / "other").keys() == files(straight).keys()
    assert files(tmp_path / "other")["train-00000.h5"] != files(straight)["train-00000.h5"]


def test_splits_never_share_a_shard(straight):
    manifest = Manifest.load(straight)
    counts = {entry.file: entry.num_shapes for entry in manifest.shards}
    assert counts == {
        "train-00000.h5": 3,
        "train-00001.h5": 3,
        "train-00002.h5": 2,
        "val-00000.h5": 3,
        "val-00001.h5": 1,
    }
    assert manifest.categories == ["even", "odd"]


@pytest.mark.parametrize("after", [0, 1, 3])
def test_an_interrupted_build_continues(source, straight, tmp_path, monkeypatch, after):
    finish, finished = build._finish_shard, []

    def interrupt(root, file, *arguments):
        if len(finished) == after:
            (root / Path(file).with_suffix(".tmp")).write_bytes(b"half a shard")
            raise KeyboardInterrupt
        finished.append(file)
        finish(root, file, *arguments)

    monkeypatch.setattr(build, "_finish_shard", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make(source, tmp_path / "data")
    if after:
        assert not Manifest.load(tmp_path / "data").complete
    rebuilt = []
    monkeypatch.setattr(
        build,
        "_finish_shard",
        lambda root, file, *rest: finish(root, rebuilt.append(file) or file, *rest),
    )
    make(source, tmp_path / "data")
    assert files(tmp_path / "data") == files(straight)
    assert not set(rebuilt) & set(finished)


def test_deleted_shards_are_made_again_in_their_places(source, straight, tmp_path, monkeypatch):
    def fail_on_validation(path, samples, write=build.write_shard):
        if path.name.startswith("val"):
            raise OSError("disk full")
        write(path, samples)

    make(source, tmp_path)
    for name in ("train-00001.h5", "val-00000.h5"):
        (tmp_path / name).unlink()
    with monkeypatch.context() as patched:
        patched.setattr(build, "write_shard", fail_on_validation)
        with pytest.raises(OSError, match="disk full"):
            make(source, tmp_path)
    assert not Manifest.load(tmp_path).complete
    make(source, tmp_path)
    assert files(tmp_path) == files(straight)


def test_a_finished_build_does_nothing(source, straight, monkeypatch):
    monkeypatch.setattr(build, "make_sample", None)
    before = files(straight)
    make(source, straight)
    assert files(straight) == before


@pytest.mark.parametrize(
    "changes", [{"seed": 1}, {"num_points": 72}, {"num_views": 3}, {"shapes_per_shard": 4}]
)
def test_other_settings_are_refused(source, straight, changes):
    before = files(straight)
    with pytest.raises(UserError, match="holds a dataset built with other settings"):
        make(source, straight, **changes)
    assert files(straight) == before


def test_a_changed_archive_of_the_same_name_is_refused(source, straight, tmp_path):
    path = write_archive(tmp_path / "boxes.npz", count=11, resolution=8)
    with pytest.raises(UserError, match="other settings"):
        make(VoxelArchiveSource([path]), straight)
    with pytest.raises(UserError, match="other settings"):
        make(ProceduralSource(1), straight)


def test_unusable_shapes_are_skipped_counted_and_named(tmp_path):
    voxels = np.ones((3, 4, 4, 4), bool)
    voxels[1] = False
    np.savez(tmp_path / "mixed.npz", voxels=voxels)
    manifest = make(VoxelArchiveSource([tmp_path / "mixed.npz"]), tmp_path / "data")
    assert manifest.skipped == {"mixed-00001": "UserError: shape is empty"}
    assert Manifest.load(tmp_path / "data").skipped == manifest.skipped
    [entry] = manifest.shards
    shard = Shard(tmp_path / "data", entry)
    assert shard.ids == ["mixed-00000", "mixed-00002"]


def test_nothing_usable_is_an_error(tmp_path):
    np.savez(tmp_path / "void.npz", voxels=np.zeros((2, 4, 4, 4)))
    with pytest.raises(UserError, match="no shape is usable; void-00000: .*empty"):
        make(VoxelArchiveSource([tmp_path / "void.npz"]), tmp_path / "data")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_points": 100}, "num_points must be a multiple of 8, got 100"),
        ({"num_points": 0}, "num_points must be at least 1, got 0"),
        ({"num_views": -1}, "num_views must be at least 1, got -1"),
        ({"image_size": 0}, "image_size must be at least 1"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_wrong_settings(changes, message):
    with pytest.raises(UserError, match=message):
        replace(SETTINGS, **changes)


@pytest.mark.parametrize("workers", [0, -2])
def test_wrong_worker_counts(source, tmp_path, workers):
    with pytest.raises(UserError, match=f"workers must be positive, got {workers}"):
        make(source, tmp_path, workers)


def test_a_sample_says_the_same_in_points_voxels_and_pictures():
    grid = np.zeros((8, 8, 8), bool)
    grid[:4] = True
    sample = make_sample("half", "box", VoxelShape(grid), SETTINGS)
    np.testing.assert_array_equal(sample.voxels, grid)
    x = (sample.points[:, 0] / 65536 - 0.5) * 1.1
    assert not sample.occupancies[x > 1e-4].any()
    assert 0.2 < sample.occupancies.mean() < 0.6  # half of the unit cube in 1.1^3: 0.38
    assert len(sample.images) == SETTINGS.num_views
    assert sample.extrinsics.shape == (SETTINGS.num_views, 3, 4)


def test_cell_centres_run_in_c_order():
    centres = cell_centres(4)
    np.testing.assert_allclose(centres[0], -0.375)
    np.testing.assert_allclose(centres[1], [-0.375, -0.375, -0.125])
    np.testing.assert_allclose(centres[16], [-0.125, -0.375, -0.375])


def test_settings_are_recorded(straight):
    settings = json.loads((straight / "dataset.json").read_text())["settings"]
    assert settings["num_points"] == 64 and settings["up"] == "z"
    assert settings["archives"][0][0] == "boxes.npz"

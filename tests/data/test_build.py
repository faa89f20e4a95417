"""Builds are deterministic, continue where they stopped, and list the shapes that they skip."""

import errno
import json
import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from occvae.data import build, shapes
from occvae.data.build import build_dataset, verify_dataset
from occvae.data.formats.procedural import ProceduralSource
from occvae.data.formats.voxels import VoxelArchiveSource, VoxelShape
from occvae.data.manifest import Manifest, sole_writer
from occvae.data.points import dequantize_points
from occvae.data.procedural import make_shape
from occvae.data.sample import Sample
from occvae.data.shapes import ShapeSettings, make_sample
from occvae.data.shards import Shard
from occvae.data.sources import Item
from occvae.errors import UserError
from occvae.geometry.voxelize import cell_centers
from tests.tiny import write_archive

SETTINGS = ShapeSettings(
    num_points=64, num_surface_points=16, voxel_resolutions=(8,), num_views=2, image_size=12
)


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    return write_archive(tmp_path_factory.mktemp("archives") / "boxes.npz", count=12, resolution=8)


@pytest.fixture(scope="module")
def source(archive) -> VoxelArchiveSource:
    return boxes(archive)


def boxes(path: Path, **changes) -> VoxelArchiveSource:
    return VoxelArchiveSource([path], replace(SETTINGS, **changes))


def make(source, root: Path, workers: int = 1, shapes_per_shard: int = 3) -> Manifest:
    return build_dataset(source, root, shapes_per_shard=shapes_per_shard, num_workers=workers)


def files(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(root.iterdir())}


@pytest.fixture(scope="module")
def straight(source, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("built") / "straight"
    assert make(source, root).complete
    return root


def test_the_same_seed_gives_the_same_bytes(source, archive, straight, tmp_path):
    make(source, tmp_path / "again", workers=2)
    assert files(tmp_path / "again") == files(straight)
    make(boxes(archive, seed=1), tmp_path / "other")
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
            (root / f".{Path(file).stem}.partial.h5").write_bytes(b"half a shard")
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


def test_deleted_shards_are_rebuilt_in_their_places(source, straight, tmp_path, monkeypatch):
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
    monkeypatch.setattr(source, "sample", None)
    before = files(straight)
    make(source, straight)
    assert files(straight) == before


def test_truncated_shards_are_rebuilt(source, straight, tmp_path):
    make(source, tmp_path)
    path = tmp_path / "train-00001.h5"
    path.write_bytes(path.read_bytes()[:-1])
    make(source, tmp_path)
    assert files(tmp_path) == files(straight)


@pytest.mark.parametrize("changes", [{"seed": 1}, {"num_points": 72}, {"num_views": 3}])
def test_other_settings_are_refused(source, archive, straight, changes):
    before = files(straight)
    [name] = changes
    built = "holds a dataset built with other settings or from other files"
    with pytest.raises(UserError, match=rf"{built} \({name}\); choose"):
        make(boxes(archive, **changes), straight)
    with pytest.raises(UserError, match=rf"{built} \(shapes_per_shard\); choose"):
        make(source, straight, shapes_per_shard=4)
    assert files(straight) == before


def test_a_changed_archive_of_the_same_name_is_refused(source, straight, tmp_path):
    path = write_archive(tmp_path / "boxes.npz", count=11, resolution=8)
    with pytest.raises(UserError, match=r"other files \(archives\)"):
        make(boxes(path), straight)
    with pytest.raises(UserError, match=r"\(source voxels, now procedural\)"):
        make(ProceduralSource(1, SETTINGS), straight)


def test_unusable_shapes_are_skipped_counted_and_named(tmp_path):
    voxels = np.ones((3, 4, 4, 4), bool)
    voxels[1] = False
    np.savez(tmp_path / "mixed.npz", voxels=voxels)
    manifest = make(boxes(tmp_path / "mixed.npz"), tmp_path / "data")
    assert manifest.skipped == {"mixed-00001": "shape is empty"}
    assert Manifest.load(tmp_path / "data").skipped == manifest.skipped
    [entry] = manifest.shards
    shard = Shard(tmp_path / "data", entry)
    assert shard.ids == ["mixed-00000", "mixed-00002"]


def test_a_source_without_usable_shapes_is_an_error(tmp_path):
    np.savez(tmp_path / "void.npz", voxels=np.zeros((2, 4, 4, 4)))
    with pytest.raises(UserError, match="no shape is usable; the first one is void-00000: .*empty"):
        make(boxes(tmp_path / "void.npz"), tmp_path / "data")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_points": 100}, "num_points must be a multiple of 8, got 100"),
        ({"num_points": 0}, "num_points must be at least 8, got 0"),
        ({"num_near_points": 12}, "num_near_points must be a multiple of 8, got 12"),
        ({"voxel_resolutions": ()}, r"voxel_resolutions must be positive and distinct, got \(\)"),
        ({"voxel_resolutions": (8, 8)}, "voxel_resolutions must be positive and distinct"),
        ({"num_views": -1}, "num_views must be at least 1, got -1"),
        ({"image_size": 0}, "image_size must be at least 1"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        replace(SETTINGS, **changes)


@pytest.mark.parametrize("workers", [0, -2])
def test_wrong_worker_counts_are_refused(source, tmp_path, workers):
    with pytest.raises(UserError, match=f"workers must be at least 1, got {workers}"):
        make(source, tmp_path, workers)


def test_points_voxels_and_images_of_a_sample_agree():
    grid = np.zeros((8, 8, 8), bool)
    grid[:4] = True
    sample = make_sample("half", "box", "train", VoxelShape(grid), SETTINGS)
    np.testing.assert_array_equal(sample.voxels[8], grid)
    x = (sample.points[:, 0] / 65536 - 0.5) * 1.1
    assert not sample.occupancies[x > 1e-4].any()
    assert 0.2 < sample.occupancies.mean() < 0.6  # half of the unit cube in 1.1^3: 0.38
    assert len(sample.images) == SETTINGS.num_views
    assert sample.extrinsics.shape == (SETTINGS.num_views, 3, 4)


def test_a_solid_is_stored_with_its_mesh():
    solid = make_shape("mug", 3)
    sample = make_sample("mug", "mug", "train", solid, SETTINGS)
    vertices, faces = solid.mesh()
    stored = dequantize_points(sample.mesh_vertices)
    np.testing.assert_allclose(stored, vertices, atol=0.55 / 65536 + 1e-6)
    np.testing.assert_array_equal(sample.mesh_faces, faces)


def test_a_mesh_with_too_many_faces_is_not_stored(monkeypatch):
    monkeypatch.setattr(shapes, "MAX_MESH_FACES", 11)
    solid = make_shape("table", 3)
    assert make_sample("table", "table", "train", solid, SETTINGS).mesh_faces is None


def test_voxels_are_stored_without_a_mesh(straight):
    manifest = Manifest.load(straight)
    assert all(Shard(straight, entry).mesh(0) is None for entry in manifest.shards)


def test_cell_centers_run_in_c_order():
    centers = cell_centers(4).numpy()
    np.testing.assert_allclose(centers[0], -0.375)
    np.testing.assert_allclose(centers[1], [-0.375, -0.375, -0.125])
    np.testing.assert_allclose(centers[16], [-0.125, -0.375, -0.375])


def test_settings_are_recorded(straight):
    settings = json.loads((straight / "dataset.json").read_text())["settings"]
    assert settings["num_points"] == 64 and settings["up"] == "z"
    assert settings["archives"][0][0] == "boxes.npz"


def test_points_near_and_on_the_surface_are_close_to_it():
    grid = np.zeros((8, 8, 8), bool)
    grid[2:6, 2:6, 2:6] = True
    settings = replace(SETTINGS, num_near_points=800, num_surface_points=80)
    training, held_out = (
        make_sample("box", "box", split, VoxelShape(grid), settings) for split in ("train", "test")
    )
    assert training.surface_points is None  # training does not read them
    assert held_out.surface_points.shape == held_out.surface_normals.shape == (80, 3)
    on = dequantize_points(held_out.surface_points)
    np.testing.assert_allclose(np.abs(on).max(1), 0.25, atol=0.04)  # edges are bevelled
    assert ((on * held_out.surface_normals).sum(1) > 0).all()
    near = dequantize_points(training.near_points)
    assert 0.3 < training.near_occupancies.mean() < 0.7
    assert np.abs(np.abs(near).max(1) - 0.25).mean() < 0.02
    inside = (np.abs(near) < 0.25).all(1)
    np.testing.assert_array_equal(training.near_occupancies, inside)


class ListSource:
    """Yields prepared samples. A string is raised as an error."""

    name, splits, settings = "list", "own", {"which": 1}

    def __init__(self, samples: list[Sample | str]):
        self.skipped: dict[str, str] = {}
        self.samples = samples
        self.items = [Item(f"s{index}", "object", "train") for index in range(len(samples))]

    def sample(self, index: int) -> Sample:
        if isinstance(self.samples[index], str):
            raise UserError(self.samples[index])
        return replace(self.samples[index], id=self.items[index].id)


def small_sample() -> Sample:
    grid = np.ones((8, 8, 8), bool)
    return make_sample("x", "object", "val", VoxelShape(grid), replace(SETTINGS, num_near_points=8))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"images": []}, "has no images"),
        ({"images": [b"\x89PNG cut", b""]}, "view 0 cannot be decoded"),
        ({"occupancies": np.ones(63, bool)}, "64 points have another number of occupancies"),
        ({"points": np.zeros((64, 3))}, "points must be uint16 or float16"),
        ({"points": np.full((64, 3), np.nan, np.float16)}, "points are not all finite"),
        ({"near_points": np.zeros((7, 3), np.float16)}, "near_points must be a positive multiple"),
        ({"surface_normals": None}, "16 surface_points need as many surface_normals"),
        ({"surface_normals": np.full((16, 3), np.inf, np.float16)}, "normals are not all finite"),
        ({"mesh_vertices": np.zeros((3, 3))}, "mesh_vertices must be uint16 .* got float64"),
        ({"mesh_faces": None}, "mesh_vertices need mesh_faces"),
        ({"mesh_vertices": None}, "mesh_faces need mesh_vertices"),
        ({"mesh_faces": np.zeros((0, 3), np.uint16)}, "mesh_faces are empty"),
        (
            {"mesh_vertices": np.zeros((2, 3), np.uint16), "mesh_faces": np.eye(3, dtype="u2") * 2},
            "mesh_faces refer to vertex 2, but there are only 2 mesh_vertices",
        ),
        (
            {"extrinsics": np.zeros((1, 3, 4))},
            r"extrinsics must be finite and of shape \(2, 3, 4\)",
        ),
        ({"voxels": {8: np.zeros((8, 8, 8), bool)}}, "shape is empty"),
        ({"voxels": {}, "points": None}, "has neither points nor voxels"),
        ({"voxels": {4: np.ones((8, 8, 8), bool)}}, r"voxels of 4\^3 are bool \(8, 8, 8\)"),
        ({"voxels": {4: np.ones((4, 4, 4), bool)}}, r"voxels \[4\] where most .* have \[8\]"),
        ({"near_points": None}, r"near_points None where most shapes of the split have"),
    ],
)
def test_unusable_samples_are_skipped_with_a_reason(tmp_path, changes, reason):
    good = small_sample()
    manifest = make(ListSource([good, replace(good, **changes), "no mesh", good]), tmp_path)
    assert set(manifest.skipped) == {"s1", "s2"}
    assert re.search(reason, manifest.skipped["s1"]), manifest.skipped["s1"]
    assert manifest.skipped["s2"] == "no mesh"
    assert manifest.count_shapes() == {"train": 2}


def test_notes_are_kept(tmp_path):
    noted = replace(small_sample(), note="open: 3 edges")
    make(ListSource([noted, small_sample()]), tmp_path)
    assert Manifest.load(tmp_path).notes == {"s0": "open: 3 edges"}


def test_ids_must_differ(tmp_path):
    source = ListSource([small_sample()] * 2)
    source.items[1] = source.items[0]
    with pytest.raises(UserError, match="two shapes of the source have the id 's0'"):
        make(source, tmp_path)


class Killing(ListSource):
    """Kills its process at the sample "huge"."""

    def sample(self, index: int) -> Sample:
        if self.samples[index] == "huge":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().sample(index)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_shape_that_kills_its_process_is_skipped(tmp_path, workers):
    good = small_sample()
    source = Killing([good, good, good, good, "huge", good, good])
    manifest = make(source, tmp_path, workers)
    assert manifest.skipped == {"s4": "killed, perhaps because memory ran out"}
    assert manifest.complete and manifest.count_shapes() == {"train": 6}


def test_if_all_processes_are_killed_no_shape_is_skipped(tmp_path):
    with pytest.raises(UserError, match="build processes were killed, .* run the same command"):
        make(Killing(["huge", "huge"]), tmp_path)
    assert not (tmp_path / "dataset.json").exists()


class Failing(ListSource):
    """Raises the errors among its samples, like readers of files."""

    def sample(self, index: int) -> Sample:
        try:
            if isinstance(self.samples[index], Exception):
                raise self.samples[index]
        except OSError as error:
            raise UserError(f"points.npz: cannot be read ({error})") from None
        return super().sample(index)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.EMFILE, "?"), "Too many open files"),
        (PermissionError(errno.EACCES, "?"), "Permission denied"),
        (OSError(errno.EIO, "?"), "Input/output error"),
        (MemoryError("Unable to allocate 9 TiB"), "out of memory"),
    ],
)
def test_failures_of_the_machine_end_the_build_and_skip_no_shape(tmp_path, error, reason):
    good = small_sample()
    with pytest.raises(
        UserError, match=f"^s2: {reason}; fix that and run the same command again"
    ) as caught:
        make(Failing([good, good, error, good]), tmp_path, shapes_per_shard=2)
    assert "\n" not in str(caught.value)
    manifest = Manifest.load(tmp_path)
    assert manifest.skipped == {} and not manifest.complete
    fixed = make(Failing([good] * 4), tmp_path, shapes_per_shard=2)
    assert fixed.count_shapes() == {"train": 4} and fixed.skipped == {}


def test_missing_files_skip_their_shape(tmp_path):
    missing = FileNotFoundError(errno.ENOENT, "No such file or directory")
    manifest = make(Failing([small_sample(), missing]), tmp_path)
    assert manifest.skipped == {
        "s1": "points.npz: cannot be read ([Errno 2] No such file or directory)"
    }


def test_the_first_shape_does_not_define_the_layout(tmp_path):
    good = small_sample()
    odd = replace(good, near_points=None, near_occupancies=None)
    manifest = make(ListSource([odd, good, good, good]), tmp_path)
    assert manifest.count_shapes() == {"train": 3} and set(manifest.skipped) == {"s0"}
    assert manifest.layouts["train"]["near_points"] == [8, "uint16"]


def test_many_shapes_with_another_layout_are_an_error(tmp_path):
    good = small_sample()
    odd = replace(good, near_points=None, near_occupancies=None)
    source = ListSource([good, good, odd, odd, good])
    for _ in range(2):
        with pytest.raises(UserError, match=r"2 of 5 train shapes were skipped.*\(s2: near_points"):
            make(source, tmp_path)
    assert Manifest.load(tmp_path).complete
    assert Manifest.load(tmp_path).count_shapes() == {"train": 3}


def test_verify_refuses_an_interrupted_build(source, tmp_path, monkeypatch):
    make(source, tmp_path)
    manifest = Manifest.load(tmp_path)
    replace(manifest, complete=False).save(tmp_path)
    with pytest.raises(UserError, match="its build was interrupted; run the command"):
        verify_dataset(tmp_path)


def test_two_builds_into_one_folder_are_refused(source, tmp_path):
    with sole_writer(tmp_path):
        with pytest.raises(UserError, match="another command is writing to it"):
            make(source, tmp_path)
        assert list(tmp_path.iterdir()) == []
    assert make(source, tmp_path).complete


def test_a_fixed_shape_is_no_longer_listed_as_skipped(tmp_path):
    good = small_sample()
    broken = ListSource([good, "locked", good, good])
    assert make(broken, tmp_path, shapes_per_shard=1).skipped == {"s1": "locked"}
    fixed = make(ListSource([good] * 4), tmp_path, shapes_per_shard=1)
    assert fixed.skipped == {} and fixed.count_shapes() == {"train": 4}


def test_a_build_starts_no_more_workers_than_shapes(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(
        build,
        "_worker_pool",
        lambda count, source, pool=build._worker_pool: pool(started.append(count) or count, source),
    )
    make(ListSource([small_sample()] * 3), tmp_path, workers=1000)
    assert started == [3]


class Noted(list):
    """Item numbers that log when they are iterated over."""

    def __init__(self, log: list, indices: list[int]):
        super().__init__(indices)
        self.log = log

    def __iter__(self):
        self.log.append(tuple(self[:]))
        return super().__iter__()


def test_one_shard_is_built_ahead_while_another_is_written(tmp_path, monkeypatch):
    """Building more than one ahead would fill the memory."""
    begun, ahead = [], []
    monkeypatch.setattr(
        build,
        "_plan_shards",
        lambda source, count, plan=build._plan_shards: [
            (file, Noted(begun, indices)) for file, indices in plan(source, count)
        ],
    )
    finish, finished = build._finish_shard, []

    def count(root, file, *rest):
        ahead.append(len(set(begun)) - len(finished))
        finished.append(file)
        finish(root, file, *rest)

    monkeypatch.setattr(build, "_finish_shard", count)
    make(ListSource([small_sample()] * 8), tmp_path, shapes_per_shard=2)
    assert ahead == [2, 2, 2, 1]

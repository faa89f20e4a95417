"""Shards return what was written, in any process, and damaged shards are reported by name."""

import errno
import gc
import json
import multiprocessing
import os
import pickle
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from occvae.data import shards
from occvae.data.build import verify_dataset
from occvae.data.dataset import ShapeDataset
from occvae.data.manifest import MANIFEST, Manifest, ShardEntry
from occvae.data.points import HALF_EXTENT, dequantize_points, quantize_points
from occvae.data.sample import Sample
from occvae.data.shards import Shard, write_shard
from occvae.data.targets import PointTarget
from occvae.errors import UserError
from tests.small_disk import mounted

POINTS, NEAR, VIEWS = 64, 24, 3
SHARD = vars(ShardEntry("train-00000.h5", "train", 3, 10, "ab"))
RESOLUTIONS = (3, 6)  # 6^3 bits fill whole bytes, 3^3 bits do not


def random_sample(seed: int) -> Sample:
    rng = np.random.default_rng(seed)
    has_mesh = seed % 3 > 0
    return Sample(
        id=f"shape-{seed}",
        category="gr\u00f6\u00dfe" if seed % 2 else "chair",
        points=rng.integers(0, 65536, (POINTS, 3)).astype(np.uint16),
        occupancies=rng.random(POINTS) < 0.5,
        near_points=rng.uniform(-0.55, 0.55, (NEAR, 3)).astype(np.float16),
        near_occupancies=rng.random(NEAR) < 0.5,
        surface_points=rng.uniform(-0.5, 0.5, (5, 3)).astype(np.float16),
        surface_normals=rng.standard_normal((5, 3)).astype(np.float16),
        mesh_vertices=rng.integers(0, 65536, (4 + seed, 3)).astype(np.uint16) if has_mesh else None,
        mesh_faces=rng.integers(0, 4, (2 * seed, 3)).astype(np.uint16) if has_mesh else None,
        voxels={edge: rng.random((edge,) * 3) < 0.5 for edge in RESOLUTIONS},
        location=rng.standard_normal(3),
        scale=float(rng.random()),
        images=[rng.bytes(int(rng.integers(1, 50))) for _ in range(VIEWS)],
        extrinsics=rng.standard_normal((VIEWS, 3, 4)),
        intrinsics=rng.standard_normal((VIEWS, 3, 3)),
    )


def entry_of(path: Path) -> ShardEntry:
    digest = shards.file_sha256(path)
    return ShardEntry(path.name, "train", 4, path.stat().st_size, digest)


@pytest.fixture
def samples() -> list[Sample]:
    return [random_sample(seed) for seed in range(4)]


@pytest.fixture
def path(samples, tmp_path) -> Path:
    write_shard(tmp_path / "train-00000.h5", samples)
    return tmp_path / "train-00000.h5"


@pytest.fixture
def copy(tiny_dataset, tmp_path) -> Path:
    """A copy of the dataset that a test may damage."""
    return Path(shutil.copytree(tiny_dataset, tmp_path / "copy"))


def test_every_field_is_read_as_written(samples, path):
    shard = Shard(path.parent, entry_of(path))
    assert (len(shard), shard.num_points, shard.num_views) == (4, POINTS, VIEWS)
    assert (shard.num_near_points, shard.num_surface_points) == (NEAR, 5)
    assert shard.voxel_resolutions == [3, 6] and shard.has_cameras
    assert shard.ids == [sample.id for sample in samples]
    assert shard.categories == [sample.category for sample in samples]
    for index, sample in enumerate(samples):
        points, occupancies = shard.points(index, 0, POINTS)
        np.testing.assert_array_equal(points, dequantize_points(sample.points))
        np.testing.assert_array_equal(occupancies, sample.occupancies)
        near, inside = shard.near_points(index, 8, 16)
        np.testing.assert_array_equal(near, sample.near_points[8:].astype(np.float32))
        np.testing.assert_array_equal(inside, sample.near_occupancies[8:])
        for found, written in zip(
            shard.surface(index), (sample.surface_points, sample.surface_normals), strict=True
        ):
            np.testing.assert_array_equal(found, written.astype(np.float32))
        if sample.mesh_vertices is None:
            assert shard.mesh(index) is None
        else:
            vertices, faces = shard.mesh(index)
            np.testing.assert_array_equal(vertices, dequantize_points(sample.mesh_vertices))
            np.testing.assert_array_equal(faces, sample.mesh_faces)
        np.testing.assert_array_equal(shard.voxels(index), sample.voxels[3])
        for edge, grid in sample.voxels.items():
            assert shard.voxels(index, edge).dtype == bool
            np.testing.assert_array_equal(shard.voxels(index, edge), grid)
            np.testing.assert_array_equal(shard.packed_voxels(index, edge), np.packbits(grid))
        location, scale = shard.original_frame(index)
        np.testing.assert_array_equal([*location, scale], [*sample.location, sample.scale])
        for view in range(
            VIEWS
        ):  # includes the first view of the first shape and the last view of the last
            assert shard.image(index, view) == sample.images[view]
            for name in ("extrinsics", "intrinsics"):
                expected = getattr(sample, name)[view].astype(np.float32)
                np.testing.assert_array_equal(getattr(shard, name)(index, view), expected)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(("start", "count"), [(0, 8), (8, 16), (56, 8), (16, 13), (40, 24), (8, 1)])
def test_slices_of_points_and_occupancies_match(samples, path, start, count):
    points, occupancies = Shard(path.parent, entry_of(path)).points(2, start, count)
    assert points.dtype == np.float32 and occupancies.dtype == bool
    chosen = slice(start, start + count)
    np.testing.assert_array_equal(points, dequantize_points(samples[2].points[chosen]))
    np.testing.assert_array_equal(occupancies, samples[2].occupancies[chosen])


def test_fields_that_a_source_lacks_are_absent(tmp_path):
    bare = [Sample(id="a", category="b", images=[b"x"], voxels={3: np.ones((3, 3, 3), bool)})]
    write_shard(tmp_path / "train-00000.h5", bare)
    shard = Shard(tmp_path, entry_of(tmp_path / "train-00000.h5"))
    assert (shard.num_points, shard.num_near_points, shard.num_surface_points) == (0, 0, 0)
    assert not shard.has_cameras and shard.voxels(0).all() and shard.mesh(0) is None
    assert shard.image(0, 0) == b"x"


def test_a_shard_that_cannot_be_written_leaves_nothing(samples, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards.os, "replace", full)
    with pytest.raises(UserError, match="cannot be written .No space left on device.; fix that"):
        write_shard(tmp_path / "train-00000.h5", samples)
    assert not list(tmp_path.iterdir())


def test_quantization_error_is_at_most_half_a_step():
    points = np.random.default_rng(0).uniform(-HALF_EXTENT, HALF_EXTENT, (10_000, 3))
    points[0], points[1] = HALF_EXTENT, -HALF_EXTENT
    found = dequantize_points(quantize_points(points))
    assert found.dtype == np.float32
    half_step = HALF_EXTENT / 65536
    assert np.abs(found - points).max() <= half_step + 1e-7
    assert np.abs(found).max() < HALF_EXTENT


def test_quantization_is_injective_and_symmetric():
    codes = np.arange(65536).astype(np.uint16)
    values = dequantize_points(codes)
    assert len(np.unique(values)) == 65536
    np.testing.assert_array_equal(quantize_points(values), codes)
    np.testing.assert_array_equal(values, -values[::-1])
    np.testing.assert_array_equal(quantize_points(np.array([-9.0, 9.0])), [0, 65535])


def read_all(dataset: ShapeDataset, workers: int, start: str | None = None) -> list[dict]:
    context = multiprocessing.get_context(start) if start else None
    batches = [[(3, 0), (3, 1)], [(4, 5), (4, 2)]]
    loader = DataLoader(
        dataset, batch_sampler=batches, num_workers=workers, multiprocessing_context=context
    )
    return list(loader)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(
    ("workers", "start"), [(2, "fork"), pytest.param(1, "spawn", marks=pytest.mark.slow)]
)
def test_worker_processes_read_the_same_data(tiny_dataset, workers, start):
    dataset = ShapeDataset(
        tiny_dataset, "train", image_size=16, target=PointTarget(64), num_views=2, train=True
    )
    expected = read_all(dataset, 0)  # opens files, which a fork then shares
    for want, got in zip(expected, read_all(dataset, workers, start), strict=True):
        for key in want:
            assert torch.equal(want[key], got[key]), key


def test_a_sample_reads_no_more_than_it_needs(samples, path, monkeypatch):
    sizes, really = [], os.preadv
    monkeypatch.setattr(os, "preadv", lambda *rest: sizes.append(really(*rest)) or sizes[-1])
    shard = Shard(path.parent, entry_of(path))
    shard.points(1, 8, 16)
    shard.image(2, 1)
    assert sizes == [16 * 3 * 2, 2, len(samples[2].images[1])]


def test_a_shard_truncated_while_in_use_is_reported(path):
    shard = Shard(path.parent, entry_of(path))
    os.truncate(path, 3000)
    with pytest.raises(UserError, match=r"train-00000\.h5: damaged or not a shard \(.* bytes\)"):
        shard.surface(3)
    path.unlink()
    with pytest.raises(UserError, match=r"train-00000\.h5: cannot be read \(.*No such file"):
        pickle.loads(pickle.dumps(shard)).surface(3)


def test_shards_survive_garbage_collection(path, samples):
    shard = Shard(path.parent, entry_of(path))
    shard.voxels(0)
    gc.collect()
    np.testing.assert_array_equal(shard.voxels(1), samples[1].voxels[3])


def test_truncated_and_missing_shards_are_reported(path):
    entry = entry_of(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"train-00000\.h5: \d+ bytes where .* truncated"):
        Shard(path.parent, entry)
    path.unlink()
    with pytest.raises(UserError, match=r"train-00000\.h5: the shard is missing"):
        Shard(path.parent, entry)


def test_other_files_are_refused(path):
    path.write_bytes(b"no HDF5 at all")
    with pytest.raises(UserError, match=r"train-00000\.h5: damaged or not a shard"):
        Shard(path.parent, entry_of(path))
    with h5py.File(path, "w") as file:
        file.attrs["format_version"] = shards.FORMAT_VERSION
    with pytest.raises(UserError, match=r"train-00000\.h5: damaged or not a shard"):
        Shard(path.parent, entry_of(path))


def test_damaged_structures_raise_only_user_errors(path):
    whole, entry = path.read_bytes(), entry_of(path)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[rng.integers(3000)] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            Shard(path.parent, entry).voxels(0)
        except UserError as error:
            assert path.name in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > 10


def test_other_format_versions_are_refused(path, copy):
    with h5py.File(path, "a") as file:
        file.attrs["format_version"] = 7
    with pytest.raises(UserError, match="format version 7, this occvae reads version 2"):
        Shard(path.parent, entry_of(path))
    content = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps({**content, "format_version": 1}))
    with pytest.raises(UserError, match=r"dataset\.json: has format version 1"):
        Manifest.load(copy)


def test_manifest_round_trip(tmp_path):
    shard = ShardEntry("train-00000.h5", "train", 3, 10, "ab")
    layouts = {"train": {"points": [8, "uint16"], "voxels": [32]}}
    manifest = Manifest(
        *("voxels", "own", {"seed": 1}, ["a"], layouts, [shard], {"y": "open"}, {"x": "empty"}),
        complete=True,
    )
    manifest.save(tmp_path)
    assert Manifest.load(tmp_path) == manifest
    replace(manifest, complete=False).save(tmp_path)
    assert not Manifest.load(tmp_path).complete
    assert [file.name for file in tmp_path.iterdir()] == [MANIFEST]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a dataset manifest"),
        (b"{", "not a dataset manifest"),
        (b"\xff\xfe\x00", "not a dataset manifest"),
        (b"[]", "not a dataset manifest"),
        (b"[" * 100_000, "not a dataset manifest"),
        (b"3", "not a dataset manifest"),
        (b"{}", "not a dataset manifest"),
        (b'{"format_version": 2, "shards": [{"file": "x"}]}', "not a dataset manifest"),
        (b'{"format_version": 2, "shards": []}', "not a dataset manifest"),
        (None, "no dataset here; make it with `occvae data build` or `occvae data import`"),
    ],
)
def test_corrupt_manifests_are_reported(tmp_path, content, message):
    if content is not None:
        (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(UserError, match=rf"dataset\.json: {message}") as caught:
        Manifest.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"layouts": None},
        {"layouts": {"train": 3}},
        {"notes": None},
        {"notes": {"a": 1}},
        {"skipped": ["a"]},
        {"categories": [1]},
        {"complete": "yes"},
        {"shards": [{**SHARD, "split": "banana"}]},
        {"shards": [{**SHARD, "file": 5}]},
        {"shards": [{**SHARD, "file": "../x.h5"}]},
        {"shards": [{**SHARD, "num_shapes": None}]},
        {"settings": "x"},
    ],
)
def test_manifests_with_wrong_types_are_reported(tmp_path, change):
    layouts = {"train": {"voxels": [32]}}
    manifest = Manifest("voxels", "own", {}, ["a"], layouts, [ShardEntry(**SHARD)], complete=True)
    manifest.save(tmp_path)
    content = json.loads((tmp_path / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps({**content, **change}))
    with pytest.raises(UserError, match=r"dataset\.json: not a dataset manifest \(") as caught:
        Manifest.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_verify_refuses_a_dataset_without_shapes(tmp_path):
    Manifest("voxels", "own", {}, [], complete=True).save(tmp_path)
    with pytest.raises(UserError, match="the dataset has no shapes; build or import it again"):
        verify_dataset(tmp_path)


@pytest.mark.parametrize("where", [0.0, 0.3, 0.6, 1.0])
def test_verify_finds_one_flipped_bit(copy, where):
    assert verify_dataset(copy).complete
    path = copy / "val-00000.h5"
    content = bytearray(path.read_bytes())
    content[int(where * (len(content) - 1))] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"val-00000\.h5: SHA-256 differs"):
        verify_dataset(copy)


def test_verify_reports_lost_and_truncated_shards(copy):
    path = copy / "val-00000.h5"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"val-00000\.h5"):
        verify_dataset(copy)
    path.unlink()
    with pytest.raises(UserError, match=r"val-00000\.h5: the shard is missing"):
        verify_dataset(copy)


@pytest.fixture
def small_disk(tmp_path):
    with mounted(tmp_path / "disk", "64k") as folder:
        yield folder


def test_a_full_disk_gives_a_one_line_error_and_leaves_no_file(small_disk):
    """Runs in a separate process, because HDF5 might abort it."""
    path = small_disk / "train-00000.h5"
    program = (
        "from pathlib import Path\n"
        "from tests.data.test_shards import random_sample, write_shard\n"
        f"write_shard(Path({str(path)!r}), [random_sample(seed) for seed in range(99)])"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    line = f"WriteError: {path}: cannot be written (No space left on device); fix that"
    assert ended.returncode == 1 and line in ended.stderr.splitlines()[-1]
    assert list(small_disk.iterdir()) == []


def test_more_shards_than_open_files_can_be_read(path, samples):
    """No shard is reported as damaged, and files that are no longer read are closed."""
    many = [Shard(path.parent, entry_of(path)) for _ in range(2 * shards._MAX_OPEN)]
    for _ in range(2):
        for shard in many:
            np.testing.assert_array_equal(shard.voxels(1), samples[1].voxels[3])
    assert sum(shard._file is not None for shard in many) <= shards._MAX_OPEN


def test_failures_of_the_machine_are_not_reported_as_damage(path, monkeypatch):
    entry = entry_of(path)
    shard = Shard(path.parent, entry)
    opened = [os.open(path, os.O_RDONLY)]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened[0] + 1, limits[1]))
    try:
        with pytest.raises(OSError):
            while True:
                opened.append(os.open(path, os.O_RDONLY))
        for read in (lambda: shard.voxels(0), lambda: Shard(path.parent, entry)):
            with pytest.raises(UserError) as caught:
                read()
            assert str(caught.value) == f"{path}: cannot be read (Too many open files)"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for file in opened:
            os.close(file)


def test_a_manifest_that_cannot_be_written_leaves_no_partial_file(tmp_path, monkeypatch):
    def replace(*paths):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("occvae.system.atomic_write.os.replace", replace)
    with pytest.raises(UserError, match=r"dataset.json: cannot be written .No space left"):
        Manifest("list", "own", {}, []).save(tmp_path)
    assert list(tmp_path.iterdir()) == []

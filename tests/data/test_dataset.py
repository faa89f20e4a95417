"""A sample depends only on (seed, epoch, index), and the sampler only on the step."""

import errno
import mmap
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from occvae.data.build import build_dataset
from occvae.data.dataset import ShapeDataset
from occvae.data.formats.voxels import VoxelArchiveSource
from occvae.data.loader import StepSampler, load_batches
from occvae.data.sample import Sample
from occvae.data.shapes import ShapeSettings
from occvae.data.sources import Item
from occvae.data.targets import PointTarget, VoxelTarget
from occvae.errors import UserError
from occvae.images.io import encode_png, load_square_image

RESOLUTION, SIZE, VIEWS = 8, 24, 4


@pytest.fixture(scope="module")
def lopsided(tmp_path_factory) -> Path:
    """A dataset of shapes that differ from their mirror images."""
    folder = tmp_path_factory.mktemp("lopsided")
    voxels = np.random.default_rng(0).random((9, *(RESOLUTION,) * 3)) < 0.3
    np.savez(folder / "noise.npz", voxels=voxels)
    settings = ShapeSettings(
        num_points=1024,
        num_near_points=512,
        voxel_resolutions=(RESOLUTION, 2 * RESOLUTION),
        num_views=VIEWS,
        image_size=SIZE,
    )
    source = VoxelArchiveSource([folder / "noise.npz"], settings, up="y")
    build_dataset(source, folder / "data", num_workers=1)
    return folder / "data"


def open_set(root: Path, **changes) -> ShapeDataset:
    options = {"image_size": SIZE, "target": PointTarget(512), "num_views": 2, "train": True}
    return ShapeDataset(root, "train", **options | changes)


def same(first: dict, second: dict) -> bool:
    return all(np.array_equal(first[key], second[key]) for key in first)


def test_samples_have_the_documented_shapes_dtypes_and_ranges(lopsided):
    sample = open_set(lopsided)[2, 5]
    assert sample["images"].shape == (2, 3, SIZE, SIZE) and sample["images"].dtype == torch.uint8
    assert sample["points"].shape == (512, 3) and sample["points"].dtype == torch.float32
    assert sample["occupancies"].dtype == torch.float32
    assert set(sample["occupancies"].tolist()) == {0.0, 1.0}
    assert sample["points"].abs().max() < 0.55
    assert sample["index"] == 5


def test_a_sample_is_a_function_of_seed_epoch_and_index(lopsided):
    dataset, again = open_set(lopsided), open_set(lopsided)
    expected = dataset[4, 3]
    for other in [(0, 0), (1, 3), (4, 2)]:
        assert not same(expected, dataset[other])
    assert same(expected, again[4, 3])
    assert not same(expected, open_set(lopsided, seed=1)[4, 3])


def test_evaluation_takes_the_first_views_and_points(lopsided):
    dataset = open_set(lopsided, train=False)
    sample = dataset[3]
    assert same(sample, dataset[7, 3])
    shard, local = dataset.locate(3)
    points, occupancies = shard.points(local, 0, 512)
    np.testing.assert_array_equal(sample["points"], points)
    np.testing.assert_array_equal(sample["occupancies"], occupancies)
    for view in range(2):
        image = load_square_image(shard.image(local, view), SIZE).transpose(2, 0, 1)
        np.testing.assert_array_equal(sample["images"][view], image)


def agreement(dataset: ShapeDataset, sample: dict, sign: float) -> float:
    """Share of points whose occupancy is that of the voxels, with x multiplied by `sign`."""
    shard, local = dataset.locate(sample["index"])
    points = sample["points"].numpy() * [sign, 1.0, 1.0]
    cells = np.floor((points + 0.5) * RESOLUTION).astype(int)
    inside = ((cells >= 0) & (cells < RESOLUTION)).all(axis=1)
    cells = cells.clip(0, RESOLUTION - 1)
    expected = inside & shard.voxels(local)[tuple(cells.T)]
    return float((expected == sample["occupancies"].numpy().astype(bool)).mean())


def test_mirroring_flips_the_image_and_the_shape_together(lopsided):
    dataset = open_set(lopsided)
    seen = set()
    for epoch in range(12):
        sample = dataset[epoch, epoch % len(dataset)]
        shard, local = dataset.locate(sample["index"])
        stored = [load_square_image(shard.image(local, view), SIZE) for view in range(VIEWS)]
        images = sample["images"].numpy().transpose(0, 2, 3, 1)
        plain = [any(np.array_equal(p, s) for s in stored) for p in images]
        flipped = [any(np.array_equal(p[:, ::-1], s) for s in stored) for p in images]
        assert all(plain) != all(flipped)
        sign = 1.0 if all(plain) else -1.0
        assert agreement(dataset, sample, sign) > 0.995
        assert agreement(dataset, sample, -sign) < 0.9
        seen.add(sign)
    assert seen == {1.0, -1.0}


def test_views_of_a_sample_differ_and_all_views_occur(lopsided):
    dataset = open_set(lopsided, num_views=VIEWS)
    images = dataset[0, 0]["images"]
    assert len({view.numpy().tobytes() for view in images}) == VIEWS
    orders = {dataset[epoch, 0]["images"][0].numpy().tobytes() for epoch in range(30)}
    assert len(orders) > VIEWS  # the first view, plain and mirrored


def test_a_sample_has_any_number_of_stored_points(lopsided):
    for count in (1, 7, 100, 1024):
        sample = open_set(lopsided, target=PointTarget(count))[0, 0]
        assert sample["points"].shape == (count, 3) and sample["occupancies"].shape == (count,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": PointTarget(0)}, "num_points must be between 1 and 1024, .*; got 0"),
        (
            {"target": PointTarget(1025)},
            "num_points must be between 1 and 1024, .*; got 1025",
        ),
        ({"num_views": 5}, "num_views must be between 1 and 4, .*; got 5"),
        ({"num_views": -1}, "num_views must be between"),
    ],
)
def test_more_points_or_views_than_stored_are_refused(lopsided, changes, message):
    with pytest.raises(UserError, match=message):
        open_set(lopsided, **changes)


def test_unknown_splits_and_folders_are_refused(lopsided, tmp_path):
    with pytest.raises(UserError, match="has no shapes in split 'test'"):
        ShapeDataset(lopsided, "test", image_size=8)
    with pytest.raises(UserError, match="no dataset here"):
        open_set(tmp_path)


def test_shapes_are_found_across_shards(tiny_dataset):
    dataset = ShapeDataset(tiny_dataset, "train", image_size=8)
    assert len(dataset.shards) > 1
    found = [shard.ids[local] for shard, local in map(dataset.locate, range(len(dataset)))]
    assert found == dataset.ids and len(set(found)) == len(dataset)
    for index in (-1, len(dataset)):
        with pytest.raises(IndexError):
            dataset.locate(index)


def batches(steps: range, *, rank: int = 0, ranks: int = 2, samples: int = 12, batch: int = 3):
    sampler = StepSampler(samples, batch, rank=rank, world_size=ranks, seed=5, steps=steps)
    assert len(sampler) == len(steps)
    return list(sampler)


def global_sequence(steps: range, ranks: int, **options) -> list[tuple[int, int]]:
    """The keys of all ranks, step by step."""
    by_rank = [batches(steps, rank=rank, ranks=ranks, **options) for rank in range(ranks)]
    return [key for step in zip(*by_rank, strict=True) for batch in step for key in batch]


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize(("samples", "batch"), [(12, 2), (12, 4), (13, 2), (17, 5)])
def test_every_sample_occurs_once_per_epoch_on_any_number_of_ranks(samples, batch, ranks):
    steps = 3 * samples // (batch * ranks) + 1
    keys = global_sequence(range(steps), ranks, samples=samples, batch=batch)
    orders = [keys[epoch * samples : (epoch + 1) * samples] for epoch in range(3)]
    for epoch, order in enumerate(orders):
        # All samples occur, also if the batch size does not divide their number.
        assert {number for number, _ in order} == {epoch}
        assert sorted(index for _, index in order) == list(range(samples))
    assert len({tuple(index for _, index in order) for order in orders}) == 3
    one = global_sequence(range(3 * samples), 1, samples=samples, batch=1)
    assert keys[: 3 * samples] == one  # the same order on any number of ranks


def test_a_resume_with_another_batch_continues_at_its_position():
    seen = global_sequence(range(5), 1, samples=13, batch=8)
    sampler = StepSampler(13, 3, rank=0, world_size=1, seed=5, steps=range(5, 9), position=40)
    keys = seen + [key for batch in sampler for key in batch]
    assert keys == global_sequence(range(52), 1, samples=13, batch=1)


@pytest.mark.parametrize("ranks", [(1, 3), (3, 1), (2, 3), (3, 2)])
@pytest.mark.parametrize("steps", [0, 1, 2, 7])
def test_a_resume_on_other_ranks_neither_repeats_nor_skips_samples(ranks, steps):
    """The trainer makes the ranks share the same global batch."""
    before, after = ranks
    seen = global_sequence(range(steps), before, samples=13, batch=6 // before)
    rest = global_sequence(range(steps, steps + 9), after, samples=13, batch=6 // after)
    keys = seen + rest
    assert keys == global_sequence(range(len(keys)), 1, samples=13, batch=1)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("target", [PointTarget(512), VoxelTarget()], ids=["points", "voxels"])
@pytest.mark.parametrize("views", [None, (1, 2)])
def test_any_number_of_workers_gives_the_batches_of_the_sampler(lopsided, workers, target, views):
    """Reads more batches than are prefetched, some at once and some when all are waiting."""
    dataset = open_set(lopsided, target=target)
    sampler = StepSampler(
        len(dataset), 3, rank=1, world_size=2, seed=5, steps=range(2, 30), random_views=views
    )
    loader = load_batches(dataset, sampler, num_workers=workers, pin_memory=False)
    taken = []
    for batch in loader:
        taken.append(batch)
        if workers and len(taken) in (1, 15):
            time.sleep(0.1)
    for keys, batch in zip(sampler, taken, strict=True):
        assert batch["index"].tolist() == [key[1] for key in keys]
        expected = default_collate([dataset[key] for key in keys])
        assert same(expected, batch)
        assert {n: t.dtype for n, t in expected.items()} == {n: t.dtype for n, t in batch.items()}


def test_batches_larger_than_memory_are_refused(lopsided, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", refuse)
    sampler = StepSampler(9, 3, rank=0, world_size=1, seed=5, steps=range(1))
    with pytest.raises(UserError, match=r"5 batches of 3 .* memory\); lower data.num_workers"):
        load_batches(open_set(lopsided), sampler, num_workers=1, pin_memory=False)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_loader_processes_survive_sigint_and_sigterm(lopsided, number):
    """Signals are blocked from the start of the processes."""
    sampler = StepSampler(8, 3, rank=0, world_size=1, seed=5, steps=range(3))
    for _ in range(5):
        loader = load_batches(open_set(lopsided), sampler, num_workers=2, pin_memory=False)
        for process in multiprocessing.active_children():
            os.kill(process.pid, number)
        assert len(list(loader)) == 3


LEFT_OPEN = """
import sys
from occvae.data.dataset import ShapeDataset
from occvae.data.loader import StepSampler, load_batches

dataset = ShapeDataset(sys.argv[1], "train", image_size=8)
sampler = StepSampler(len(dataset) + 1, 3, rank=0, world_size=1, seed=5, steps=range(1000))
begun, fresh = (load_batches(dataset, sampler, num_workers=1, pin_memory=False) for _ in "ab")
while True:
    next(begun)
"""


def test_python_exits_with_unread_batches(lopsided):
    """It also exits if the traceback of an error keeps the loader alive."""
    command = [sys.executable, "-W", "ignore", "-c", LEFT_OPEN, str(lopsided)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert ended.stderr.strip().endswith(
        "IndexError: there is no shape 8: the dataset has 8 shapes"
    )


@pytest.mark.parametrize("start", [0, 1, 2, 5])
def test_a_resume_continues_the_same_batches(start):
    assert batches(range(start, 9)) == batches(range(9))[start:]


@pytest.mark.parametrize("samples", [1, 5, 13])
def test_a_small_dataset_fills_a_batch_with_several_epochs(samples):
    """All samples occur equally often, up to one, and each time in a new epoch."""
    keys = global_sequence(range(1), 2, samples=samples, batch=7)
    assert len(set(keys)) == len(keys) == 14
    counts = np.bincount([index for _, index in keys], minlength=samples)
    assert counts.max() - counts.min() <= 1


def test_a_voxel_target_replaces_points(lopsided):
    dataset = open_set(lopsided, target=VoxelTarget())
    seen = set()
    for epoch in range(12):
        sample, points = dataset[epoch, 4], open_set(lopsided)[epoch, 4]
        assert "points" not in sample and sample["voxels"].dtype == torch.bool
        assert torch.equal(
            sample["images"], points["images"]
        )  # the same views with the same mirroring
        shard, local = dataset.locate(4)
        stored = torch.from_numpy(shard.voxels(local))
        plain = torch.equal(sample["voxels"], stored)
        assert plain != torch.equal(sample["voxels"], stored.flip(0))
        assert plain == (agreement(dataset, points, 1.0) > 0.995)
        seen.add(plain)
    assert seen == {True, False}


def test_a_key_may_give_the_number_of_views(lopsided):
    dataset = open_set(lopsided)
    for count in (1, 3, VIEWS):
        assert len(dataset[2, 5, count]["images"]) == count
    assert torch.equal(dataset[2, 5, 1]["images"], dataset[2, 5, 3]["images"][:1])


def test_augmented_images_keep_their_shape(lopsided):
    plain, augmented = open_set(lopsided), open_set(lopsided, augment=True)
    first, second = plain[1, 2], augmented[1, 2]
    assert torch.equal(first["points"], second["points"])
    assert not torch.equal(first["images"], second["images"])
    assert same(second, open_set(lopsided, augment=True)[1, 2])


def test_transparent_images_get_the_gray_background(lopsided, monkeypatch):
    clear = encode_png(np.zeros((SIZE, SIZE, 4), np.uint8))
    monkeypatch.setattr("occvae.data.shards.Shard.image", lambda *place: clear)
    assert (open_set(lopsided)[0]["images"] == 255).all()
    assert (open_set(lopsided, background_gray=240)[0]["images"] == 240).all()
    # Augmented images have a random background.
    augmented = open_set(lopsided, augment=True)[0]
    assert same(augmented, open_set(lopsided, augment=True, background_gray=240)[0])


def test_all_ranks_of_a_step_have_the_same_number_of_views():
    def keys(rank: int) -> list[list[tuple[int, ...]]]:
        options = {"world_size": 2, "seed": 5, "steps": range(60), "random_views": (2, 4)}
        return list(StepSampler(12, 3, rank=rank, **options))

    steps = [
        {key[2] for key in first + second} for first, second in zip(keys(0), keys(1), strict=True)
    ]
    assert all(len(counts) == 1 for counts in steps)
    assert set.union(*steps) == {2, 3, 4}
    assert [[key[:2] for key in batch] for batch in keys(0)] == batches(range(60))


def test_points_near_the_surface_follow_the_uniform_ones(lopsided):
    uniform, mixed = open_set(lopsided), open_set(lopsided, target=PointTarget(512, 128))
    assert mixed[1, 2]["points"].shape == uniform[1, 2]["points"].shape == (512, 3)
    stored, occupied = mixed.shards[0].near_points(2, 0, 512)
    near = mixed[1, 2]["points"][-128:].numpy()
    places = [np.flatnonzero((np.abs(stored) == np.abs(point)).all(1)) for point in near]
    assert all(len(place) for place in places)  # mirrored or not
    expected = occupied[[place[0] for place in places]]
    np.testing.assert_array_equal(mixed[1, 2]["occupancies"][-128:], expected)
    with pytest.raises(UserError, match="has 512 points near the surface per shape, but .* is 600"):
        open_set(lopsided, target=PointTarget(800, 600))


def test_a_voxel_target_reads_its_resolution(lopsided):
    for resolution in (None, RESOLUTION, 2 * RESOLUTION):
        sample = open_set(lopsided, target=VoxelTarget(resolution))[0, 0]
        assert sample["voxels"].shape == (resolution or RESOLUTION,) * 3
    with pytest.raises(UserError, match=r"has no voxels of 7\^3 \(stored: 8\^3, 16\^3\)"):
        open_set(lopsided, target=VoxelTarget(7))


class VoxelsOnly:
    """Samples of images and voxels only, like those of Pix2Vox."""

    name, splits, settings = "fake", "own", {}

    def __init__(self):
        self.items = [Item("a", "object", "train")]
        self.skipped: dict[str, str] = {}

    def sample(self, index: int) -> Sample:
        grid = np.random.default_rng(0).random((4, 4, 4)) < 0.5
        image = encode_png(np.zeros((5, 5, 3), np.uint8))
        return Sample(id="a", category="object", images=[image], voxels={4: grid})


def test_points_are_drawn_from_voxels(tmp_path):
    build_dataset(VoxelsOnly(), tmp_path, num_workers=1)
    options = {"image_size": 8, "target": PointTarget(4096)}
    dataset = ShapeDataset(tmp_path, "train", **options)
    sample = dataset[0]
    assert same(
        sample, ShapeDataset(tmp_path, "train", **options, seed=5)[0]
    )  # not on the seed of the run
    points, occupancies = sample["points"].numpy(), sample["occupancies"].numpy()
    assert points.min() < -0.54 and points.max() > 0.54
    cells = np.floor((points + 0.5) * 4).astype(int)
    inside = ((cells >= 0) & (cells < 4)).all(1)
    assert not occupancies[~inside].any()
    grid = VoxelsOnly().sample(0).voxels[4]
    np.testing.assert_array_equal(occupancies[inside], grid[tuple(cells[inside].T)])
    training = ShapeDataset(tmp_path, "train", **options, train=True)
    assert not same(training[0, 0], training[1, 0])

"""Batches that are made on the device have the samples of the loader."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from occvae.data import device_dataset
from occvae.data.build import build_dataset
from occvae.data.dataset import ShapeDataset
from occvae.data.device_dataset import DeviceDataset
from occvae.data.loader import StepSampler, load_batches
from occvae.data.points import dequantize_points, quantize_points
from occvae.data.sample import Sample
from occvae.data.sources import Item
from occvae.data.targets import PointTarget, VoxelTarget
from occvae.errors import UserError
from occvae.geometry.voxelize import occupancies_from_voxels
from occvae.images.io import encode_png

CPU = torch.device("cpu")
RESOLUTION, SIZE, VIEWS, SHAPES = 8, 24, 4, 9


class Noise:
    """Shapes and images of noise, which differ from their mirror images."""

    name, splits, settings = "fake", "own", {}

    def __init__(self, with_points: bool):
        self.items = [Item(str(number), "object", "train") for number in range(SHAPES)]
        self.skipped: dict[str, str] = {}
        self.with_points = with_points

    def sample(self, index: int) -> Sample:
        rng = np.random.default_rng(index)
        coarse = rng.random((RESOLUTION,) * 3) < 0.3
        fine = coarse.repeat(2, 0).repeat(2, 1).repeat(2, 2)
        images = [encode_png(rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)) for _ in range(VIEWS)]
        voxels = {RESOLUTION: coarse, 2 * RESOLUTION: fine}
        sample = Sample(id=str(index), category="object", images=images, voxels=voxels)
        if self.with_points:
            for name, count in (("", 1024), ("near_", 512)):
                points = quantize_points(rng.uniform(-0.55, 0.55, (count, 3)))
                inside = occupancies_from_voxels(fine, dequantize_points(points))
                setattr(sample, f"{name}points", points)
                setattr(sample, f"{name}occupancies", inside)
        return sample


@pytest.fixture(scope="module", params=[True, False], ids=["points", "voxels"])
def root(request, tmp_path_factory) -> Path:
    """A dataset with points and voxels, and one with voxels only."""
    folder = tmp_path_factory.mktemp("data")
    build_dataset(Noise(request.param), folder, shapes_per_shard=4, num_workers=1)
    return folder


def open_set(root: Path, **changes) -> ShapeDataset:
    options = {"image_size": SIZE, "target": PointTarget(200), "num_views": 2, "train": True}
    return ShapeDataset(root, "train", **options | changes)


def sampler(steps: range = range(6), **changes) -> StepSampler:
    options = {"batch_size": 4, "rank": 0, "world_size": 1, "seed": 0, "steps": steps}
    return StepSampler(SHAPES, **options | changes)


def batches(root: Path, *steps, dataset=None, **changes) -> list[dict[str, torch.Tensor]]:
    held = DeviceDataset(dataset or open_set(root), CPU)
    return list(held.batches(sampler(*steps, **changes)))


def same(first: dict, second: dict) -> bool:
    assert first.keys() == second.keys()
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_batches_have_the_shapes_dtypes_and_order_of_the_loader(root):
    for target in (PointTarget(200), PointTarget(101, 36), VoxelTarget(), VoxelTarget(16), None):
        if isinstance(target, PointTarget) and not open_set(root).shards[0].num_near_points:
            target = PointTarget(101)
        dataset = open_set(root, target=target)
        expected = list(load_batches(dataset, sampler(), num_workers=0, pin_memory=False))
        found = batches(root, dataset=dataset)
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.keys() == theirs.keys()
            assert torch.equal(ours["index"], theirs["index"])
            for name, value in theirs.items():
                assert ours[name].shape == value.shape and ours[name].dtype == value.dtype


def find_views(dataset: ShapeDataset, batch: dict, row: int) -> tuple[list[int], bool]:
    """Returns which stored views the images of a sample are, and whether they are mirrored."""
    shard, local = dataset.locate(int(batch["index"][row]))
    stored = torch.stack([dataset.read_image(shard, local, view) for view in range(VIEWS)])
    for mirrored in (False, True):
        images = batch["images"][row].flip(-1) if mirrored else batch["images"][row]
        equal = (images[:, None] == stored).all(dim=(2, 3, 4))
        if equal.any(dim=1).all():
            return equal.int().argmax(dim=1).tolist(), mirrored
    raise AssertionError("the images are not stored views of the shape")


def test_images_are_stored_views_and_mirrored_with_points_and_voxels(root):
    points = open_set(root, target=PointTarget(200))
    voxels = open_set(root, target=VoxelTarget())
    seen, flips = set(), []
    pairs = (batches(root, range(12), dataset=dataset) for dataset in (points, voxels))
    for with_points, with_voxels in zip(*pairs, strict=True):
        assert torch.equal(with_points["images"], with_voxels["images"])
        for row in range(4):
            views, mirrored = find_views(points, with_points, row)
            assert len(set(views)) == 2  # without repetition
            seen.update(views)
            flips.append(mirrored)
            shard, local = points.locate(int(with_points["index"][row]))
            grid = shard.voxels(local, RESOLUTION)
            expected = grid[::-1] if mirrored else grid
            assert (with_voxels["voxels"][row].numpy() == expected).all()
            inside = with_points["occupancies"][row].numpy().astype(bool)
            places = with_points["points"][row].numpy() * [-1.0 if mirrored else 1.0, 1.0, 1.0]
            truth = occupancies_from_voxels(shard.voxels(local, 2 * RESOLUTION), places)
            assert (truth == inside).mean() > 0.98
            assert (occupancies_from_voxels(grid[::-1], places) == inside).mean() < 0.9
    assert seen == set(range(VIEWS)) and 10 < sum(flips) < 38


@pytest.mark.parametrize("root", [True], ids=["points"], indirect=True)
def test_stored_points_are_consecutive_and_any_of_them(root):
    dataset = open_set(root, target=PointTarget(200, 60))
    starts: dict[int, set[int]] = {1024: set(), 512: set()}
    for batch in batches(root, range(20), dataset=dataset):
        for row in range(4):
            _, mirrored = find_views(dataset, batch, row)
            shard, local = dataset.locate(int(batch["index"][row]))
            found = batch["points"][row].numpy() * [-1.0 if mirrored else 1.0, 1.0, 1.0]
            for part, stored in ((slice(0, 140), 1024), (slice(140, 200), 512)):
                read = shard.points if stored == 1024 else shard.near_points
                points, inside = read(local, 0, stored)
                [start] = np.flatnonzero((points == found[part][0]).all(axis=1))
                chosen = slice(start, start + part.stop - part.start)
                np.testing.assert_array_equal(points[chosen], found[part])
                np.testing.assert_array_equal(inside[chosen], batch["occupancies"][row, part])
                starts[stored].add(int(start))
    for stored, found in starts.items():
        assert all(start % 8 == 0 for start in found)
        assert min(found) < 0.15 * stored and max(found) > 0.65 * stored


def test_points_fill_the_cube(root):
    points = torch.cat([batch["points"].flatten(0, 1) for batch in batches(root, range(20))])
    assert 0.545 < points.abs().max() <= 0.55
    assert points.mean(dim=0).abs().max() < 0.02
    torch.testing.assert_close(points.std(dim=0), torch.full((3,), 0.3175), rtol=0.03, atol=0)


def test_a_batch_is_a_function_of_seed_step_and_rank(root):
    dataset = open_set(root, augment=True)
    whole = batches(root, range(6), dataset=dataset)
    resumed = batches(root, range(3, 6), dataset=dataset)
    assert all(map(same, whole[3:], resumed))
    reseeded = open_set(root, augment=True, seed=1)
    assert not same(whole[0], batches(root, range(1), dataset=reseeded)[0])
    other = batches(root, range(1), dataset=dataset, rank=1, world_size=2)[0]
    assert not torch.equal(other["points"], whole[0]["points"])


def test_two_ranks_see_disjoint_shapes_that_are_those_of_one_rank(root):
    one = batches(root, range(2), batch_size=8)
    two = [batches(root, range(2), rank=rank, world_size=2) for rank in (0, 1)]
    for step in range(2):
        together = [batch for rank in two for batch in rank[step]["index"].tolist()]
        assert together == one[step]["index"].tolist()
    assert not set(two[0][0]["index"].tolist()) & set(two[1][0]["index"].tolist())


def test_the_number_of_views_is_that_of_the_step(root):
    found = batches(root, range(12), dataset=open_set(root, num_views=3), random_views=(1, 3))
    assert {batch["images"].shape[1] for batch in found} == {1, 2, 3}


def test_augmentation_changes_images_and_leaves_the_shapes(root):
    plain, augmented = (
        batches(root, range(2), dataset=open_set(root, target=VoxelTarget(), augment=flag))
        for flag in (False, True)
    )
    for first, second in zip(plain, augmented, strict=True):
        assert torch.equal(first["voxels"], second["voxels"])
        changed = (first["images"].float() - second["images"].float()).abs().mean(dim=(1, 2, 3, 4))
        assert (changed > 1.0).all()


def test_a_split_that_does_not_fit_is_refused(root, monkeypatch):
    monkeypatch.setattr(device_dataset, "available_memory", lambda device: 100_000)
    message = (
        r": its training split takes 0.0 GB with images of 24 pixels, but at most 60% of the "
        r"0.0 GB that are free on cpu may be used; set data.on_device=false or lower model.image"
    )
    with pytest.raises(UserError, match=message):
        DeviceDataset(open_set(root), CPU)


def test_other_samples_are_refused(root):
    @dataclasses.dataclass
    class Other(VoxelTarget):
        resolution: int = RESOLUTION

    for dataset, message in (
        (open_set(root, image_size=None), "for training on images; set data.on_device=false"),
        (open_set(root, train=False), "for training on images"),
        (open_set(root, target=Other()), "knows points and voxels, but not Other; set data.on_d"),
    ):
        with pytest.raises(UserError, match=message):
            DeviceDataset(dataset, CPU)


def test_damaged_images_are_named(root, monkeypatch):
    monkeypatch.setattr("occvae.data.shards.Shard.image", lambda *place: b"broken")
    with pytest.raises(UserError, match="view 0: "):
        DeviceDataset(open_set(root), CPU)

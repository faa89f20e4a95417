"""Datasets deliver what a model observes, at random in training, and mirrored like the target."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from occvae.data.build import build_dataset
from occvae.data.formats.procedural import ProceduralSource
from occvae.data.loader import StepSampler, load_batches
from occvae.data.observations import CloudReader, open_split
from occvae.data.shards import Shard
from occvae.data.targets import PointTarget, VoxelTarget
from occvae.errors import UserError
from occvae.observations.kinds import Images, LabeledPoints, Mixture, PointCloud, VoxelGrid
from tests.tiny import RESOLUTION, SETTINGS

OBSERVATIONS = (
    PointCloud(40),
    PointCloud(40, scans=1.0),
    VoxelGrid(RESOLUTION),
    LabeledPoints(64),
)


def distance_to_box(points: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Distance of points (N, 3) to the surface of an axis-aligned box."""
    outside = np.maximum(np.maximum(low - points, points - high), 0.0)
    inside = np.minimum(points - low, high - points).min(axis=1)
    return np.where(inside > 0, inside, np.linalg.norm(outside, axis=1))


def box_of(voxels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    cells = torch.nonzero(voxels).numpy()
    return cells.min(0) / RESOLUTION - 0.5, (cells.max(0) + 1) / RESOLUTION - 0.5


@pytest.mark.parametrize("train", [False, True])
def test_clouds_lie_on_the_surface_up_to_their_noise(tiny_cloud_dataset, train):
    for noise, low, high in ((0.0, 0.0, 1e-4), (0.01, 0.004, 0.01)):
        observation = PointCloud(200, noise)
        target = VoxelTarget()
        dataset = open_split(
            tiny_cloud_dataset, "train", observation, target=target, train=train, seed=3
        )
        for index in range(8):  # about half of them are mirrored in training
            sample = dataset[1, index]
            assert sample.keys() == {"index", "cloud", "voxels"}
            cloud = sample["cloud"]
            assert cloud.dtype == torch.float32 and cloud.shape == (200, 3)
            distance = distance_to_box(cloud.numpy().astype(float), *box_of(sample["voxels"]))
            # The median of |N(0, 1)| is 0.67. The surface bevels the edges of the box.
            assert low <= np.median(distance) <= high and distance.max() < 0.03 + 5 * noise


def test_without_surface_points_clouds_are_drawn_from_the_stored_mesh(tmp_path):
    source = ProceduralSource(2, dataclasses.replace(SETTINGS, num_surface_points=8))
    root = tmp_path / "data"
    build_dataset(source, root, shapes_per_shard=16, num_workers=1)
    dataset = open_split(root, "train", PointCloud(300, 0.0))
    shard, local = dataset.locate(0)
    assert not shard.num_surface_points
    vertices, _ = shard.mesh(local)
    cloud = dataset[0]["cloud"].numpy()
    assert len(np.unique(cloud, axis=0)) == 300
    assert (cloud >= vertices.min(0) - 1e-6).all() and (cloud <= vertices.max(0) + 1e-6).all()
    extent = np.ptp(vertices, axis=0)
    assert (np.ptp(cloud, axis=0) > 0.7 * extent).all()


def test_a_scan_has_the_points_of_one_side(tiny_cloud_dataset):
    """A camera outside a box sees at most three of its six sides, and no side from behind."""
    dataset = open_split(
        tiny_cloud_dataset, "train", PointCloud(200, 0.0, scans=1.0), target=VoxelTarget()
    )
    for index in range(8):
        sample = dataset[index]
        low, high = box_of(sample["voxels"])
        cloud = sample["cloud"].numpy().astype(float)
        assert distance_to_box(cloud, low, high).max() < 0.03
        near = [
            np.abs(cloud[:, axis] - side[axis]) < 0.01 for axis in range(3) for side in (low, high)
        ]
        seen = [bool(part.mean() > 0.05) for part in near]
        assert seen[3]  # the top: cameras are above
        assert not seen[2] and not (seen[0] and seen[1]) and not (seen[4] and seen[5])


def test_half_of_the_clouds_are_scans(tiny_cloud_dataset):
    """The points of a scan lie on one side of the box, so their mean is off its center."""
    dataset = open_split(
        tiny_cloud_dataset, "train", PointCloud(100, 0.0, scans=0.5), train=True, seed=1
    )
    offsets = [float(dataset[0, index]["cloud"].mean(dim=0).norm()) for index in range(64)]
    assert 20 < sum(offset > 0.12 for offset in offsets) < 44


def test_a_mixture_holds_what_its_kinds_do(tiny_cloud_dataset):
    mixture = Mixture(Images(24), PointCloud(40), VoxelGrid(RESOLUTION))
    options = {"num_views": 2, "train": True, "target": PointTarget(64)}
    dataset = open_split(tiny_cloud_dataset, "train", mixture, **options)
    sample = dataset[0, 3]
    assert sample.keys() == {"index", "images", "cloud", "grid", "points", "occupancies"}
    batch = {name: value[None] for name, value in sample.items() if name != "index"}
    observed = mixture.of(batch)
    assert observed.keys() == {"images", "points", "voxels"}
    assert observed["images"].shape == (1, 2, 3, 24, 24) and observed["images"].max() <= 1.0
    assert torch.equal(observed["points"], batch["cloud"])
    assert torch.equal(observed["voxels"], batch["grid"])
    images_only = mixture.in_evaluation()
    assert mixture.of({"images": batch["images"]}).keys() == {"images"}
    assert open_split(tiny_cloud_dataset, "val", images_only)[0].keys() == {"index", "images"}
    points_only = Mixture(points=PointCloud(7))
    assert open_split(tiny_cloud_dataset, "val", points_only)[0].keys() == {"index", "cloud"}


def test_a_dataset_without_surfaces_is_refused(tiny_dataset):
    with pytest.raises(UserError) as caught:
        open_split(tiny_dataset, "train", PointCloud())
    assert str(caught.value).startswith(f"{tiny_dataset}: train-")
    assert "neither surface points nor a mesh for each shape" in str(caught.value)
    assert "--training-surface" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no voxels of 8"):
        open_split(tiny_dataset, "train", VoxelGrid(8))


def test_a_shape_without_a_surface_among_others_is_named(tiny_dataset, monkeypatch):
    monkeypatch.setattr(CloudReader, "check", lambda *_: None)  # it sees the first shard only
    dataset = open_split(tiny_dataset, "train", PointCloud())
    with pytest.raises(UserError, match=f"shape {dataset.ids[3]} has neither surface points"):
        dataset[3]


@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_samples_follow_from_seed_epoch_and_index(tiny_cloud_dataset, observation):
    def sample(seed: int, epoch: int, train: bool = True) -> torch.Tensor:
        dataset = open_split(tiny_cloud_dataset, "train", observation, train=train, seed=seed)
        return dataset[epoch, 5][observation.key]

    assert torch.equal(sample(1, 2), sample(1, 2))
    if not isinstance(observation, VoxelGrid):  # grids are not random apart from mirroring
        assert not torch.equal(sample(1, 0), sample(1, 1))
        assert not torch.equal(sample(1, 0), sample(2, 0))
    assert torch.equal(sample(1, 0, train=False), sample(2, 3, train=False))


def test_observation_and_target_are_mirrored_together(tiny_cloud_dataset, monkeypatch):
    """The shapes of the dataset are symmetric, so here the stored data are replaced."""
    grid = np.arange(RESOLUTION**3).reshape(3 * (RESOLUTION,)) < RESOLUTION**3 // 4  # low x only
    monkeypatch.setattr(Shard, "voxels", lambda *_: grid)
    monkeypatch.setattr(Shard, "surface_points", lambda self, index, rows: np.full((9, 3), 0.25))

    def samples(observation):
        options = {"target": VoxelTarget(RESOLUTION), "train": True}
        dataset = open_split(tiny_cloud_dataset, "train", observation, **options)
        return [dataset[0, index] for index in range(12)]

    mirrored = [bool(sample["voxels"][-1].any()) for sample in samples(VoxelGrid(RESOLUTION))]
    assert len(set(mirrored)) == 2
    for sample in samples(VoxelGrid(RESOLUTION)):
        assert torch.equal(sample["grid"], sample["voxels"])
    for sample in samples(PointCloud(9, 0.0)):
        expected = -0.25 if sample["voxels"][-1].any() else 0.25
        assert (sample["cloud"] == torch.tensor([expected, 0.25, 0.25])).all()


def test_labeled_points_are_the_stored_ones(tiny_cloud_dataset):
    count = SETTINGS.num_points
    target = PointTarget(count)
    dataset = open_split(tiny_cloud_dataset, "train", LabeledPoints(count), target=target)
    sample = dataset[3]
    expected = torch.cat([sample["points"], sample["occupancies"][:, None]], dim=1)
    assert torch.equal(sample["labeled_points"], expected)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_loaders_deliver_observations_without_images(tiny_cloud_dataset, observation, workers):
    target = PointTarget(16)
    dataset = open_split(
        tiny_cloud_dataset, "train", observation, target=target, train=True, seed=1
    )
    sampler = StepSampler(len(dataset), 4, rank=0, world_size=1, seed=1, steps=range(2), position=0)
    for batch in load_batches(dataset, sampler, num_workers=workers, pin_memory=False):
        assert batch.keys() == {"index", observation.key, "points", "occupancies"}
        index = int(batch["index"][0])
        assert torch.equal(batch[observation.key][0], dataset[0, index][observation.key])
        assert observation.of(batch) is batch[observation.key]


def test_images_of_a_dataset_are_scaled(tiny_dataset):
    observation = Images(16)
    sample = open_split(tiny_dataset, "val", observation)[0]
    images = observation.of({"images": sample["images"][None]})
    assert images.dtype == torch.float32 and float(images.max()) == 1.0
    assert observation.of({"images": images}) is images


def test_observations_do_not_read_images(tiny_cloud_dataset, monkeypatch):
    monkeypatch.setattr("occvae.data.shards.Shard.image", None)
    dataset = open_split(Path(tiny_cloud_dataset), "val", PointCloud(8), num_views=99)
    assert dataset[0]["cloud"].shape == (8, 3)

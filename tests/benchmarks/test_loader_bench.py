"""loader_bench compares the same shapes, and its simulated GPU measures idle time correctly."""

import argparse
import time

import numpy as np
import pytest
from PIL import Image

import loader_bench
from npz_folder import NOISE, NpzFolder, write_npz_folder
from occvae.data.dataset import ShapeDataset
from occvae.images.io import load_square_image


@pytest.mark.parametrize("with_noise", [True, False])
def test_the_npz_folder_holds_the_points_and_images_of_the_shards(
    tiny_dataset, tmp_path, with_noise
):
    shards = ShapeDataset(tiny_dataset, "train", image_size=24)
    folders = write_npz_folder(shards, tmp_path)
    assert len(folders) == len(shards)
    sample = NpzFolder(folders, 24, 50, with_noise)[0, 3]
    shard, local = shards.locate(3)
    points, occupancies = shard.points(local, 0, shard.num_points)
    for point, inside in zip(sample["points"].numpy(), sample["occupancies"], strict=True):
        distances = np.abs(points.astype(np.float16) - point).max(axis=1)
        nearest = distances.argmin()
        assert distances[nearest] <= (6 * NOISE if with_noise else 0) + 1e-7
        assert with_noise or occupancies[nearest] == bool(inside)
    stored = [load_square_image(shard.image(local, view), 24) for view in range(shard.num_views)]
    found = 255 * sample["images"][0].permute(1, 2, 0).numpy()
    assert min(np.abs(found - image).mean() for image in stored) < 4  # JPEG
    with Image.open(folders[3] / "img_choy2016" / "000.jpg") as image:
        assert image.format == "JPEG"


def test_a_gpu_with_half_the_batches_it_could_take_idles_half_the_time(monkeypatch):
    period = 0.02
    monkeypatch.setattr(loader_bench, "FIRST_STEP", 0.0)
    monkeypatch.setattr(loader_bench, "time_run", lambda *_: (loader_bench.PACE * period, 0.0))

    def slow(dataset, args, workers, count):
        return (time.sleep(2 * period) for _ in range(count))

    monkeypatch.setattr(loader_bench, "batches_of", slow)
    row = loader_bench.simulate(None, argparse.Namespace(batch=1, batches=3), workers=2)
    assert row["samples_per_s"] == pytest.approx(1 / period)
    assert row["late"] > 0.9
    assert 0.4 < row["idle"] < 0.7

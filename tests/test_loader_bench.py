"""The benchmark's folder of .npz files holds the shapes of the shards that it is compared with."""

import numpy as np
import pytest
from PIL import Image

from npz_folder import NOISE, NpzFolder, write_npz_folder
from occvae.data.dataset import ShapeDataset
from occvae.data.images import load_image


@pytest.mark.parametrize("with_noise", [True, False])
def test_the_folder_gives_the_points_and_pictures_of_the_shards(tiny_dataset, tmp_path, with_noise):
    shards = ShapeDataset(tiny_dataset, "train", image_size=24, num_points=8)
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
    stored = [load_image(shard.image(local, view), 24) for view in range(shard.num_views)]
    found = 255 * sample["images"][0].permute(1, 2, 0).numpy()
    assert min(np.abs(found - picture).mean() for picture in stored) < 4  # JPEG
    with Image.open(folders[3] / "img_choy2016" / "000.jpg") as picture:
        assert picture.format == "JPEG"

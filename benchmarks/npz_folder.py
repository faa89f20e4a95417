"""Writes a dataset in the layout of Occupancy Networks and reads it like their training.

category/id/points.npz        points float16 (N, 3), occupancies packed bits, loc, scale
category/id/img_choy2016/     000.jpg, 001.jpg, ...
"""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision import transforms

from occvae.data.dataset import ShapeDataset

# Standard deviation of the noise on every stored point. Half precision puts many points on planes.
NOISE = 1e-4


def write_npz_folder(dataset: ShapeDataset, root: Path) -> list[Path]:
    """Writes all points and images (as JPEG) of a dataset and returns the folders of its shapes."""
    folders = []
    for index in range(len(dataset)):
        shard, local = dataset.locate(index)
        folder = root / shard.categories[local] / f"{index:05d}"
        (folder / "img_choy2016").mkdir(parents=True)
        points, occupancies = shard.points(local, 0, shard.num_points)
        location, scale = shard.original_frame(local)
        np.savez(
            folder / "points.npz",
            points=points.astype(np.float16),
            occupancies=np.packbits(occupancies),
            loc=location,
            scale=scale,
        )
        for view in range(shard.num_views):
            with Image.open(io.BytesIO(shard.image(local, view))) as image:
                path = folder / "img_choy2016" / f"{view:03d}.jpg"
                image.convert("RGB").save(path, quality=90)
        folders.append(folder)
    return folders


class NpzFolder(Dataset):
    """A dataset of random points and a random view per shape.

    Args:
        folders: one folder per shape.
        image_size: edge of the images in pixels.
        num_points: points per sample.
        with_noise: adds noise as in the published code. It takes most of the time of a sample.
    """

    def __init__(self, folders: list[Path], image_size: int, num_points: int, with_noise: bool):
        self.folders, self.num_points, self.with_noise = folders, num_points, with_noise
        self.transform = transforms.Compose(
            [transforms.Resize((image_size, image_size)), transforms.ToTensor()]
        )

    def __len__(self) -> int:
        return len(self.folders)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, torch.Tensor]:
        _, index = key
        points, occupancies = self._points(self.folders[index] / "points.npz")
        images = sorted((self.folders[index] / "img_choy2016").glob("*.jpg"))
        with Image.open(images[np.random.randint(len(images))]) as opened:
            image = self.transform(opened.convert("RGB"))
        return {"images": image[None], "points": points, "occupancies": occupancies}

    def _points(self, path: Path) -> tuple[torch.Tensor, torch.Tensor]:
        stored = np.load(path)
        points = stored["points"].astype(np.float32)
        if self.with_noise:
            points += NOISE * np.random.randn(*points.shape)
        occupancies = np.unpackbits(stored["occupancies"])[: len(points)].astype(np.float32)
        chosen = np.random.randint(len(points), size=self.num_points)
        return torch.from_numpy(points[chosen]), torch.from_numpy(occupancies[chosen])

"""Builds a dataset, and options of a model, that are small enough to train in a test."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from occvae.data.build import build_dataset
from occvae.data.formats.voxels import VoxelArchiveSource
from occvae.data.manifest import Manifest
from occvae.data.shapes import ShapeSettings

RESOLUTION = 16
SETTINGS = ShapeSettings(
    num_points=2048,
    num_surface_points=1024,
    voxel_resolutions=(RESOLUTION,),
    num_views=4,
    image_size=40,
)
# Overrides of launchers/train.py, with which a step takes milliseconds.
TINY_MODEL = [
    "model.encoder=vit_tiny_patch16_224",
    'model.encoder_options={"depth": 2, "embed_dim": 48, "num_heads": 2, "patch_size": 8}',
    "model.image_size=32",
    "model.hidden_size=32",
    "model.num_blocks=1",
    # cpu-small starts from the encoder of the built-in model.
    "model.trunk=null",
    "model.encoder_weights=null",
]
TINY_RUN = [
    *TINY_MODEL,
    "frozen=[]",
    "data.num_points=256",
    "data.num_workers=0",
    "optim.batch_size=4",
    "optim.lr=2e-3",
    "optim.warmup_steps=5",
    "validate_points=512",
    "log_every=2",
]


# The same for architectures of the Pix2Vox family.
TINY_VOXEL_MODEL = ["model.backbone=resnet18", "model.image_size=64", "model.width=0.03"]
TINY_VOXEL_RUN = [
    *TINY_VOXEL_MODEL,
    "data.num_workers=0",
    "data.num_points=100000",  # more than are stored; voxel models ignore it
    "optim.batch_size=4",
    "optim.lr=2e-3",
    "optim.warmup_steps=5",
    "validate_shapes=8",
    "log_every=2",
]


# The same for architectures that observe something else than images.
TINY_OBSERVING_MODELS = {
    "occvae": [
        *TINY_MODEL,
        "frozen=[]",
        "model.num_points=64",
        "model.point_encoder_size=32",
        f"model.grid_resolution={RESOLUTION}",
        "model.grid_encoder_channels=4",
        "model.embedding_size=32",
        "model.latent_size=16",
        "data.num_views=2",
    ],
    "onet-points": [
        "model.num_points=64",
        "model.encoder_size=32",
        "model.embedding_size=32",
        "model.hidden_size=32",
        "model.num_blocks=1",
    ],
    "onet-voxels": [
        f"model.grid_resolution={RESOLUTION}",
        "model.encoder_channels=4",
        "model.embedding_size=32",
        "model.hidden_size=32",
        "model.num_blocks=1",
    ],
    "onet-vae": ["model.num_points=128", "model.latent_size=16", "model.hidden_size=32"],
}
TINY_OBSERVING_RUN = [
    "data.num_points=256",
    "data.num_workers=0",
    "optim.batch_size=4",
    "optim.lr=2e-3",
    "optim.warmup_steps=5",
    "validate_points=512",
    "log_every=2",
]


def write_archive(path: Path, count: int = 96, resolution: int = 16) -> Path:
    """Writes an archive of boxes of different proportions.

    An image shows the proportions of its box, but the mean shape does not.
    """
    rng = np.random.default_rng(0)
    voxels = np.zeros((count, resolution, resolution, resolution), bool)
    for grid in voxels:
        low = rng.integers(0, resolution // 2 - 1, 3)
        grid[tuple(slice(start, resolution - start) for start in low)] = True
    category = np.where(np.arange(count) % 2, "odd", "even")
    split = np.where(np.arange(count) < count * 2 // 3, "train", "val")
    np.savez(path, voxels=voxels, category=category, split=split)
    return path


def build_tiny_dataset(
    root: Path, voxel_resolution: int = RESOLUTION, count: int = 96, **settings: Any
) -> Manifest:
    """Builds a dataset of boxes. `settings` replace those of `SETTINGS`."""
    root.mkdir(parents=True, exist_ok=True)
    settings = dataclasses.replace(SETTINGS, voxel_resolutions=(voxel_resolution,), **settings)
    source = VoxelArchiveSource([write_archive(root / "boxes.npz", count)], settings, up="y")
    return build_dataset(source, root / "data", shapes_per_shard=10, num_workers=1)

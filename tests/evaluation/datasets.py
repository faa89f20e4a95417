"""Test datasets with changed content, made from the validation shapes of another dataset."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from occvae.data.manifest import Manifest, ShardEntry
from occvae.data.points import quantize_points
from occvae.data.sample import Sample
from occvae.data.shards import Shard, file_sha256, write_shard


def copy_shapes(
    root: Path, destination: Path, count: int, *, splits: str = "own", **changed
) -> Path:
    """Copies the first validation shapes into a new dataset as its test split.

    Args:
        root: dataset folder to copy from.
        destination: folder of the new dataset.
        count: number of shapes.
        splits: `Manifest.splits` of the new dataset.
        **changed: fields of `Sample` that replace those of every shape.

    Returns:
        `destination`.
    """
    manifest = Manifest.load(root)
    shard = Shard(root, next(entry for entry in manifest.shards if entry.split == "val"))
    samples = [replace(_read(shard, index), **changed) for index in range(count)]
    for sample in samples:
        sample.check()
    destination.mkdir(parents=True)
    path = destination / "test-00000.h5"
    write_shard(path, samples)
    entry = ShardEntry(path.name, "test", count, path.stat().st_size, file_sha256(path))
    categories = sorted({sample.category for sample in samples})
    Manifest("voxels", splits, {}, categories, shards=[entry], complete=True).save(destination)
    return destination


def _read(shard: Shard, index: int) -> Sample:
    points, occupancies = shard.points(index, 0, shard.num_points)
    surface_points, surface_normals = shard.surface(index)
    return Sample(
        id=shard.ids[index],
        category=shard.categories[index],
        images=[shard.image(index, view) for view in range(shard.num_views)],
        points=quantize_points(points),
        occupancies=occupancies,
        surface_points=quantize_points(surface_points),
        surface_normals=surface_normals.astype(np.float16),
        voxels={edge: shard.voxels(index, edge) for edge in shard.voxel_resolutions},
    )

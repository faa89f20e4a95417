"""Builds a dataset from a source: in parallel, seeded, resumable, bad shapes named and skipped."""

import os
import zlib
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from occvae.data import rendering
from occvae.data.images import encode_png
from occvae.data.shards import (
    HALF_EXTENT,
    MANIFEST,
    Manifest,
    Sample,
    Shard,
    ShardEntry,
    dequantise_points,
    file_sha256,
    quantise_points,
    write_shard,
)
from occvae.data.sources import Item, ProceduralSource, Source
from occvae.errors import UserError
from occvae.voxelisation import cell_centres

# 12 categories of 64 build in about a minute on two cores.
DEFAULT_SHAPES_PER_CATEGORY = 64

_source: Source  # of a worker process, set once by _start_worker


@dataclass(frozen=True)
class BuildSettings:
    """What is stored for each shape."""

    num_points: int = 100_000
    voxel_resolution: int = 32
    num_views: int = 24
    image_size: int = 137
    shapes_per_shard: int = 64
    seed: int = 0

    def __post_init__(self):
        for name, value in asdict(self).items():
            least = 0 if name == "seed" else 1
            if value < least:
                raise UserError(f"{name} must be at least {least}, got {value}")
        if self.num_points % 8:
            raise UserError(f"num_points must be a multiple of 8, got {self.num_points}")


def build_dataset(
    source: Source, destination: str | Path, settings: BuildSettings, num_workers: int | None = None
) -> Manifest:
    """Writes the shards of a source; an interrupted build continues where it stopped.

    Args:
        source: see sources.py.
        destination: folder of the dataset; made if absent.
        settings: see `BuildSettings`.
        num_workers: processes; default one a core.

    Raises:
        UserError: the folder holds a dataset of other settings, or no shape is usable.
    """
    num_workers = os.cpu_count() if num_workers is None else num_workers
    if num_workers < 1:
        raise UserError(f"workers must be positive, got {num_workers}")
    root = Path(destination)
    root.mkdir(parents=True, exist_ok=True)
    manifest = _start_manifest(source, root, settings)
    plan = _plan_shards(source, settings.shapes_per_shard)
    finished = {entry.file for entry in manifest.shards}
    todo = [(file, indices) for file, indices in plan if file not in finished]
    progress = tqdm(
        total=len(source.items),
        initial=len(source.items) - sum(len(indices) for _, indices in todo),
        desc=f"build {root}",
        unit="shape",
        mininterval=0.5,
    )
    with progress, _worker_pool(num_workers, source) as pool:
        try:
            for file, indices in todo:
                items = [source.items[index] for index in indices]
                outcomes = pool.map(partial(_try_sample, settings=settings), indices)
                samples = _collect_samples(items, outcomes, manifest, progress)
                _finish_shard(root, file, samples, manifest)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if not manifest.shards:
        id, reason = next(iter(manifest.skipped.items()))
        raise UserError(f"{root}: no shape is usable; {id}: {reason}")
    manifest.complete = True
    manifest.save(root)
    return manifest


def build_default(destination: str | Path) -> Manifest:
    """The embedded default dataset: what `occvae data build procedural` makes without options."""
    return build_dataset(
        ProceduralSource(DEFAULT_SHAPES_PER_CATEGORY), destination, BuildSettings()
    )


def verify_dataset(root: str | Path) -> Manifest:
    """Opens every shard and compares its SHA-256 with the manifest; raises `UserError`."""
    root = Path(root)
    manifest = Manifest.load(root)
    for entry in tqdm(manifest.shards, desc="verify", unit="shard"):
        path = root / entry.file
        # Before HDF5 looks inside: what it does with damaged structures is anybody's guess.
        if path.is_file() and file_sha256(path) != entry.sha256:
            raise UserError(
                f"{path}: SHA-256 differs from the manifest (damaged); delete it and "
                "run the same `occvae data build` again"
            )
        Shard(root, entry)
    return manifest


def _worker_pool(num_workers: int, source: Source) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(num_workers, initializer=_start_worker, initargs=(source,))


def _start_worker(source: Source) -> None:
    global _source
    _source = source
    # Left alone, each worker's BLAS starts a thread a core: 7 times the CPU time.
    threadpool_limits(1)


def _start_manifest(source: Source, root: Path, settings: BuildSettings) -> Manifest:
    """The manifest to continue: the one on disk less its lost shards, or a new one."""
    fresh = Manifest(
        name=source.name,
        settings={**source.settings, **asdict(settings)},
        categories=sorted({item.category for item in source.items}),
        skipped=dict(source.skipped),
    )
    if not (root / MANIFEST).exists():
        return fresh
    manifest = Manifest.load(root)
    if (manifest.name, manifest.settings) != (fresh.name, fresh.settings):
        raise UserError(f"{root}: holds a dataset built with other settings; choose another folder")
    manifest.shards = [entry for entry in manifest.shards if (root / entry.file).exists()]
    manifest.complete = False
    return manifest


def _plan_shards(source: Source, shapes_per_shard: int) -> list[tuple[str, list[int]]]:
    """File name and item numbers of each shard; splits never share one."""
    plan = []
    for split in sorted({item.split for item in source.items}):
        members = [index for index, item in enumerate(source.items) if item.split == split]
        for number, start in enumerate(range(0, len(members), shapes_per_shard)):
            plan.append((f"{split}-{number:05d}.h5", members[start : start + shapes_per_shard]))
    return plan


def _collect_samples(
    items: list[Item], outcomes: Iterable[Sample | str], manifest: Manifest, progress: tqdm
) -> list[Sample]:
    samples = []
    for item, outcome in zip(items, outcomes, strict=True):
        if isinstance(outcome, Sample):
            samples.append(outcome)
        else:
            manifest.skipped[item.id] = outcome
            progress.write(f"skipped {item.id}: {outcome}")
        progress.update()
    return samples


def _try_sample(index: int, settings: BuildSettings) -> Sample | str:
    """The sample, or why this shape is unusable: one bad shape must not stop a long build."""
    item = _source.items[index]
    try:
        return make_sample(item.id, item.category, _source.load(index), settings)
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]


def make_sample(id: str, category: str, shape, settings: BuildSettings) -> Sample:
    """Points, voxels and pictures of one shape, the same for the same id and seed."""
    rng = np.random.default_rng([settings.seed, zlib.crc32(id.encode())])
    voxels = shape.contains(cell_centres(settings.voxel_resolution))
    if not voxels.any():
        raise UserError("shape is empty")
    points = quantise_points(rng.uniform(-HALF_EXTENT, HALF_EXTENT, (settings.num_points, 3)))
    extrinsics = rendering.random_extrinsics(rng, settings.num_views)
    pictures = rendering.render_views(
        *shape.mesh(), extrinsics, settings.image_size, rendering.random_albedo(rng)
    )
    return Sample(
        id=id,
        category=category,
        points=points,
        occupancies=shape.contains(dequantise_points(points).astype(np.float64)),
        voxels=voxels.reshape((settings.voxel_resolution,) * 3),
        images=[encode_png(picture) for picture in pictures],
        extrinsics=extrinsics,
        intrinsics=rendering.intrinsics(settings.image_size),
    )


def _finish_shard(root: Path, file: str, samples: list[Sample], manifest: Manifest) -> None:
    if not samples:
        return
    path = root / file
    write_shard(path, samples)
    manifest.shards.append(
        ShardEntry(
            file=file,
            split=file.split("-")[0],
            num_shapes=len(samples),
            num_bytes=path.stat().st_size,
            sha256=file_sha256(path),
        )
    )
    # Their order numbers the samples: a shard made again must take its old place.
    manifest.shards.sort(key=lambda shard: shard.file)
    manifest.save(root)

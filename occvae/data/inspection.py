"""Checks whether the stored images and points of every shape are fit to learn from."""

from pathlib import Path

import numpy as np
from tqdm import tqdm

from occvae.data.manifest import Manifest
from occvae.data.points import HALF_EXTENT, HALF_PRECISION
from occvae.data.sample import Sample
from occvae.data.shards import Shard
from occvae.errors import UserError
from occvae.system.verbosity import is_quiet


def inspect_dataset(root: str | Path) -> dict[str, str]:
    """Decodes all images, checks all points, and returns the problem of each bad shape by id.

    Unlike `verify_dataset`, it finds data that was already bad when it was written.
    """
    problems = {}
    for entry in tqdm(Manifest.load(root).shards, desc="inspect", unit="shard", disable=is_quiet()):
        shard = Shard(Path(root), entry)
        for local, id in enumerate(shard.ids):
            try:
                sample = shard.sample(local)
                sample.check()
                _check_points(shard, local, sample)
            except UserError as error:
                problems[id] = str(error)
    return problems


def _check_points(shard: Shard, local: int, sample: Sample) -> None:
    for name, inside, read in (
        ("points", sample.occupancies, shard.points),
        ("near_points", sample.near_occupancies, shard.near_points),
    ):
        if inside is None:
            continue
        if inside.all() or not inside.any():
            raise UserError(f"all {name} are {'inside' if inside[0] else 'outside'} the shape")
        reach = np.abs(read(local, 0, len(inside))[0]).max()
        if name == "points" and reach > HALF_EXTENT + HALF_PRECISION:
            raise UserError(
                f"points reach {reach:.3f} from the center; expected at most {HALF_EXTENT}"
            )

"""Divides the shapes of a dataset into new training, validation and test splits."""

import hashlib
import zlib
from pathlib import Path

import numpy as np

from occvae.data.build import verify_dataset
from occvae.data.manifest import OWN_SPLITS, Manifest
from occvae.data.sample import Sample
from occvae.data.shards import Shard
from occvae.data.sources import BuildError, Item
from occvae.errors import UserError


def fingerprint(manifest: Manifest) -> str:
    """A hash of the content of all shards."""
    digests = sorted(entry.sha256 for entry in manifest.shards)
    return hashlib.sha256("".join(digests).encode()).hexdigest()


class SplitSource:
    """The shapes of a dataset in new random splits, as a source for `build_dataset`.

    The new splits follow from the seed and the ids only. A part that some of the old splits lack is
    dropped everywhere. Surface points are such a part if training shapes have none.

    Args:
        root: folder of a dataset with `Manifest.splits` "own".
        val: share of the shapes for validation. The number of shapes is rounded.
        test: share of the shapes for testing.
        seed: seed of the division.
        by_category: whether to divide each category separately, so that all splits have it.

    Attributes:
        dropped: names of the parts that were dropped, as in `Sample.layout`.

    Raises:
        UserError: the splits are published.
        UserError: the shares or the seed are out of range, or leave nothing to train on.
        UserError: the old splits have different numbers of points, views or voxels.
        UserError: a shard is damaged.
    """

    def __init__(self, root: str | Path, *, val: float, test: float, seed: int, by_category: bool):
        if not (val >= 0 and test >= 0 and val + test < 1):  # nor NaN
            raise UserError(f"val {val} and test {test} must be at least 0, and together below 1")
        if seed < 0:
            raise UserError(f"seed must be at least 0, got {seed}")
        manifest = verify_dataset(root)  # a damaged shape must not get a new, valid checksum
        if manifest.splits != OWN_SPLITS:
            raise UserError(
                f"{root}: has the published splits of {manifest.splits!r}; they cannot be divided, "
                "because published results rely on them"
            )
        self.name, self.splits = manifest.source, OWN_SPLITS
        self.dropped = _partial_parts(root, manifest)
        self.settings = {
            "split": {"val": val, "test": test, "seed": seed, "by_category": by_category},
            "shards": fingerprint(manifest),
            "settings": manifest.settings,
        }
        self.skipped = manifest.skipped
        self._notes = manifest.notes
        self._places = [
            (shard, local)
            for shard in (Shard(Path(root), entry) for entry in manifest.shards)
            for local in range(len(shard))
        ]
        ids = [shard.ids[local] for shard, local in self._places]
        categories = [shard.categories[local] for shard, local in self._places]
        splits = _divide(ids, categories if by_category else [""] * len(ids), val, test, seed)
        self.items = [Item(*item) for item in zip(ids, categories, splits, strict=True)]
        if "train" not in splits:
            raise UserError(
                f"{root}: none of its {len(ids)} shapes is left to train on; lower val or test"
            )

    def sample(self, index: int) -> Sample:
        shard, local = self._places[index]
        try:
            sample = shard.sample(local)
            sample.check()
        except UserError as error:  # every stored shape was good when it was stored
            raise BuildError(str(error)) from None
        sample.note = self._notes.get(sample.id)
        for name in self.dropped:
            _drop(sample, name)
        return sample


def _divide(ids: list[str], groups: list[str], val: float, test: float, seed: int) -> list[str]:
    splits = dict.fromkeys(ids, "train")
    for group in sorted(set(groups)):
        # Sorted, so that the result does not depend on the order of the shards.
        members = sorted(id for id, other in zip(ids, groups, strict=True) if other == group)
        rng = np.random.default_rng([seed, zlib.crc32(group.encode())])
        order = [members[place] for place in rng.permutation(len(members))]
        num_val, num_test = round(val * len(order)), round(test * len(order))
        splits.update(dict.fromkeys(order[:num_val], "val"))
        splits.update(dict.fromkeys(order[num_val : num_val + num_test], "test"))
    return [splits[id] for id in ids]


def _partial_parts(root: str | Path, manifest: Manifest) -> list[str]:
    """Names of the layout's parts that some splits have and others lack."""
    partial = []
    layouts = list(manifest.layouts.values())
    for name in layouts[0]:
        values = [layout[name] for layout in layouts]
        present = [value for value in values if value]
        if any(value != present[0] for value in present):
            raise UserError(
                f"{root}: its splits have different {name} ({values}); they cannot share a layout"
            )
        if 0 < len(present) < len(values):
            partial.append(name)
    return partial


def _drop(sample: Sample, name: str) -> None:
    match name:
        case "cameras":
            sample.extrinsics = sample.intrinsics = None
        case "points":
            sample.points = sample.occupancies = None
        case "near_points":
            sample.near_points = sample.near_occupancies = None
        case "surface_points":
            sample.surface_points = sample.surface_normals = None
        case "voxels":
            sample.voxels = {}

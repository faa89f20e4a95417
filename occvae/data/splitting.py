"""Divides the shapes of a dataset anew into training, validation and test shapes."""

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
    """Of the content of all shards."""
    digests = sorted(entry.sha256 for entry in manifest.shards)
    return hashlib.sha256("".join(digests).encode()).hexdigest()


class SplitSource:
    """The shapes of a dataset, divided anew at random; a source for `build_dataset`.

    Who goes where follows from the seed and the ids. Where only some of the old splits have a part
    (training shapes have no points on the surface by default), none of the new ones has.

    Args:
        root: of a dataset whose splits are its own.
        val, test: shares of the shapes, rounded.
        seed: of the division.
        by_category: whether each category is divided by itself, so that all are in all splits.

    Attributes:
        dropped: the parts that not all shapes have.

    Raises:
        UserError: the splits are published, the shares leave nothing to train on, the old splits
            hold different amounts, or a shard is damaged.
    """

    def __init__(self, root: str | Path, *, val: float, test: float, seed: int, by_category: bool):
        if not (val >= 0 and test >= 0 and val + test < 1):  # nor NaN
            raise UserError(f"val {val} and test {test} must be shares that leave some")
        if seed < 0:
            raise UserError(f"seed must be at least 0, got {seed}")
        manifest = verify_dataset(root)  # or damage would get checksums of its own
        if manifest.splits != OWN_SPLITS:
            raise UserError(
                f"{root}: has the published splits of {manifest.splits!r}, which figures of others "
                "rest on; they are not divided anew"
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
            raise UserError(f"{root}: nothing of its {len(ids)} shapes is left to train on")

    def sample(self, index: int) -> Sample:
        shard, local = self._places[index]
        try:
            sample = shard.sample(local)
            sample.check()
        except UserError as error:  # all of them were fit to be stored
            raise BuildError(str(error)) from None
        sample.note = self._notes.get(sample.id)
        for name in self.dropped:
            _drop(sample, name)
        return sample


def _divide(ids: list[str], groups: list[str], val: float, test: float, seed: int) -> list[str]:
    splits = dict.fromkeys(ids, "train")
    for group in sorted(set(groups)):
        # Sorted, so that the order of the shards does not matter.
        members = sorted(id for id, other in zip(ids, groups, strict=True) if other == group)
        rng = np.random.default_rng([seed, zlib.crc32(group.encode())])
        order = [members[place] for place in rng.permutation(len(members))]
        num_val, num_test = round(val * len(order)), round(test * len(order))
        splits.update(dict.fromkeys(order[:num_val], "val"))
        splits.update(dict.fromkeys(order[num_val : num_val + num_test], "test"))
    return [splits[id] for id in ids]


def _partial_parts(root: str | Path, manifest: Manifest) -> list[str]:
    """The parts of a layout that some splits have and others do not."""
    partial = []
    layouts = list(manifest.layouts.values())
    for name in layouts[0]:
        values = [layout[name] for layout in layouts]
        present = [value for value in values if value]
        if any(value != present[0] for value in present):
            raise UserError(f"{root}: its splits have different {name} ({values})")
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

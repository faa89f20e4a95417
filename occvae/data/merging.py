"""Merges several datasets into one."""

import shutil
from pathlib import Path
from typing import Any

from tqdm import tqdm

from occvae.data.manifest import SPLITS, Manifest, ShardEntry, sole_writer
from occvae.data.shards import REPAIR, Shard, file_sha256
from occvae.data.sources import CONTINUES
from occvae.data.splitting import fingerprint
from occvae.errors import UserError
from occvae.system.atomic_write import write_whole


def merge_datasets(roots: list[str | Path], destination: str | Path) -> Manifest:
    """Copies the shards of several datasets into a new one. An interrupted merge continues.

    Args:
        roots: folders of the datasets. `Manifest.splits` must be equal, and so must the layouts of
            each split.
        destination: folder of the new dataset, created if absent.

    Returns:
        The manifest of the new dataset.

    Raises:
        UserError: the datasets do not fit together, or two shapes have the same id.
        UserError: a shard differs from its manifest.
        UserError: the destination holds another dataset.
    """
    folders = [Path(root) for root in roots]
    if len(folders) < 2:
        raise UserError("give at least two datasets to merge")
    manifests = [Manifest.load_complete(folder) for folder in folders]
    _check_splits(folders, manifests)
    _check_layouts(folders, manifests)
    _check_ids(folders, manifests)
    destination = Path(destination)
    with sole_writer(destination):
        merged = _new_manifest(manifests).resume(destination)
        finished = {entry.file for entry in merged.shards}
        for root, entry, file in tqdm(_plan(folders, manifests), desc=f"merge {destination}"):
            if file not in finished:
                merged.shards.append(_copy(root, entry, destination, file))
                merged.shards.sort(key=lambda shard: shard.file)
                merged.save(destination)
        merged.complete = True
        merged.save(destination)
    return merged


def _check_splits(roots: list[Path], manifests: list[Manifest]) -> None:
    for root, manifest in zip(roots, manifests, strict=True):
        if manifest.splits != manifests[0].splits:
            raise UserError(
                f"{root}: has the splits {manifest.splits!r}, but {roots[0]} has "
                f"{manifests[0].splits!r}; merge only datasets with the same splits, because "
                "results on a mixture compare with nothing"
            )


def _check_layouts(roots: list[Path], manifests: list[Manifest]) -> None:
    expected: dict[str, tuple[Path, dict[str, Any]]] = {}
    for root, manifest in zip(roots, manifests, strict=True):
        for split, layout in manifest.layouts.items():
            other, wanted = expected.setdefault(split, (root, layout))
            for name in wanted:
                if layout[name] != wanted[name]:
                    raise UserError(
                        f"{root}: its {split} shapes have {name} {layout[name]}, but those of "
                        f"{other} have {wanted[name]}; build both with the same settings"
                    )


def _check_ids(roots: list[Path], manifests: list[Manifest]) -> None:
    found: dict[str, Path] = {}
    twice = []
    for root, manifest in zip(roots, manifests, strict=True):
        for entry in manifest.shards:
            for id in Shard(root, entry).ids:
                if id in found:
                    twice.append(f"{id} ({found[id]}, {root})")
                found[id] = root
    if twice:
        more = f" and {len(twice) - 5} more" if len(twice) > 5 else ""
        raise UserError(
            f"shapes with the same id: {', '.join(twice[:5])}{more}; ids must be unique"
        )


def _new_manifest(manifests: list[Manifest]) -> Manifest:
    fresh = Manifest(
        source="+".join(dict.fromkeys(manifest.source for manifest in manifests)),
        splits=manifests[0].splits,
        settings={
            "merged": [
                {
                    "source": manifest.source,
                    "settings": manifest.settings,
                    "shards": fingerprint(manifest),
                }
                for manifest in manifests
            ]
        },
        categories=sorted({name for manifest in manifests for name in manifest.categories}),
    )
    for manifest in manifests:
        fresh.layouts.update(manifest.layouts)
        fresh.notes.update(manifest.notes)
        for (
            name,
            reason,
        ) in manifest.skipped.items():  # several datasets may have the same name, such as *.fbx
            reasons = dict.fromkeys([*fresh.skipped.get(name, "").split("; "), reason])
            fresh.skipped[name] = "; ".join(filter(None, reasons))
    return fresh


def _plan(roots: list[Path], manifests: list[Manifest]) -> list[tuple[Path, ShardEntry, str]]:
    """Each shard with its folder and its new file name. Each split is numbered from 0."""
    plan = []
    for split in SPLITS:
        members = [
            (root, entry)
            for root, manifest in zip(roots, manifests, strict=True)
            for entry in manifest.shards
            if entry.split == split
        ]
        plan += [
            (root, entry, f"{split}-{number:05d}.h5")
            for number, (root, entry) in enumerate(members)
        ]
    return plan


def _copy(root: Path, entry: ShardEntry, destination: Path, file: str) -> ShardEntry:
    def copy(path: Path) -> None:
        shutil.copyfile(root / entry.file, path)
        if file_sha256(path) != entry.sha256:
            raise UserError(
                f"{root / entry.file}: SHA-256 differs from the manifest (the file is damaged); "
                f"{REPAIR}"
            )

    write_whole(destination / file, copy, CONTINUES)
    return ShardEntry(file, entry.split, entry.num_shapes, entry.num_bytes, entry.sha256)

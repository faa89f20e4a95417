"""Several datasets into one."""

import shutil
from pathlib import Path
from typing import Any

from tqdm import tqdm

from occvae.data.manifest import SPLITS, Manifest, ShardEntry, sole_writer
from occvae.data.shards import Shard, file_sha256
from occvae.data.sources import CONTINUES
from occvae.data.splitting import fingerprint
from occvae.errors import UserError
from occvae.system.atomic_write import write_whole


def merge_datasets(roots: list[str | Path], destination: str | Path) -> Manifest:
    """Copies the shards of datasets into a new one; an interrupted merge continues.

    Args:
        roots: of datasets with the same splits by name, and in each split the same layout.
        destination: folder of the new dataset; made if absent.

    Raises:
        UserError: the datasets do not fit together, one is not what its manifest says, or the
            destination holds another dataset.
    """
    folders = [Path(root) for root in roots]
    if len(folders) < 2:
        raise UserError("merging needs two datasets or more")
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
                f"{root}: has the splits {manifest.splits!r}, {roots[0]} has "
                f"{manifests[0].splits!r}; figures of a mixture would compare with nothing"
            )


def _check_layouts(roots: list[Path], manifests: list[Manifest]) -> None:
    expected: dict[str, tuple[Path, dict[str, Any]]] = {}
    for root, manifest in zip(roots, manifests, strict=True):
        for split, layout in manifest.layouts.items():
            other, wanted = expected.setdefault(split, (root, layout))
            for name in wanted:
                if layout[name] != wanted[name]:
                    raise UserError(
                        f"{root}: its {split} shapes have {name} {layout[name]}, those of {other} "
                        f"have {wanted[name]}"
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
        raise UserError(f"shapes of the same id: {', '.join(twice[:5])}{more}")


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
        for name, reason in manifest.skipped.items():  # such as *.fbx, of several datasets
            reasons = dict.fromkeys([*fresh.skipped.get(name, "").split("; "), reason])
            fresh.skipped[name] = "; ".join(filter(None, reasons))
    return fresh


def _plan(roots: list[Path], manifests: list[Manifest]) -> list[tuple[Path, ShardEntry, str]]:
    """The shards, and the file that each becomes: numbered anew within their split."""
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
            raise UserError(f"{root / entry.file}: SHA-256 differs from the manifest (damaged)")

    write_whole(destination / file, copy, CONTINUES)
    return ShardEntry(file, entry.split, entry.num_shapes, entry.num_bytes, entry.sha256)

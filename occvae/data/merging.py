"""Merges several datasets into one."""

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

from tqdm import tqdm

from occvae.data.build import check_odd_layouts
from occvae.data.manifest import SPLITS, Manifest, ShardEntry, sole_writer
from occvae.data.parts import PART, arrange_parts, without_part
from occvae.data.shards import REPAIR, Shard, file_sha256
from occvae.data.sources import CONTINUES
from occvae.data.splitting import fingerprint
from occvae.errors import UserError
from occvae.system.atomic_write import to_disk, write_whole
from occvae.system.verbosity import is_quiet


def merge_datasets(roots: list[str | Path], destination: str | Path) -> Manifest:
    """Merges the shards of several datasets into a new one. An interrupted merge continues.

    Shards on the file system of the destination become hard links, which take no space and stay
    when a source is deleted. Others are copied. Checksums of both are compared with the manifest.

    Parts of a source (see `SourcePart`) are merged in the order of their numbers.

    Args:
        roots: folders of the datasets. `Manifest.splits` must be equal, and so must the layouts of
            each split. If one is a part of a source, all must be, and no part may be missing.
        destination: folder of the new dataset, created if absent.

    Returns:
        The manifest of the new dataset.

    Raises:
        UserError: the datasets do not fit together, or two shapes have the same id.
        UserError: a part of the source is missing or given twice.
        UserError: more than 5 % of the shapes of all parts have an unusual layout. The other shapes
            then form a complete dataset.
        UserError: a shard differs from its manifest.
        UserError: the destination holds another dataset.
    """
    folders = [Path(root) for root in roots]
    manifests = [Manifest.load_complete(folder) for folder in folders]
    folders, manifests = arrange_parts(folders, manifests)
    are_parts = PART in manifests[0].settings
    if len(folders) < 2 and not are_parts:
        raise UserError("give at least two datasets to merge")
    if not any(manifest.shards for manifest in manifests):
        raise UserError(f"{', '.join(map(str, folders))}: have no shapes")
    _check_splits(folders, manifests)
    _check_layouts(folders, manifests)
    _check_ids(folders, manifests)
    destination = Path(destination)
    with sole_writer(destination):
        merged = _new_manifest(manifests).resume(destination)
        finished = {entry.file for entry in merged.shards}
        for root, entry, file in tqdm(
            _plan(folders, manifests), desc=f"merge {destination}", disable=is_quiet()
        ):
            if file not in finished:
                merged.shards.append(_link_or_copy(root, entry, destination, file))
                merged.shards.sort(key=lambda shard: shard.file)
                merged.save(destination)
        merged.complete = True
        merged.save(destination)
    if are_parts:
        total = sum(merged.count_shapes().values()) + len(merged.skipped)
        check_odd_layouts(destination, merged.skipped, total, "shapes")
    return merged


def count_linked(root: str | Path, manifest: Manifest) -> int:
    """Number of shards of a dataset that share their disk space with another dataset."""
    return sum((Path(root) / entry.file).stat().st_nlink > 1 for entry in manifest.shards)


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
        settings=_settings(manifests),
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


def _settings(manifests: list[Manifest]) -> dict[str, Any]:
    """Identifies what is merged, so that another merge into the same folder is refused."""
    if PART in manifests[0].settings:
        shards = "".join(map(fingerprint, manifests))
        return {
            **without_part(manifests[0]).settings,
            "merged_parts": len(manifests),
            "shards": hashlib.sha256(shards.encode()).hexdigest(),
        }
    return {
        "merged": [
            {
                "source": manifest.source,
                "settings": manifest.settings,
                "shards": fingerprint(manifest),
            }
            for manifest in manifests
        ]
    }


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


def _link_or_copy(root: Path, entry: ShardEntry, destination: Path, file: str) -> ShardEntry:
    source, path = root / entry.file, destination / file
    if _link(source, path):
        try:
            _check_content(path, source, entry)
        except UserError:
            path.unlink()
            raise
    else:

        def copy(temporary: Path) -> None:
            shutil.copyfile(source, temporary)
            _check_content(temporary, source, entry)

        write_whole(path, copy, CONTINUES)
    return ShardEntry(file, entry.split, entry.num_shapes, entry.num_bytes, entry.sha256)


def _link(source: Path, path: Path) -> bool:
    """Makes a hard link. False on another file system, or one without hard links."""
    try:
        path.unlink(missing_ok=True)
        os.link(source.resolve(), path)  # a link to a symbolic link would depend on it
    except OSError:
        return False
    to_disk(path.parent)
    return True


def _check_content(path: Path, source: Path, entry: ShardEntry) -> None:
    if file_sha256(path) != entry.sha256:
        raise UserError(
            f"{source}: SHA-256 differs from the manifest (the file is damaged); {REPAIR}"
        )

"""Builds a dataset from a source.

Builds run in parallel, depend only on the source and its seed, continue after an interruption, and
skip bad shapes with a reason.
"""

import collections
import itertools
import multiprocessing.connection
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from threadpoolctl import threadpool_limits
from tqdm import tqdm

from occvae.data.formats.procedural import ProceduralSource
from occvae.data.manifest import OWN_SPLITS, Manifest, ShardEntry, sole_writer
from occvae.data.parts import PART
from occvae.data.sample import Sample
from occvae.data.shards import REPAIR, Shard, file_sha256, write_shard
from occvae.data.sources import CONTINUES, BuildError, Source, skip_reason
from occvae.errors import UserError
from occvae.system.openmp import usable_cores
from occvae.system.terminal import one_line
from occvae.system.verbosity import is_quiet

SHAPES_PER_SHARD = 64
# Largest share of a split that may be skipped because its layout differs from the usual one.
_MAX_ODD_SHARE = 0.05
_ODD_LAYOUT = "where most shapes of the split have"

# Measured for the default dataset.
_DEFAULT_MEGABYTES = 650
_DEFAULT_CORE_SECONDS = 120

_KILLED = "killed, perhaps because memory ran out"

_Value = TypeVar("_Value")
_source: Source  # set once per worker process, by _start_worker


def build_dataset(
    source: Source,
    destination: str | Path,
    *,
    shapes_per_shard: int = SHAPES_PER_SHARD,
    num_workers: int | None = None,
) -> Manifest:
    """Builds a dataset from a source. An interrupted build continues where it stopped.

    Shapes that cannot be used are skipped, and the manifest lists them with the reason.

    Args:
        source: the shapes, see `Source`. To build them on several machines, give a `SourcePart` to
            each, and merge the results.
        destination: folder of the dataset, created if absent.
        shapes_per_shard: largest number of shapes per shard. To continue a build, it must not
            change.
        num_workers: number of processes, by default one per core.

    Returns:
        The manifest of the complete dataset.

    Raises:
        UserError: the folder holds a dataset with other settings.
        UserError: another command is writing to the folder.
        UserError: no shape is usable. A part of a source may end up without shapes.
        UserError: more than 5 % of a split (and more than one shape) have a layout that differs
            from the usual one. The other shapes then form a complete dataset.
        BuildError: the machine failed, for example because the disk is full.
    """
    if num_workers is None:
        num_workers = os.cpu_count() or 1
    if num_workers < 1:
        raise UserError(f"the number of workers must be at least 1, got {num_workers}")
    if shapes_per_shard < 1:
        raise UserError(f"shapes_per_shard must be at least 1, got {shapes_per_shard}")
    _check_ids(source)
    root = Path(destination)
    with sole_writer(root):
        manifest = _new_manifest(source, shapes_per_shard).resume(root)
        _build_shards(source, root, manifest, shapes_per_shard, num_workers)
        is_part = PART in manifest.settings
        if not manifest.shards and not is_part:
            id, reason = next(iter(manifest.skipped.items()))
            raise UserError(f"{root}: no shape is usable; the first one is {id}: {reason}")
        manifest.complete = True
        manifest.save(root)
    if not is_part:  # a merge checks all parts together
        _check_layouts(source, root, manifest)
    return manifest


def build_default(destination: str | Path) -> Manifest:
    """Builds the default dataset, like `occvae data build procedural` without options."""
    return build_dataset(ProceduralSource(), destination)


def describe_default() -> str:
    """Returns what `build_default` builds, its size, and how long that takes with these cores."""
    cores = len(usable_cores())
    minutes = max(1, round(_DEFAULT_CORE_SECONDS / cores / 60))
    return (
        f"the embedded dataset of {len(ProceduralSource().items)} shapes "
        f"(about {_DEFAULT_MEGABYTES} MB, about {minutes} min on {cores} core(s))"
    )


def shards_to_try_again(source: Source, manifest: Manifest) -> list[str]:
    """Names of the shards to delete so that the next build tries their skipped shapes again.

    Empty for sources identified by file content, because a repaired file makes a different dataset.
    """
    if manifest.splits == OWN_SPLITS:
        return []
    there = {entry.file for entry in manifest.shards}
    return [
        file
        for file, indices in _plan_shards(source, manifest.settings["shapes_per_shard"])
        if file in there and any(source.items[index].id in manifest.skipped for index in indices)
    ]


def verify_dataset(root: str | Path) -> Manifest:
    """Compares every shard with the checksum in the manifest, with one thread per core.

    Raises:
        UserError: a shard is missing, damaged, or differs from the manifest.
        UserError: two shapes have the same id.
        UserError: the dataset has no shapes, or its build was interrupted.
    """
    root = Path(root)
    manifest = Manifest.load_complete(root)
    if not manifest.shards:
        raise UserError(f"{root}: the dataset has no shapes; build or import it again")
    seen: set[str] = set()
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing releases the GIL
        shards = pool.map(lambda entry: _verify_shard(root, entry), manifest.shards)
        for shard in tqdm(
            shards, total=len(manifest.shards), desc="verify", unit="shard", disable=is_quiet()
        ):
            for id in shard.ids:
                if id in seen:
                    raise UserError(
                        f"{shard.path}: shape {id!r} occurs a second time; build or import the "
                        "dataset again"
                    )
                seen.add(id)
    return manifest


def _verify_shard(root: Path, entry: ShardEntry) -> Shard:
    path = root / entry.file
    # Before HDF5 opens the file, because HDF5 may crash on damaged structures.
    if path.is_file() and file_sha256(path) != entry.sha256:
        raise UserError(
            f"{path}: SHA-256 differs from the manifest (the file is damaged); {REPAIR}"
        )
    shard = Shard(root, entry)
    if len(shard) != entry.num_shapes:
        raise UserError(
            f"{path}: {len(shard)} shapes where the manifest says {entry.num_shapes}; {REPAIR}"
        )
    return shard


def _build_shards(
    source: Source, root: Path, manifest: Manifest, shapes_per_shard: int, num_workers: int
) -> None:
    """Writes the shards that the manifest lacks, and adds them to it."""
    plan = _plan_shards(source, shapes_per_shard)
    finished = {entry.file for entry in manifest.shards}
    todo = [(file, indices) for file, indices in plan if file not in finished]
    if not todo:
        return
    with tqdm(
        total=len(source.items),
        desc=f"build {root}",
        unit="shape",
        mininterval=0.5,
        disable=is_quiet(),
    ) as progress:
        while todo:
            left = sum(len(indices) for _, indices in todo)
            progress.n = progress.initial = len(source.items) - left
            # At most two shards are in progress. More workers than these have shapes would be idle.
            workers = min(num_workers, left, 2 * shapes_per_shard)
            try:
                _build_together(source, root, manifest, todo, workers, progress)
            except BrokenProcessPool:
                file, indices = todo.pop(0)
                outcomes = _try_one_by_one(source, root, indices)
                samples = _collect_samples(source, indices, outcomes, manifest, progress)
                _finish_shard(root, file, samples, manifest)


def _build_together(
    source: Source,
    root: Path,
    manifest: Manifest,
    todo: list[tuple[str, list[int]]],
    num_workers: int,
    progress: "tqdm[NoReturn]",
) -> None:
    """Builds shards with one pool of workers, and removes each finished shard from `todo`.

    Raises:
        BrokenProcessPool: a worker was killed.
    """
    with _worker_pool(num_workers, source) as pool:
        try:
            # The workers start on the next shard while this process writes the current one.
            for file, indices, outcomes in _prefetch_one(
                (file, indices, pool.map(_try_sample, indices)) for file, indices in todo[:]
            ):
                samples = _collect_samples(source, indices, outcomes, manifest, progress)
                _finish_shard(root, file, samples, manifest)
                todo.pop(0)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _try_one_by_one(source: Source, root: Path, indices: list[int]) -> list[Sample | str]:
    """Builds the samples of one shard in a process per shape, to find the shapes that kill it."""
    outcomes = []
    for index in indices:
        with _worker_pool(1, source) as pool:
            try:
                outcomes.append(pool.submit(_try_sample, index).result())
            except BrokenProcessPool:
                outcomes.append(_KILLED)
    if len(outcomes) > 1 and all(outcome == _KILLED for outcome in outcomes):
        raise BuildError(f"{root}: all build processes were {_KILLED}; {CONTINUES}")
    return outcomes


def _prefetch_one(values: Iterable[_Value]) -> Iterator[_Value]:
    """Yields the same values, but has always taken the next one before it yields a value."""
    iterator = iter(values)
    ahead = list(itertools.islice(iterator, 1))
    for value in iterator:
        ahead.append(value)
        yield ahead.pop(0)
    yield from ahead


def _check_ids(source: Source) -> None:
    seen: set[str] = set()
    for item in source.items:
        if item.id in seen:
            raise UserError(f"two shapes of the source have the id {item.id!r}; ids must be unique")
        seen.add(item.id)


def _worker_pool(num_workers: int, source: Source) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(num_workers, initializer=_start_worker, initargs=(source,))


def _start_worker(source: Source) -> None:
    global _source
    _source = source
    # Otherwise the BLAS of each worker starts a thread per core, which takes 7 times the CPU time.
    threadpool_limits(1)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """Ends this worker when the build process dies, because it would wait for work forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a worker
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _new_manifest(source: Source, shapes_per_shard: int) -> Manifest:
    return Manifest(
        source=source.name,
        splits=source.splits,
        settings={**source.settings, "shapes_per_shard": shapes_per_shard},
        categories=sorted({item.category for item in source.items}),
        skipped=dict(source.skipped),
    )


def _plan_shards(source: Source, shapes_per_shard: int) -> list[tuple[str, list[int]]]:
    """File name and item numbers of each shard. A shard never holds two splits."""
    plan = []
    for split in sorted({item.split for item in source.items}):
        members = [index for index, item in enumerate(source.items) if item.split == split]
        for number, start in enumerate(range(0, len(members), shapes_per_shard)):
            plan.append((f"{split}-{number:05d}.h5", members[start : start + shapes_per_shard]))
    return plan


def _collect_samples(
    source: Source,
    indices: list[int],
    outcomes: Iterable[Sample | str],
    manifest: Manifest,
    progress: "tqdm[NoReturn]",
) -> list[Sample]:
    """Returns the usable samples of a shard, and adds the skipped shapes to the manifest."""
    items = [source.items[index] for index in indices]
    found: dict[str, Sample] = {}
    problems: dict[str, str] = {}
    for item, outcome in zip(items, outcomes, strict=True):
        if isinstance(outcome, str):
            problems[item.id] = outcome
        else:
            found[item.id] = outcome
        progress.update()
    if found:
        layout = manifest.layouts.setdefault(items[0].split, _usual_layout(found.values()))
        for id, sample in found.items():
            if difference := _differences(sample.layout(), layout):
                problems[id] = difference
    for id, problem in problems.items():
        manifest.skipped[id] = problem
        progress.write(f"skipped {one_line(id)}: {one_line(problem)}")
    samples = [sample for id, sample in found.items() if id not in problems]
    for sample in samples:
        manifest.skipped.pop(sample.id, None)  # an earlier build may have skipped it
        if sample.note:
            manifest.notes[sample.id] = sample.note
    return samples


def _try_sample(index: int) -> Sample | str:
    """Returns the sample of an item, or the reason to skip it.

    One bad shape must not stop a long build.

    Raises:
        BuildError: the machine failed, so the shape may be good.
    """
    try:
        sample = _source.sample(index)
        sample.check()
        return sample
    except Exception as error:
        return skip_reason(_source.items[index].id, error)


def _usual_layout(samples: Iterable[Sample]) -> dict[str, Any]:
    """Returns the most frequent layout of the samples, which are the first ones of a split.

    Shapes of the split with another layout are skipped.
    """
    layouts = [sample.layout() for sample in samples]
    return max(layouts, key=layouts.count)


def _differences(layout: dict[str, Any], usual: dict[str, Any]) -> str:
    return "; ".join(
        f"{name} {layout[name]} {_ODD_LAYOUT} {usual[name]}"
        for name in layout
        if layout[name] != usual[name]
    )


def _check_layouts(source: Source, root: Path, manifest: Manifest) -> None:
    """Raises an error if too many shapes of a split were skipped for their layout."""
    total = collections.Counter(item.split for item in source.items)
    skipped: dict[str, dict[str, str]] = collections.defaultdict(dict)
    for item in source.items:
        if item.id in manifest.skipped:
            skipped[item.split][item.id] = manifest.skipped[item.id]
    for split, reasons in skipped.items():
        check_odd_layouts(root, reasons, total[split], f"{split} shapes")


def check_odd_layouts(root: Path, skipped: dict[str, str], total: int, what: str) -> None:
    """Checks that few shapes were skipped because their layout differs from the usual one.

    Args:
        root: folder of the dataset, for the message.
        skipped: why shapes were skipped, by id.
        total: number of shapes of the source, with those that were skipped.
        what: what the message calls the shapes.

    Raises:
        UserError: it is more than 5 % of the shapes, and more than one shape.
    """
    odd = [id for id, reason in skipped.items() if _ODD_LAYOUT in reason]
    if len(odd) > max(1, _MAX_ODD_SHARE * total):
        raise UserError(
            f"{root}: {len(odd)} of {total} {what} were skipped because their layout differs "
            f"({odd[0]}: {skipped[odd[0]]}); to include them, fix their files and build the "
            "dataset again in another folder"
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
    # The order of the shards numbers the samples, so a rebuilt shard must return to its old place.
    manifest.shards.sort(key=lambda shard: shard.file)
    manifest.save(root)

"""Builds a dataset from a source: in parallel, seeded, resumable, bad shapes named and skipped."""

import itertools
import multiprocessing.connection
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from threadpoolctl import threadpool_limits
from tqdm import tqdm

from occvae.data.formats.procedural import ProceduralSource
from occvae.data.manifest import Manifest, ShardEntry, sole_writer
from occvae.data.sample import Sample
from occvae.data.shards import REPAIR, Shard, file_sha256, write_shard
from occvae.data.sources import Item, Source
from occvae.errors import UserError

SHAPES_PER_SHARD = 64

_source: Source  # of a worker process, set once by _start_worker


def build_dataset(
    source: Source,
    destination: str | Path,
    *,
    shapes_per_shard: int = SHAPES_PER_SHARD,
    num_workers: int | None = None,
) -> Manifest:
    """Writes the shards of a source; an interrupted build continues where it stopped.

    Args:
        source: see sources.py.
        destination: folder of the dataset; made if absent.
        shapes_per_shard: at most; a build that continues must have the same.
        num_workers: processes; default one a core.

    Raises:
        UserError: the folder holds a dataset of other settings, another build is writing to it, or
            no shape is usable.
    """
    num_workers = os.cpu_count() if num_workers is None else num_workers
    if num_workers < 1:
        raise UserError(f"workers must be positive, got {num_workers}")
    if shapes_per_shard < 1:
        raise UserError(f"shapes_per_shard must be positive, got {shapes_per_shard}")
    _check_ids(source)
    root = Path(destination)
    with sole_writer(root):
        manifest = _new_manifest(source, shapes_per_shard).resume(root)
        _build_shards(source, root, manifest, shapes_per_shard, num_workers)
        if not manifest.shards:
            id, reason = next(iter(manifest.skipped.items()))
            raise UserError(f"{root}: no shape is usable; {id}: {reason}")
        manifest.complete = True
        manifest.save(root)
    return manifest


def build_default(destination: str | Path) -> Manifest:
    """The embedded default dataset: what `occvae data build procedural` makes without options."""
    return build_dataset(ProceduralSource(), destination)


def verify_dataset(root: str | Path) -> Manifest:
    """Reads every shard, as many at a time as there are cores, and compares it with the manifest.

    Raises:
        UserError: a shard is missing, damaged or not what the manifest says, two shapes have the
            same id, or the build was interrupted.
    """
    root = Path(root)
    manifest = Manifest.load_complete(root)
    seen: set[str] = set()
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing leaves Python to the others
        shards = pool.map(lambda entry: _verify_shard(root, entry), manifest.shards)
        for shard in tqdm(shards, total=len(manifest.shards), desc="verify", unit="shard"):
            for id in shard.ids:
                if id in seen:
                    raise UserError(f"{shard.path}: shape {id!r} is there twice")
                seen.add(id)
    return manifest


def _verify_shard(root: Path, entry: ShardEntry) -> Shard:
    path = root / entry.file
    # Before HDF5 looks inside: what it does with damaged structures is anybody's guess.
    if path.is_file() and file_sha256(path) != entry.sha256:
        raise UserError(f"{path}: SHA-256 differs from the manifest (damaged); {REPAIR}")
    shard = Shard(root, entry)
    if len(shard) != entry.num_shapes:
        raise UserError(f"{path}: not the {entry.num_shapes} shapes of the manifest")
    return shard


def _build_shards(
    source: Source, root: Path, manifest: Manifest, shapes_per_shard: int, num_workers: int
) -> None:
    """Adds to the manifest what it lacks."""
    plan = _plan_shards(source, shapes_per_shard)
    finished = {entry.file for entry in manifest.shards}
    todo = [(file, indices) for file, indices in plan if file not in finished]
    left = sum(len(indices) for _, indices in todo)
    if not left:
        return
    progress = tqdm(
        total=len(source.items),
        initial=len(source.items) - left,
        desc=f"build {root}",
        unit="shape",
        mininterval=0.5,
    )
    # All workers are started at once, and no more of them have work at a time.
    with progress, _worker_pool(min(num_workers, left, 2 * shapes_per_shard), source) as pool:
        try:
            # The workers begin a shard while the one before is written.
            for file, indices, outcomes in _one_ahead(
                (file, indices, pool.map(_try_sample, indices)) for file, indices in todo
            ):
                items = [source.items[index] for index in indices]
                samples = _collect_samples(items, outcomes, manifest, progress)
                _finish_shard(root, file, samples, manifest)
        except BrokenProcessPool:
            raise UserError(
                f"{root}: a build process was killed, perhaps for want of memory; run the same "
                "command again with fewer --workers: it continues where it stopped"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _one_ahead(values: Iterable) -> Iterator:
    """The same, each taken when the one before is asked for."""
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
            raise UserError(f"two shapes of the source have the id {item.id!r}")
        seen.add(item.id)


def _worker_pool(num_workers: int, source: Source) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(num_workers, initializer=_start_worker, initargs=(source,))


def _start_worker(source: Source) -> None:
    global _source
    _source = source
    # Left alone, each worker's BLAS starts a thread a core: 7 times the CPU time.
    threadpool_limits(1)
    threading.Thread(target=_leave_with_the_parent, daemon=True).start()


def _leave_with_the_parent() -> None:
    """A build that is killed cannot tell its workers, which would wait for work for ever."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
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
        problem = outcome if isinstance(outcome, str) else _unlike(outcome, item, manifest)
        if problem is None:
            samples.append(outcome)
            manifest.skipped.pop(item.id, None)  # an earlier run may have failed on it
            if outcome.note:
                manifest.notes[item.id] = outcome.note
        else:
            manifest.skipped[item.id] = problem
            progress.write(f"skipped {item.id}: {problem}")
        progress.update()
    return samples


def _try_sample(index: int) -> Sample | str:
    """The sample, or why this shape is unusable: one bad shape must not stop a long build."""
    try:
        sample = _source.sample(index)
        sample.check()
        return sample
    except UserError as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]


def _unlike(sample: Sample, item: Item, manifest: Manifest) -> str | None:
    """How a sample differs from the first of its split, whose layout all others must have."""
    layout = sample.layout()
    expected = manifest.layouts.setdefault(item.split, layout)
    differences = [
        f"{name} {layout[name]} where the first shape of the split has {expected[name]}"
        for name in layout
        if layout[name] != expected[name]
    ]
    return "; ".join(differences) or None


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

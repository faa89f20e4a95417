"""Training samples per second: our shards against a folder of .npz files in ONet's layout.

python benchmarks/loader_bench.py [DATASET] [--workers 0 1 2 4] [--simulate] [--cold] [--json FILE]

Both hold the same shapes on the same disk. A sample has 2,048 points and one image of 224 pixels.
Without a dataset, procedural shapes are built first. Files are in the page cache, except that
--cold drops them before each run. --simulate feeds a GPU of a fixed pace, which takes eight tenths
of what eight workers can deliver, and measures how long it waits.

Other jobs on the machine change the wall time, but not the CPU time of a sample without workers.
"""

import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from timing import environment, header, parser, summarize, write_json
from npz_folder import NpzFolder, write_npz_folder
from occvae.data.build import build_dataset
from occvae.data.dataset import ShapeDataset
from occvae.data.formats.procedural import ProceduralSource
from occvae.data.loader import StepSampler, load_batches
from occvae.data.targets import PointTarget

OURS, PUBLISHED, NO_NOISE = "shards", "npz folder", "npz folder, no noise"
PACE = 0.8  # pace of the simulated GPU, as a share of what the workers can deliver
FIRST_STEP = 5.0  # seconds


def batches_of(dataset, args, workers: int, count: int) -> Iterator[dict[str, torch.Tensor]]:
    """Yields `count` batches, from our loader or, like the published code, from PyTorch's."""
    keys = StepSampler(len(dataset), args.batch, rank=0, world_size=1, seed=0, steps=range(count))
    with warnings.catch_warnings():  # more workers than cores are on purpose
        warnings.simplefilter("ignore", UserWarning)
        if isinstance(dataset, ShapeDataset):
            return load_batches(dataset, keys, num_workers=workers, pin_memory=False)
        return iter(DataLoader(dataset, batch_sampler=keys, num_workers=workers))


def time_run(dataset, args, workers: int) -> tuple[float, float]:
    """Returns wall and CPU seconds per sample, after the workers have warmed up their memory."""
    warmup = 6 * max(workers, 1)
    count = args.batches * warmup
    batches = batches_of(dataset, args, workers, warmup + count)
    for _ in range(warmup):
        next(batches)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in batches:
        pass
    samples = count * args.batch
    return (time.perf_counter() - wall) / samples, (time.process_time() - cpu) / samples


def bytes_read(dataset) -> float | None:
    """Returns the bytes that a sample reads from files, or None on other systems than Linux."""
    try:
        before = _characters_read()
        for index in range(len(dataset)):
            dataset[0, index]
        return (_characters_read() - before) / len(dataset)
    except OSError:
        return None


def _characters_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


def drop_cache(folder: Path) -> None:
    """Drops the files of a folder from the page cache."""
    for path in filter(Path.is_file, folder.rglob("*")):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def compare(candidates: dict, args, workers: int, cold: dict[str, Path]) -> list[dict]:
    """Times the candidates in turns and returns their rows."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
    for _ in range(args.repeats):
        for name, dataset in candidates.items():
            if cold:
                drop_cache(cold[name])
            times[name].append(time_run(dataset, args, workers))
    rows = []
    for name, runs in times.items():
        row = dict(candidate=name, workers=workers, cold=bool(cold), **summarize(_column(runs, 0)))
        if workers == 0:
            row["cpu_time"] = float(np.median(_column(runs, 1)))
        rows.append(row)
    show(rows)
    return rows


def _column(runs: list[tuple[float, float]], which: int) -> list[float]:
    return [run[which] for run in runs]


def show(rows: list[dict]) -> None:
    ours = rows[0]
    for row in rows:
        line = f"  {row['candidate']:<22} {1 / row['median']:>8.0f} samples/s"
        line += f"  {row['median'] / ours['median']:>5.1f}x"
        if "cpu_time" in row:
            ratio = row["cpu_time"] / ours["cpu_time"]
            line += f"   CPU {1e6 * row['cpu_time']:>6.0f} us/sample  {ratio:>5.1f}x"
        print(line)


def simulate(dataset, args, workers: int = 8) -> dict:
    """Measures how long a GPU of a fixed pace would wait for batches.

    Steps are queued: when a step begins, the batch of the next step is requested. That batch is
    late if it arrives after the step has ended. A slow first step lets the workers get ahead.
    """
    rate = 1 / float(np.median([time_run(dataset, args, workers)[0] for _ in range(3)]))
    period = args.batch / (PACE * rate)
    count = 4 * args.batches * workers
    batches = batches_of(dataset, args, workers, 1 + count)
    next(batches)
    time.sleep(FIRST_STEP)
    free, waits = time.perf_counter() + period, []
    for _ in batches:
        begin = max(free, time.perf_counter())
        waits.append(begin - free)
        free = begin + period
        time.sleep(max(0.0, begin - time.perf_counter()))
    return dict(
        candidate="simulated GPU",
        workers=workers,
        samples_per_s=PACE * rate,
        late=sum(wait > 0 for wait in waits) / count,
        idle=sum(waits) / (count * period + sum(waits)),
        longest_wait=max(waits),
        **summarize(waits),
    )


def parts(dataset: ShapeDataset) -> dict[str, float]:
    """Returns the CPU seconds of each part of a sample."""
    from occvae.images import decode as decoding

    shard, local = dataset.locate(0)
    content = shard.image(local, 0)
    pixels = decoding._decode_ordinary(content)
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    runs = {
        "read the image": lambda: shard.image(local, 0),
        "decode it": lambda: decoding._decode_ordinary(content),
        "resize it": lambda: decoding._pad_to_square(image, dataset.image_size, False),
        "read and decode the points": lambda: shard.points(local, 0, dataset.target.num_points),
        "the whole sample": lambda: dataset[0, 0],
    }
    return {name: _cpu_time(run) for name, run in runs.items()}


def _cpu_time(run, count: int = 200) -> float:
    times = []
    for _ in range(5):
        start = time.process_time()
        for _ in range(count):
            run()
        times.append((time.process_time() - start) / count)
    return min(times)


def open_shards(args, scratch: Path) -> ShapeDataset:
    root = Path(args.dataset) if args.dataset else scratch / "shards"
    if not args.dataset:
        build_dataset(ProceduralSource(args.shapes_per_category), root)
    return ShapeDataset(
        root, "train", image_size=args.image_size, target=PointTarget(args.points), train=True
    )


def report_bytes(candidates: dict) -> list[dict]:
    ours = candidates[OURS]
    views = [
        (shard, local, view)
        for shard, local in map(ours.locate, range(len(ours)))
        for view in range(shard.num_views)
    ]
    images = [len(shard.image(local, view)) for shard, local, view in views]
    image = float(np.mean(images))
    print(f"bytes read per sample (a stored image has {image:.0f} on average)")
    rows = []
    for name in (OURS, PUBLISHED):
        amount = bytes_read(candidates[name])
        if amount is not None:
            print(f"  {name:<22} {amount:>9.0f}")
            rows.append(dict(candidate=name, bytes_per_sample=amount, image_bytes=image))
    return rows


def main() -> None:
    options = parser(__doc__)
    options.add_argument("dataset", nargs="?", help="folder of a dataset with stored points")
    options.add_argument("--shapes-per-category", type=int, default=8)
    options.add_argument("--points", type=int, default=2048)
    options.add_argument("--image-size", type=int, default=224)
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--batches", type=int, default=8, help="batches per worker in a timed run")
    options.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2, 4])
    options.add_argument("--cold", action="store_true", help="also with an empty page cache")
    options.add_argument("--simulate", action="store_true", help="also feed a simulated GPU")
    options.set_defaults(repeats=3)
    args = options.parse_args()
    torch.set_num_threads(args.threads or 1)  # workers have one thread, too
    facts = environment()
    print(header("loader_bench", facts))
    with tempfile.TemporaryDirectory(prefix="occvae-loader-") as name:
        scratch = Path(name)
        shards = open_shards(args, scratch)
        args.batch = min(args.batch, len(shards))
        folders = write_npz_folder(shards, scratch / "npz")
        size = (args.image_size, args.points)
        candidates = {
            OURS: shards,
            PUBLISHED: NpzFolder(folders, *size, with_noise=True),
            NO_NOISE: NpzFolder(folders, *size, with_noise=False),
        }
        print(
            f"{len(shards)} shapes, {args.points} points, {args.image_size} px, "
            f"{args.batch} samples per batch"
        )
        rows = report_bytes(candidates)
        print("CPU time of one sample from the shards")
        for part, seconds in parts(shards).items():
            print(f"  {part:<28} {1e6 * seconds:>6.0f} us")
        for workers in args.workers:
            print(f"{workers} workers, in the page cache")
            rows += compare(candidates, args, workers, {})
        if args.cold:
            print("0 workers, empty page cache")
            cold = {OURS: shards.root, PUBLISHED: scratch / "npz", NO_NOISE: scratch / "npz"}
            rows += compare(candidates, args, 0, cold)
        if args.simulate:
            row = simulate(shards, args)
            print(
                f"a GPU of {row['samples_per_s']:.0f} samples/s, 8 workers: "
                f"{100 * row['late']:.1f} % of batches late, by at most "
                f"{1e3 * row['longest_wait']:.1f} ms; "
                f"idle for {100 * row['idle']:.1f} % of the time"
            )
            rows.append(row)
        if args.json:
            sizes = dict(batch=args.batch, points=args.points, image_size=args.image_size)
            write_json(args.json, "loader", facts, [dict(**sizes, **row) for row in rows])


if __name__ == "__main__":
    main()

"""Training: samples/s, where the time of a step goes, scaling, and memory per ZeRO stage.

python benchmarks/train_bench.py [--arch vitocc] [--preset cpu-small] [--data FOLDER] [name=value]

Runs with one and two processes have the same global batch and the same total number of CPU threads.
Their ratio therefore shows what is lost to smaller batches and communication. Waiting for another
rank counts as communication. Without --data, 96 procedural shapes are built first. ZeRO stages are
compared on CPUs or with at least two GPUs.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from timing import ROOT, environment, header, parser, write_json
from occvae.data.build import build_dataset
from occvae.data.formats.procedural import ProceduralSource
from occvae.data.shapes import ShapeSettings
from occvae.train.config import apply_overrides
from occvae.train.presets import make_preset
from step_clock import PHASES

RANK = Path(__file__).with_name("train_rank.py")
SHAPES_PER_CATEGORY = 8  # one of them is for validation
TIME_LIMIT = 600  # seconds per run


def make_data(folder: Path) -> Path:
    settings = ShapeSettings(num_points=20_000, num_surface_points=1_000, num_views=5)
    build_dataset(ProceduralSource(SHAPES_PER_CATEGORY, settings), folder)
    return folder


def run_ranks(
    options: argparse.Namespace, data: Path, ranks: int, overrides: list[str]
) -> list[dict]:
    """Runs train_rank.py on each rank and returns the result of each."""
    with socket.socket() as listener, tempfile.TemporaryDirectory() as folder:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        listener.close()
        result = Path(folder) / "result.json"
        command = [sys.executable, RANK, result, "--arch", options.arch, "--data", data]
        command += ["--steps", options.repeats, "--threads", max(1, options.threads // ranks)]
        command += ["--preset", options.preset, *overrides]
        shared = dict(WORLD_SIZE=ranks, LOCAL_WORLD_SIZE=ranks, MASTER_ADDR="127.0.0.1")
        shared |= dict(MASTER_PORT=port, PYTHONPATH=os.pathsep.join([str(ROOT), *sys.path]))
        if options.device == "cpu":
            shared["CUDA_VISIBLE_DEVICES"] = ""
        processes = [
            subprocess.Popen(
                [str(word) for word in command],
                env={k: str(v) for k, v in (os.environ | shared | place(rank)).items()},
            )
            for rank in range(ranks)
        ]
        try:
            statuses = [process.wait(TIME_LIMIT) for process in processes]
        finally:
            for process in processes:
                process.kill()
        if any(statuses):
            raise SystemExit(f"train_rank.py ended with the exit statuses {statuses}")
        return json.loads(result.read_text())


def place(rank: int) -> dict[str, int]:
    return {"RANK": rank, "LOCAL_RANK": rank}


def time_training(options: argparse.Namespace, data: Path, batch: int) -> list[dict]:
    """Returns one row per number of ranks and ZeRO stage."""
    cases = [(1, 0)]
    if options.device == "cpu" or torch.cuda.device_count() > 1:
        cases += [(2, stage) for stage in ((0, 3) if options.quick else range(4))]
    rows = []
    for ranks, stage in cases:
        overrides = [
            *options.overrides,
            f"zero_stage={stage}",
            f"optim.batch_size={batch // ranks}",
        ]
        found = run_ranks(options, data, ranks, overrides)
        rows.append(make_row(ranks, stage, found))
        print(line(rows[-1], rows[0]), flush=True)
    return rows


def make_row(ranks: int, stage: int, found: list[dict]) -> dict:
    """Combines the results of the ranks: mean times, and the memory of the largest rank."""
    times = {
        key: sum(rank[key] for rank in found) / ranks for key in ("median", "p20", "p80", "minimum")
    }
    phases = {name: sum(rank["phases"][name] for rank in found) / ranks for name in PHASES}
    moved = found[0]["collective_bytes"]
    return dict(
        ranks=ranks,
        zero_stage=stage,
        **times,
        n=found[0]["n"],
        samples_per_second=found[0]["samples"] / times["median"],
        **{f"{name}_ms": 1e3 * seconds for name, seconds in phases.items()},
        collectives=sum(found[0]["collectives"].values()),
        moved_mb=sum(moved.values()) / 1e6,
        peak_rss_mib=max(rank["peak_rss"] for rank in found) / 2**20,
        peak_gpu_mib=max(rank["peak_gpu"] for rank in found) / 2**20,
    )


HEADINGS = f"{'ranks ZeRO':<12}{'step':>9}  {'samples/s':>9}  ratio" + "".join(
    f"{name[:13]:>14}" for name in PHASES
)


def line(row: dict, first: dict) -> str:
    ratio = row["samples_per_second"] / first["samples_per_second"]
    phases = "".join(f"{row[f'{name}_ms']:>11.1f} ms" for name in PHASES)
    memory = f"{row['peak_rss_mib']:.0f} MiB"
    if row["peak_gpu_mib"]:
        memory += f", GPU {row['peak_gpu_mib']:.0f} MiB"
    return (
        f"{row['ranks']:<6}{row['zero_stage']:<6}{1e3 * row['median']:>6.0f} ms  "
        f"{row['samples_per_second']:>9.2f}  {ratio:.2f}x{phases}  peak {memory}; "
        f"{row['collectives']:.0f} collectives, {row['moved_mb']:.2f} MB"
    )


def parse() -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument("--arch", default="vitocc")
    options.add_argument("--preset", help="preset (default: default on a GPU, cpu-small on a CPU)")
    options.add_argument("--data", type=Path, help="folder of a dataset")
    options.set_defaults(repeats=6)  # steps per run
    options.add_argument("--quick", action="store_true", help="ZeRO stages 0 and 3 only")
    options.add_argument("overrides", nargs="*", metavar="section.name=value")
    result = options.parse_intermixed_args()
    result.preset = result.preset or ("default" if result.device == "cuda" else "cpu-small")
    result.threads = result.threads or len(os.sched_getaffinity(0))
    return result


def main() -> None:
    options = parse()
    facts = environment(options.device)
    print(header("train_bench", facts))
    config = apply_overrides(make_preset(options.preset, options.arch), options.overrides)
    batch = config.optim.batch_size
    print(
        f"  {options.arch}, preset {options.preset}, global batch {batch}, "
        f"{options.threads} threads in total"
    )
    with tempfile.TemporaryDirectory() as folder:
        data = options.data or make_data(Path(folder) / "data")
        print(HEADINGS)
        rows = time_training(options, data, batch)
    if options.json:
        known = dict(arch=options.arch, preset=options.preset, device=options.device, batch=batch)
        write_json(options.json, "train", facts, [known | row for row in rows])


if __name__ == "__main__":
    main()

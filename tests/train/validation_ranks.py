"""One rank that validates a known model on its share of the shapes. See test_validation.py."""

import json
from pathlib import Path

import torch

from occvae.data.dataset import ShapeDataset
from occvae.data.targets import PointTarget
from occvae.observations.kinds import Images
from occvae.train import parallel
from occvae.train.config import OptimConfig
from occvae.train.objectives import PointObjective
from occvae.train.validation import Validator
from tests.fakes import ball_model

NUM_SHAPES = 9  # odd, so that two ranks have different shares


def make_validator(root: str) -> Validator:
    dataset = ShapeDataset(root, "val", image_size=8, target=PointTarget(256, 0))
    objective = PointObjective(OptimConfig(), Images(image_size=8))
    return Validator(dataset, objective, NUM_SHAPES, torch.device("cpu"))


def main(files: list[str]) -> int:
    """Validates on the dataset that the first argument names. Each rank writes what it found."""
    root, results = files
    with parallel.distributed(timeout=60):
        validator = make_validator(root)
        validation = validator.gather(validator.measure(ball_model()))
        found = {"shapes": validation.shapes, "metrics": validation.metrics()}
        Path(f"{results}-{parallel.rank()}").write_text(json.dumps(found))
    return 0

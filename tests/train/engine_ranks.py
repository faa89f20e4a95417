"""One rank that trains several engines, one after the other, on the same batches.

The cases are a JSON list of {"name": name of the case, "overrides": [...], "from": None or the name
of an earlier case}. A case with "from" starts from weights and moments of the earlier case after
half of its steps. Rank 0 writes the losses of each case. See test_engine.py.
"""

import json
from pathlib import Path
from unittest import mock

import torch
from torch.nn import functional as F

from occvae.models.registry import create_model
from occvae.train import engine as engines
from occvae.train import parallel
from occvae.train.config import TrainConfig, apply_overrides
from occvae.train.schedule import create_schedule
from tests.tiny import TINY_MODEL

STEPS, GLOBAL_BATCH, MICRO_STEPS = 20, 8, 2
OVERRIDES = [
    *TINY_MODEL,
    "precision=fp32",
    "optim.lr=1e-3",
    "optim.warmup_steps=5",
    f"optim.steps={STEPS}",
    f"optim.accumulation_steps={MICRO_STEPS}",
    "optim.clip_norm=0.5",
]


def make_config(overrides: list[str]) -> TrainConfig:
    return apply_overrides(TrainConfig(arch="vitocc"), [*OVERRIDES, *overrides])


def make_model(config: TrainConfig) -> torch.nn.Module:
    torch.manual_seed(0)
    return create_model(config.arch, **config.model)


def make_schedule(config: TrainConfig):
    optim = config.optim
    return create_schedule(optim.schedule, optim.warmup_steps, optim.steps)


def batch(step: int, micro: int) -> tuple[torch.Tensor, ...]:
    """Returns images, points and occupancies of a micro step for all ranks."""
    generator = torch.Generator().manual_seed(1000 * step + micro)
    size = GLOBAL_BATCH // MICRO_STEPS
    images = torch.rand(size, 1, 3, 32, 32, generator=generator)
    points = torch.rand(size, 64, 3, generator=generator) - 0.5
    radii = images.mean(dim=(1, 2, 3, 4))[:, None]
    return images, points, (points.norm(dim=2) < radii).float()


def loss_of(output: torch.Tensor, occupancies: torch.Tensor) -> torch.Tensor:
    return F.binary_cross_entropy_with_logits(output.float(), occupancies)


def train(engine: engines.Engine, steps: range) -> list[float]:
    losses = []
    for step in steps:
        total = torch.zeros(())
        for micro in range(MICRO_STEPS):
            share = parallel.rank(), parallel.world_size()
            images, points, occupancies = (
                part.chunk(share[1])[share[0]] for part in batch(step, micro)
            )
            loss = loss_of(engine(images, points), occupancies)
            engine.train_step(loss)
            total += loss.detach()
        total = parallel.sum_over_ranks(total) / parallel.world_size() / MICRO_STEPS
        losses.append(total.item())
    return losses


def run(case: dict, kept: dict) -> dict:
    """Trains a case. Stores its state after half of the steps in `kept`."""
    batch_size = GLOBAL_BATCH // MICRO_STEPS // parallel.world_size()
    config = make_config([*case["overrides"], f"optim.batch_size={batch_size}"])
    model = make_model(config)
    half = STEPS // 2
    first, moments, state = 0, None, None
    if case.get("from") is not None:
        first, (weights, moments, state) = half, kept[case["from"]]
        model.load_state_dict(weights)
    device = torch.device("cpu")
    engine = engines.Engine(model, config, make_schedule(config), device, first, moments, state)
    losses = []
    if not first:
        losses = train(engine, range(half))
        weights = {k: v.clone() for k, v in engine.whole_model().state_dict().items()}
        kept[case["name"]] = weights, engine.moments(), engine.state()
    losses += train(engine, range(half, STEPS))
    buffers = engine.whole_model().named_buffers()
    counts = [buffer.item() for name, buffer in buffers if name.endswith("num_batches_tracked")]
    return {"losses": losses, "batches": counts, "grad_norm": engine.grad_norm()}


def main(files: list[str]) -> int:
    """Trains the cases in the first file and writes the results to the second file."""
    cases, results = map(Path, files)
    with parallel.distributed(timeout=60):
        kept: dict = {}
        found = {}
        for case in json.loads(cases.read_text()):
            # CPUs have no fp16 training, but the tested parts of it do not depend on the device.
            dtype = torch.float16 if case.get("fp16") else None
            with mock.patch.object(engines, "autocast_dtype", lambda *_, dtype=dtype: dtype):
                found[case["name"]] = run(case, kept)
        if parallel.rank() == 0:
            results.write_text(json.dumps(found))
    return 0

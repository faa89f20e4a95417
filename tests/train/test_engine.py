"""Two ranks under every ZeRO stage and offloading train like one process in plain PyTorch.

All cases run one after the other in the same two ranks, because some start from earlier cases.
"""

import json

import pytest
import torch

from tests.train import engine_ranks
from tests.train.ranks import no_rank_left, start

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures(no_rank_left.__name__)]
PLAIN = [{"name": f"zero {stage}", "overrides": [f"zero_stage={stage}"]} for stage in range(4)]
OFFLOADED = [
    {"name": name, "overrides": [f"zero_stage={stage}", "offload_optimizer=true"], "from": start}
    for name, stage, start in (
        ("offloaded 1", 1, None),
        ("offloaded 2, from 3", 2, "zero 3"),
        ("offloaded 3, from 0", 3, "zero 0"),
    )
]
FROM_OFFLOADED = [{"name": "3, from 1", "overrides": ["zero_stage=3"], "from": "offloaded 1"}]
CHECKPOINTED = [
    {
        "name": f"recomputed {stage}",
        "overrides": [f"zero_stage={stage}", "activation_checkpointing=true"],
    }
    for stage in (0, 3)
]
# These cases come last, because the autocast state of DeepSpeed outlives an engine.
FP16 = [
    {"name": f"fp16 {stage}", "overrides": [f"zero_stage={stage}"], "fp16": True}
    for stage in (0, 2)
]
RESUMED_FP16 = [
    {"name": "fp16 2, from 0", "overrides": ["zero_stage=2"], "fp16": True, "from": "fp16 0"}
]


def plain_pytorch() -> tuple[list[float], float]:
    """Returns the losses of one process, and the norm of its last gradient before clipping."""
    config = engine_ranks.make_config([])
    model, optim = engine_ranks.make_model(config), config.optim
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": optim.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=optim.lr)
    factor = engine_ranks.make_schedule(config)
    losses = []
    for step in range(engine_ranks.STEPS):
        for group in optimizer.param_groups:
            group["lr"] = optim.lr * factor(step)
        optimizer.zero_grad()
        total = 0.0
        for micro in range(engine_ranks.MICRO_STEPS):
            images, points, occupancies = engine_ranks.batch(step, micro)
            loss = engine_ranks.loss_of(model(images, points), occupancies)
            (loss / engine_ranks.MICRO_STEPS).backward()
            total += loss.item() / engine_ranks.MICRO_STEPS
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), optim.clip_norm)
        optimizer.step()
        losses.append(total)
    return losses, norm.item()


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("engines")
    cases = PLAIN + OFFLOADED + FROM_OFFLOADED + CHECKPOINTED + FP16 + RESUMED_FP16
    (folder / "cases.json").write_text(json.dumps(cases))
    files = [folder / "cases.json", folder / "found.json"]
    for rank in start(folder, files, ranks=2, entry=engine_ranks.main, CUDA_VISIBLE_DEVICES=""):
        assert rank.status(timeout=400) == 0, rank.text()[-3000:]
    return json.loads((folder / "found.json").read_text())


def test_every_zero_stage_gives_the_losses_of_one_process(found):
    losses, norm = plain_pytorch()
    assert losses[-1] < 0.6 * losses[0]
    for case in PLAIN + OFFLOADED + FROM_OFFLOADED + CHECKPOINTED:
        mine = found[case["name"]]
        expected = losses[-len(mine["losses"]) :]
        assert mine["losses"] == pytest.approx(expected, abs=1e-5), case["name"]
        assert mine["grad_norm"] == pytest.approx(norm, rel=1e-3), case["name"]


def test_running_statistics_count_a_batch_once(found):
    micro_steps = engine_ranks.STEPS * engine_ranks.MICRO_STEPS
    for case in PLAIN + CHECKPOINTED:
        counts = found[case["name"]]["batches"]
        assert counts and set(counts) == {micro_steps}, case["name"]


def test_fp16_trains_with_scaled_losses(found):
    """Both ranks skip steps whose gradients overflow, so the loss may fall later."""
    expected = found["zero 0"]
    for case in FP16:
        mine = found[case["name"]]
        assert mine["losses"][0] == pytest.approx(expected["losses"][0], rel=1e-2)
        assert mine["losses"][-1] == pytest.approx(expected["losses"][-1], rel=0.2)
        assert 0.2 < mine["grad_norm"] / expected["grad_norm"] < 5  # unscaled


def test_a_resume_in_fp16_continues_with_its_loss_scale(found):
    """With the initial scale, gradients would overflow again and steps would be skipped."""
    [case] = RESUMED_FP16
    mine, expected = found[case["name"]]["losses"], found[case["from"]]["losses"]
    assert len(mine) == engine_ranks.STEPS // 2
    assert mine == pytest.approx(expected[-len(mine) :], abs=1e-4)

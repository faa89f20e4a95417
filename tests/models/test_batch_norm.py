"""N ranks with batch B equal one rank with batch N * B."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from occvae.models.batch_norm import (
    ConditionalBatchNorm,
    SyncBatchNorm,
    synchronize_batch_norm,
)

# Rows per rank. Unequal shares reveal a mean of means.
SHARES = (3, 5)


def make_case(name: str) -> tuple[nn.Module, list[Tensor], Tensor]:
    """Module, inputs with the rows of all ranks, and the gradient at the output."""
    generator = torch.Generator().manual_seed(0)
    rows = sum(SHARES)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    if name == "conditional":
        module, arguments = ConditionalBatchNorm(6, 4), [normal(rows, 7, 6), normal(rows, 4)]
    elif name == "images":
        module, arguments = SyncBatchNorm(6), [normal(rows, 6, 3, 2) * 2 + 1]
    elif name == "far":
        # The error of E[x^2] - E[x]^2 in float32 would be six times this variance.
        module, arguments = SyncBatchNorm(6), [normal(rows * 20, 6) * 0.01 + 100]
    else:
        module, arguments = SyncBatchNorm(6, affine=False), [normal(rows, 6)]
    for parameter in module.parameters():
        parameter.data.add_(normal(*parameter.shape) * 0.3)
    return module, arguments, normal(*arguments[0].shape)


CASES = ["plain", "images", "conditional", "far"]


def share_of(rank: int, tensor: Tensor) -> Tensor:
    rows = [share * len(tensor) // sum(SHARES) for share in SHARES]
    return tensor.split(rows)[rank]


def run_case(module: nn.Module, arguments: list[Tensor], cotangent: Tensor) -> dict[str, Tensor]:
    """Runs two steps, so that running statistics are not the initial ones."""
    arguments = [argument.clone().requires_grad_() for argument in arguments]
    for _ in range(2):
        output = module(*arguments)
        output.backward(cotangent)
    result = {"output": output.detach(), **{k: v.clone() for k, v in module.state_dict().items()}}
    result |= {f"input_{i}": argument.grad for i, argument in enumerate(arguments)}
    return result | {f"d_{name}": p.grad for name, p in module.named_parameters()}


def rank_main(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=len(SHARES)
    )
    for name in CASES:
        module, arguments, cotangent = make_case(name)
        local = [share_of(rank, argument) for argument in arguments]
        result = run_case(module, local, share_of(rank, cotangent))
        torch.save(result, f"{folder}/{name}-{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def of_two_ranks(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(rank_main, args=(str(folder),), nprocs=len(SHARES))
    return folder


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_equal_one(of_two_ranks, name):
    module, arguments, cotangent = make_case(name)
    if name == "far":  # torch's float32 loses digits here
        module, arguments, cotangent = module.double(), [arguments[0].double()], cotangent.double()
    expected = run_case(module, arguments, cotangent)
    ranks = [torch.load(of_two_ranks / f"{name}-{rank}.pt") for rank in range(len(SHARES))]
    tolerance = {"rtol": 5e-3, "atol": 5e-3} if name == "far" else {"rtol": 1e-5, "atol": 1e-5}
    for key, value in expected.items():
        if key == "output" or key.startswith("input_"):
            found = torch.cat([result[key] for result in ranks])
        elif key.startswith("d_"):
            found = sum(result[key] for result in ranks)
        else:  # parameters, buffers: the same on every rank
            torch.testing.assert_close(ranks[0][key], ranks[1][key], rtol=0, atol=0)
            found = ranks[0][key]
        if name == "far" and key.startswith("input_"):
            continue  # differences of nearly equal numbers, on both sides
        found = found.to(value.dtype)
        torch.testing.assert_close(found, value, msg=lambda m, k=key: f"{k}: {m}", **tolerance)


def test_a_small_variance_far_from_zero_is_kept(of_two_ranks):
    x = make_case("far")[1][0].double()
    variance = x.var(dim=0, unbiased=True)
    expected = 0.9 * (0.9 + 0.1 * variance) + 0.1 * variance
    found = torch.load(of_two_ranks / "far-0.pt")
    torch.testing.assert_close(found["running_var"].double(), expected, rtol=1e-6, atol=1e-7)
    assert found["num_batches_tracked"] == 2


@pytest.mark.parametrize("training", [True, False])
def test_one_process_equals_torch_batch_norm(training):
    x = torch.randn(6, 5, 4, 4)
    theirs = nn.BatchNorm2d(5).train(training)
    ours = SyncBatchNorm(5).train(training)
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"expected \(M, C, \.\.\.\), got shape \(3,\)"):
        SyncBatchNorm(3)(torch.zeros(3))


def nested() -> nn.Module:
    from timm.layers import BatchNormAct2d

    inner = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, eps=1e-3, momentum=0.2))
    return nn.Sequential(
        inner, BatchNormAct2d(4, act_layer=nn.PReLU), nn.Flatten(), nn.BatchNorm1d(16)
    )


@pytest.mark.parametrize("training", [True, False])
def test_synchronizing_keeps_state_and_outputs(training):
    torch.manual_seed(0)
    model, x = nested(), torch.randn(8, 3, 2, 2)
    model(x)  # statistics other than the initial ones
    model.train(training)
    reference = nested()
    reference.load_state_dict(model.state_dict())
    reference.train(training)
    assert synchronize_batch_norm(model) is model
    kinds = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert len(kinds) == 3 and all(isinstance(kind, SyncBatchNorm) for kind in kinds)
    assert (kinds[0].eps, kinds[0].momentum, kinds[0].training) == (1e-3, 0.2, training)
    torch.testing.assert_close(model(x), reference(x), rtol=0, atol=0)
    assert model.state_dict().keys() == reference.state_dict().keys()

"""Point cloud, voxel and unconditional checkpoints of occupancy_networks are converted."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from occvae.cli.main import main
from occvae.convert import convert_checkpoint
from occvae.errors import UserError
from occvae.models import create_model, from_pretrained
from tests.convert.published_onet_tasks import (
    latent_logits,
    latent_posterior,
    latent_state,
    point_logits,
    point_state,
    voxel_logits,
    voxel_state,
)
from tests.convert.test_occupancy_networks import save


def latent_case(state: dict, labeled: Tensor, points: Tensor) -> Tensor:
    mean, _ = latent_posterior(state, labeled[..., :3], labeled[..., 3])
    return latent_logits(state, points, mean)


class Case(NamedTuple):
    name: str
    state: Callable[..., dict[str, Tensor]]
    logits: Callable[[dict, Tensor, Tensor], Tensor]
    shape: tuple[int, ...]  # of what is observed
    published: dict[str, int]


CASES = {
    "onet-points": Case(
        "point cloud",
        point_state,
        point_logits,
        (2, 60, 3),
        {"c_dim": 512, "hidden_dim": 512, "hidden_size": 256},
    ),
    "onet-voxels": Case(
        "voxels",
        voxel_state,
        voxel_logits,
        (2, 32, 32, 32),
        {"c_dim": 256, "hidden_size": 256, "channels": 32},
    ),
    "onet-vae": Case(
        "unconditional", latent_state, latent_case, (2, 60, 4), {"z_dim": 128, "hidden_size": 128}
    ),
}


def observed(arch: str) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    values = torch.rand(CASES[arch].shape, generator=generator, dtype=torch.float64) - 0.5
    if arch == "onet-voxels":
        return (values > torch.tensor([0.0, 0.4])[:, None, None, None]).double()
    if arch == "onet-vae":
        values[..., 3] = (values[..., 3] > torch.tensor([0.0, 0.3])[:, None]).double()
    return values


def query_points() -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.rand(2, 50, 3, generator=generator, dtype=torch.float64) * 1.1 - 0.55


@pytest.mark.parametrize(
    ("arch", "legacy", "prefix"),
    [
        ("onet-points", False, ""),
        ("onet-points", True, "module."),
        ("onet-voxels", False, "module."),
        ("onet-voxels", True, ""),
        ("onet-vae", False, ""),
    ],
)
def test_a_converted_model_computes_the_published_logits(tmp_path, capsys, arch, legacy, prefix):
    case = CASES[arch]
    state = case.state() if arch == "onet-vae" else case.state(legacy)
    source = save(tmp_path / "onet.pt", state, prefix)
    assert main(["convert", str(source), "-o", str(tmp_path / "model")]) == 0
    said = capsys.readouterr().out
    layout = "legacy" if legacy else "current"
    assert f"(occupancy_networks, {case.name}, {layout} layout) -> " in said
    assert f"({arch}): {len(state)} tensors" in said
    model = from_pretrained(tmp_path / "model")
    assert (model.arch, model.threshold) == (arch, 0.2)
    state = {name: tensor.double() for name, tensor in state.items()}
    expected = case.logits(state, observed(arch), query_points())
    assert expected.std() > 0.1 and (expected[0] - expected[1]).abs().max() > 0.01
    model = model.double()
    with torch.no_grad():
        logits = model.decode(query_points(), model.encode(observed(arch)).double())
    # The posterior of an autoencoder is rounded to float32.
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    if arch != "onet-vae":
        predicted = model.float().predict_points(observed(arch).float(), query_points().float())
        torch.testing.assert_close(predicted.double(), expected, rtol=1e-4, atol=1e-4)


def test_the_log_standard_deviation_is_converted(tmp_path):
    state = latent_state()
    model = convert_checkpoint(save(tmp_path / "a.pt", state)).model
    labeled = observed("onet-vae").float()
    mean, log_std = latent_posterior(state, labeled[..., :3], labeled[..., 3])
    found_mean, log_variance = model.posterior(labeled)
    torch.testing.assert_close(found_mean, mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(log_variance, 2.0 * log_std, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("arch", CASES)
def test_the_published_sizes_are_the_defaults(tmp_path, arch):
    state = CASES[arch].state(**CASES[arch].published)
    model = convert_checkpoint(save(tmp_path / "a.pt", state)).model
    assert model.options == create_model(arch).options | {"threshold": 0.2}


@pytest.mark.parametrize("arch", CASES)
def test_every_tensor_has_its_own_place(tmp_path, arch):
    state = CASES[arch].state()
    for number, (name, tensor) in enumerate(state.items()):
        state[name] = torch.full_like(tensor, number)
    model = convert_checkpoint(save(tmp_path / "a.pt", state)).model
    found = sorted(int(tensor.flatten()[0]) for tensor in model.state_dict().values())
    assert found == list(range(len(state)))


@pytest.mark.parametrize("arch", CASES)
def test_tensors_that_do_not_fit_are_listed_by_name(tmp_path, arch):
    """Each tensor in turn is dropped, or gets another shape."""
    state = CASES[arch].state()
    for name in list(state)[:: max(1, len(state) // 12)]:
        if name.endswith("num_batches_tracked"):
            continue
        for changed in (None, torch.zeros(1, 2, 3)):
            broken = {key: value for key, value in state.items() if key != name}
            if changed is not None:
                broken[name] = changed
            with pytest.raises(UserError) as caught:
                convert_checkpoint(save(tmp_path / "a.pt", broken))
            message = str(caught.value)
            assert "\n" not in message and "does not fit" in message
            assert changed is None or "of another shape: " in message
            assert changed is not None or "missing" in message


@pytest.mark.parametrize(
    ("arch", "extra", "message"),
    [
        ("onet-points", "encoder.block_5.fc_0.weight", "left over: encoder.block_5.fc_0.weight"),
        ("onet-points", "decoder.fc_z.weight", "left over: decoder.fc_z.weight"),
        ("onet-voxels", "encoder.conv_4.weight", "left over: encoder.conv_4.weight"),
        ("onet-vae", "encoder_latent.fc_c.weight", "left over: encoder_latent.fc_c.weight"),
        ("onet-vae", "decoder.fc_c.bias", "left over: decoder.fc_c.bias"),
    ],
)
def test_tensors_without_a_place_are_listed(tmp_path, arch, extra, message):
    state = CASES[arch].state() | {extra: torch.zeros(4)}
    with pytest.raises(UserError) as caught:
        convert_checkpoint(save(tmp_path / "a.pt", state))
    assert message in str(caught.value)


def test_values_that_are_not_finite_are_listed(tmp_path):
    state = point_state() | {"encoder.fc_c.bias": torch.full((24,), np.nan)}
    with pytest.raises(UserError, match=r"not finite: encoder\.fc_c\.bias"):
        convert_checkpoint(save(tmp_path / "a.pt", state))


def test_encoders_of_no_task_are_listed_by_their_layers(tmp_path):
    state = {name: value for name, value in point_state().items() if "block_" not in name}
    with pytest.raises(UserError, match="its encoder has the layers fc_c, fc_pos; only models"):
        convert_checkpoint(save(tmp_path / "a.pt", state))

"""The point cloud, voxel and unconditional models of occupancy_networks."""

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.convert.published import Weights, linear
from tests.convert.published_onet import add_cbn_decoder, cbn_logits


def point_state(legacy: bool = False, c_dim=24, hidden_dim=20, hidden_size=16) -> dict[str, Tensor]:
    """All tensors of encoder `pointnet_resnet` and decoder `cbatchnorm`."""
    weights = Weights(1)
    weights.affine("encoder.fc_pos", 2 * hidden_dim, 3, fan_in=1)
    for number in range(5):
        name = f"encoder.block_{number}"
        weights.affine(f"{name}.fc_0", hidden_dim, 2 * hidden_dim, fan_in=2 * hidden_dim)
        weights.affine(f"{name}.fc_1", hidden_dim, hidden_dim, fan_in=hidden_dim)
        size = (hidden_dim, 2 * hidden_dim)
        weights.affine(f"{name}.shortcut", *size, fan_in=2 * hidden_dim, bias=False)
    weights.affine("encoder.fc_c", c_dim, hidden_dim, fan_in=hidden_dim)
    add_cbn_decoder(weights, hidden_size, c_dim, legacy)
    return dict(weights)


def point_logits(state: dict[str, Tensor], cloud: Tensor, points: Tensor) -> Tensor:
    """Clouds (B, N, 3) and points (B, T, 3) to logits (B, T)."""
    x = linear(state, "encoder.fc_pos", cloud)
    for number in range(5):
        name = f"encoder.block_{number}"
        if number:
            x = torch.cat([x, x.max(dim=1, keepdim=True)[0].repeat(1, x.shape[1], 1)], dim=-1)
        update = linear(state, f"{name}.fc_0", torch.relu(x))
        update = linear(state, f"{name}.fc_1", torch.relu(update))
        x = x @ state[f"{name}.shortcut.weight"].T + update
    c = linear(state, "encoder.fc_c", torch.relu(x.max(dim=1)[0]))
    return cbn_logits(state, points, c)


def voxel_state(legacy: bool = False, c_dim=24, hidden_size=16, channels=4) -> dict[str, Tensor]:
    """All tensors of encoder `voxel_simple` and decoder `cbatchnorm`."""
    weights = Weights(2)
    weights.conv("encoder.conv_in", channels, 1, 3, 3, 3)
    for k in range(4):
        weights.conv(f"encoder.conv_{k}", channels << (k + 1), channels << k, 3, 3, 3)
    features = (channels << 4) * 8
    weights.affine("encoder.fc", c_dim, features, fan_in=features)
    add_cbn_decoder(weights, hidden_size, c_dim, legacy)
    return dict(weights)


def voxel_logits(state: dict[str, Tensor], grid: Tensor, points: Tensor) -> Tensor:
    """Grids (B, 32, 32, 32) and points (B, T, 3) to logits (B, T)."""
    x = grid[:, None]
    for name, stride in (("conv_in", 1), *((f"conv_{k}", 2) for k in range(4))):
        weight, bias = state[f"encoder.{name}.weight"], state[f"encoder.{name}.bias"]
        x = torch.relu(F.conv3d(x, weight, bias, stride, 1))
    c = linear(state, "encoder.fc", x.reshape(len(x), -1))
    return cbn_logits(state, points, c)


def latent_state(z_dim=12, hidden_size=16) -> dict[str, Tensor]:
    """All tensors of latent encoder `simple` and decoder `simple`, with c_dim = 0."""
    weights = Weights(3)
    weights.affine("encoder_latent.fc_pos", 128, 3, fan_in=1)
    weights.affine("encoder_latent.fc_0", 128, 1, fan_in=1)
    for name, inputs in (("fc_1", 128), ("fc_2", 256), ("fc_3", 256)):
        weights.affine(f"encoder_latent.{name}", 128, inputs, fan_in=inputs)
    for name in ("fc_mean", "fc_logstd"):
        weights.affine(f"encoder_latent.{name}", z_dim, 128, fan_in=128)
    weights.affine("decoder.fc_p", hidden_size, 3, fan_in=1)
    weights.affine("decoder.fc_z", hidden_size, z_dim, fan_in=z_dim)
    for block in range(5):
        for k in (0, 1):
            name = f"decoder.block{block}.fc_{k}"
            weights.affine(name, hidden_size, hidden_size, fan_in=hidden_size)
    weights.affine("decoder.fc_out", 1, hidden_size, fan_in=hidden_size)
    return dict(weights)


def latent_posterior(state: dict[str, Tensor], points: Tensor, occ: Tensor) -> list[Tensor]:
    """Points (B, T, 3) and occupancies (B, T) to mean and log standard deviation (B, z_dim)."""
    name = "encoder_latent"
    x = linear(state, f"{name}.fc_0", occ[..., None]) + linear(state, f"{name}.fc_pos", points)
    for number in (1, 2, 3):
        if number > 1:
            x = torch.cat([x, x.max(dim=1, keepdim=True)[0].repeat(1, x.shape[1], 1)], dim=-1)
        x = linear(state, f"{name}.fc_{number}", torch.relu(x))
    x = x.max(dim=1)[0]
    return [linear(state, f"{name}.{head}", x) for head in ("fc_mean", "fc_logstd")]


def latent_logits(state: dict[str, Tensor], points: Tensor, z: Tensor) -> Tensor:
    """Points (B, T, 3) and latents (B, z_dim) to logits (B, T)."""
    x = linear(state, "decoder.fc_p", points) + linear(state, "decoder.fc_z", z)[:, None]
    for block in range(5):
        name = f"decoder.block{block}"
        x = x + linear(state, f"{name}.fc_1", torch.relu(linear(state, f"{name}.fc_0", x.relu())))
    return linear(state, "decoder.fc_out", torch.relu(x))[..., 0]

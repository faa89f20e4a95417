"""Published models as random tensors under their published names, and their forward passes.

This code is written from descriptions of the layers and has no modules. It therefore shares no
loading code with what it tests.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


class Weights(dict):
    """A state dict that grows by random layers, scaled so that activations keep their size.

    Args:
        names_only: Whether tensors have shapes only, without values.
    """

    def __init__(self, seed: int = 0, names_only: bool = False):
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)
        self.names_only = names_only

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        if self.names_only:
            return torch.empty(shape, device="meta")
        return torch.randn(*shape, generator=self.generator) * scale

    def affine(self, name: str, *shape: int, fan_in: int, bias: bool = True) -> None:
        self[f"{name}.weight"] = self.normal(*shape, scale=(2.0 / fan_in) ** 0.5)
        if bias:
            self[f"{name}.bias"] = self.normal(shape[0], scale=0.1)

    def conv(self, name: str, out: int, into: int, *kernel: int, bias: bool = True) -> None:
        fan_in = into * torch.Size(kernel).numel()
        self.affine(name, out, into, *kernel, fan_in=fan_in, bias=bias)

    def transposed(self, name: str, into: int, out: int, kernel: int) -> None:
        fan_in = into * max(1, kernel**3 // 8)  # at stride 2, each output sees an eighth of it
        self.affine(name, into, out, kernel, kernel, kernel, fan_in=fan_in, bias=False)

    def norm(self, name: str, channels: int, affine: bool = True) -> None:
        if affine:
            self[f"{name}.weight"] = 1.0 + self.normal(channels, scale=0.1)
            self[f"{name}.bias"] = self.normal(channels, scale=0.1)
        self[f"{name}.running_mean"] = self.normal(channels, scale=0.1)
        self[f"{name}.running_var"] = 0.5 + torch.rand(channels, generator=self.generator)
        self[f"{name}.num_batches_tracked"] = torch.tensor(123)


def normalized(state: dict, name: str, x: Tensor) -> Tensor:
    return F.batch_norm(
        x,
        state[f"{name}.running_mean"],
        state[f"{name}.running_var"],
        state.get(f"{name}.weight"),
        state.get(f"{name}.bias"),
        eps=1e-5,
    )


def linear(state: dict, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def conv2d(state: dict, name: str, x: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    return F.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), stride, padding)


def residual_stages(
    weights: Weights, names: list[str], blocks: list[int], bottleneck: bool
) -> None:
    """Adds the named stages of a ResNet after its stem of 64 channels."""
    into = 64
    for number, (stage, count) in enumerate(zip(names, blocks, strict=True)):
        width = 64 << number
        out = 4 * width if bottleneck else width
        for index in range(count):
            block = f"{stage}.{index}"
            kernels = (1, 3, 1) if bottleneck else (3, 3)
            sizes = (into, width, width, out) if bottleneck else (into, out, out)
            for k, kernel in enumerate(kernels):
                weights.conv(
                    f"{block}.conv{k + 1}", sizes[k + 1], sizes[k], kernel, kernel, bias=False
                )
                weights.norm(f"{block}.bn{k + 1}", sizes[k + 1])
            weights[f"{block}.bn{len(kernels)}.weight"] *= 0.3  # so that sums keep their size too
            if index == 0 and (number or bottleneck):
                weights.conv(f"{block}.downsample.0", out, into, 1, 1, bias=False)
                weights.norm(f"{block}.downsample.1", out)
            into = out


def through_stages(state: dict, names: list[str], x: Tensor) -> Tensor:
    for number, stage in enumerate(names):
        index = 0
        while f"{stage}.{index}.conv1.weight" in state:
            block, stride = f"{stage}.{index}", 2 if number and index == 0 else 1
            three = f"{block}.conv3.weight" in state
            y = conv2d(state, f"{block}.conv1", x, 1 if three else stride, 0 if three else 1)
            y = F.relu(normalized(state, f"{block}.bn1", y))
            y = conv2d(state, f"{block}.conv2", y, stride if three else 1, 1)
            y = normalized(state, f"{block}.bn2", y)
            if three:
                y = conv2d(state, f"{block}.conv3", F.relu(y))
                y = normalized(state, f"{block}.bn3", y)
            if f"{block}.downsample.0.weight" in state:
                x = conv2d(state, f"{block}.downsample.0", x, stride)
                x = normalized(state, f"{block}.downsample.1", x)
            x = F.relu(x + y)
            index += 1
    return x

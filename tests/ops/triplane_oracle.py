"""Helpers of the tests of query_triplane: random decoders, their logits in float64, and bounds."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from occvae.ops.query_triplane import PackedTriplane, pack_triplane

BARS = {"fp32": 1e-6, "fp16": 1.5e-3, "bf16": 1.2e-2}  # largest relative error (L2)
# Largest error against a float64 decoder that rounds its operands too. The rest are operands
# next to a tie, which the rounding errors of float32 sums send to the other number.
ROUNDED_BARS = {"fp32": 1e-6, "fp16": 3e-4, "bf16": 2e-3}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass
class Triplane:
    """Planes of B shapes and the layers of their decoder."""

    planes: Tensor
    weights: Tensor
    biases: Tensor
    head: Tensor

    @classmethod
    def random(
        cls, channels: int, layers: int, shapes: int = 1, nodes: int = 8, seed: int = 0
    ) -> "Triplane":
        """A decoder with activations of about 1."""
        generator = torch.Generator().manual_seed(seed)

        def normal(*size: int) -> Tensor:
            return torch.randn(size, generator=generator)

        return cls(
            normal(shapes, 3, nodes, nodes, channels),
            normal(layers, channels, channels) * (2 / channels) ** 0.5,
            0.3 * normal(layers, channels),
            normal(channels + 1) * (2 / channels) ** 0.5,
        )

    def to(self, device: str) -> "Triplane":
        return Triplane(*(part.to(device) for part in self.parts))

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.planes, self.weights, self.biases, self.head

    def pack(self, precision: str = "fp32", backend: str = "auto") -> PackedTriplane:
        return pack_triplane(*self.parts, precision=precision, backend=backend)

    def logits(self, points: Tensor, precision: str | None = None) -> Tensor:
        """Logits (B, N) in float64 at points (B, N, 3), with the samples of `grid_sample`.

        A precision rounds planes, weights and the input of each layer as the op does.
        """

        def rounded(values: Tensor) -> Tensor:
            dtype = torch.float64 if precision is None else DTYPES[precision]
            return values.to(dtype).double()

        planes, weights, biases, head = (part.cpu().double() for part in self.parts)
        places = points.cpu().double() / 0.55
        total = torch.zeros(())
        for plane, axes in enumerate(([0, 1], [0, 2], [1, 2])):
            # grid_sample has images (B, C, height, width) and places (width, height).
            images = rounded(planes[:, plane]).permute(0, 3, 1, 2)
            grid = places[:, None, :, axes].flip(3)
            total = total + F.grid_sample(images, grid, padding_mode="border", align_corners=True)
        h = total[:, :, 0].transpose(1, 2).relu()
        for weight, bias in zip(weights, biases, strict=True):
            h = (rounded(h) @ rounded(weight).T + bias).relu()
        return h @ head[:-1] + head[-1]


def random_points(shapes: int, count: int, seed: int = 0, half_size: float = 0.7) -> Tensor:
    """Points (B, N, 3) float32 of a cube that is larger than the planes."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(shapes, count, 3, generator=generator) * 2 - 1) * half_size


def adversarial_points(nodes: int) -> Tensor:
    """Points (N, 3): nodes of the lattice, next to them, on the faces of the cube, far outside."""
    lattice = torch.linspace(-0.55, 0.55, nodes)
    corners = torch.cartesian_prod(*[lattice[[0, 1, nodes // 2, -2, -1]]] * 3)
    around = [torch.nextafter(corners, torch.tensor(to)) for to in (-9.0, 9.0)]
    infinity = float("inf")
    single = torch.tensor([0.0, -0.0, 1e-38, -1e-45, 0.55, -0.55, 1e30, -1e30, infinity, -infinity])
    return torch.cat([corners, *around, torch.cartesian_prod(single, single, single)])


def packed_flat(packed: PackedTriplane) -> tuple[Tensor, ...]:
    """The op's arguments after points and offsets."""
    exact = packed.exact_planes, packed.exact_weights
    return packed.planes, packed.weights, *exact, packed.biases, packed.head


def relative_error(found: Tensor, expected: Tensor) -> float:
    assert found.dtype == torch.float32 and found.shape == expected.shape
    return float((found.cpu().double() - expected).norm() / expected.norm())

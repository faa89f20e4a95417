"""The fields of mise_bench: four analytic ones and a decoder fitted to one of them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

import timing  # noqa: F401  makes tests.fields importable
from occvae.models.decoders import CbnDecoder
from occvae.ops.mise import Field
from occvae.ops.query_occupancy import query_occupancy
from tests.fields import gyroid_shell, slim_chair, sphere, torus

FIELDS: dict[str, Field] = {
    "sphere": sphere(0.37, (0.013, 0.021, -0.007)),
    "torus": torus(),
    "chair": slim_chair,
    "gyroid": gyroid_shell,
}
_STEPS, _BATCH = 200, 1024


class FittedDecoder:
    """The decoder of Occupancy Networks (width 256, 5 blocks), fitted to the torus in seconds.

    Attributes:
        iou: IoU with the torus at 65,536 random points of the bounds.
    """

    def __init__(self, device: str, seed: int = 0):
        torch.manual_seed(seed)
        self.decoder = CbnDecoder()
        self.conditioning = torch.randn(1, 256)
        _fit(self.decoder, self.conditioning, FIELDS["torus"])
        self.decoder.eval().requires_grad_(False).to(device)
        self.conditioning = self.conditioning.to(device)
        points = _uniform(65_536).to(device)
        self.iou = _iou(self.eager(points, None) >= 0, FIELDS["torus"](points, None) >= 0)

    def eager(self, points: Tensor, shape_index: Tensor | None) -> Tensor:
        """Evaluates the decoder in eager PyTorch, as a field."""
        return self.decoder(points[None], self.conditioning)[0]

    def packed(self, precision: str) -> Field:
        """Returns the packed decoder as a field."""
        packed = self.decoder.pack(self.conditioning, precision)
        return lambda points, shape_index: query_occupancy(points[None], packed)[0]


def _fit(decoder: CbnDecoder, conditioning: Tensor, field: Field) -> None:
    """Fits the decoder on the CPU in a fixed number of steps, so that machines hardly differ."""
    optimizer = torch.optim.Adam(decoder.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, _STEPS)
    for _ in range(_STEPS):
        points = _uniform(8 * _BATCH)
        distance = field(points, None)
        near = distance.abs().argsort()[:_BATCH:2]  # half of them close to the surface
        chosen = torch.cat([near, torch.arange(_BATCH // 2)])
        logits = decoder(points[chosen][None], conditioning)[0]
        loss = F.binary_cross_entropy_with_logits(logits, (distance[chosen] >= 0).float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def _uniform(count: int) -> Tensor:
    return 1.1 * torch.rand(count, 3) - 0.55


def _iou(a: Tensor, b: Tensor) -> float:
    return float((a & b).sum() / (a | b).sum())

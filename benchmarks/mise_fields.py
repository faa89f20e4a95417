"""The fields of mise_bench: four analytic ones, and decoders fitted to one of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import timing  # noqa: F401  makes tests.fields importable
from occvae.models import create_model, from_pretrained
from occvae.models.decoders import CbnDecoder
from occvae.models.pretrained import DEFAULT_MODEL
from occvae.models.triplane import TriplaneModel
from occvae.ops.mise import Field
from occvae.ops.query_occupancy import query_occupancy
from tests.fields import gyroid_shell, slim_chair, sphere, torus

FIELDS: dict[str, Field] = {
    "sphere": sphere(0.37, (0.013, 0.021, -0.007)),
    "torus": torus(),
    "chair": slim_chair,
    "gyroid": gyroid_shell,
}
_STEPS = 200


class FittedDecoder:
    """The decoder of Occupancy Networks (width 256, 5 blocks), fitted to the torus in seconds.

    Attributes:
        iou: IoU with the torus at 65,536 random points of the bounds.
    """

    def __init__(self, device: str, seed: int = 0):
        torch.manual_seed(seed)
        self.decoder = CbnDecoder()
        self.conditioning = torch.randn(1, 256)
        _fit(self.decoder, self.conditioning, num_points=1024, lr=2e-3)
        self.decoder.eval().requires_grad_(False).to(device)
        self.conditioning = self.conditioning.to(device)
        self.iou = _iou(self.decoder, self.conditioning)

    def eager(self, points: Tensor, shape_index: Tensor | None) -> Tensor:
        """Evaluates the decoder in eager PyTorch, as a field."""
        return self.decoder(points[None], self.conditioning)[0]

    def packed(self, precision: str) -> Field:
        """Returns the packed decoder as a field."""
        packed = self.decoder.pack(self.conditioning, precision)
        return lambda points, shape_index: query_occupancy(points[None], packed)[0]


class FittedTriplane(TriplaneModel):
    """A model from one image to planes of 64^2 x 32 and an MLP 64-64, fitted to the torus.

    The encoder is that of the built-in model. `encode` does all the work of the network, but the
    planes are the fitted ones, because a network without training has no surface of usual size.

    Attributes:
        iou: IoU with the torus at 65,536 random points of the bounds.
    """

    def __init__(self, seed: int = 0):
        torch.manual_seed(seed)
        options = from_pretrained().options | {"encoder_weights": DEFAULT_MODEL}
        sizes = {"size": 64, "patches": 8, "hidden_size": 64}
        model = create_model("vitocc", **options | {"decoder": "triplane", "plane_options": sizes})
        super().__init__(
            model.encoder, model.planes, model.decoder, model.image_size, threshold=0.5
        )
        self.fitted = nn.Parameter(0.1 * torch.randn(1, 3, 64, 64, 32))
        _fit(self.decoder, self.fitted, num_points=4096, lr=1e-2)
        self.eval().requires_grad_(False)
        self.iou = _iou(self.decoder, self.fitted)

    def encode(self, images: Tensor) -> Tensor:
        return super().encode(images) * 0 + self.fitted


def _fit(decoder: nn.Module, conditioning: Tensor, num_points: int, lr: float) -> None:
    """Fits a decoder, and a conditioning with a gradient, to the torus on the CPU.

    The number of steps is fixed, so that machines hardly differ.
    """
    fitted = [conditioning] if conditioning.requires_grad else []
    optimizer = torch.optim.Adam([*decoder.parameters(), *fitted])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, _STEPS)
    for _ in range(_STEPS):
        points = _uniform(8 * num_points)
        distance = FIELDS["torus"](points, None)
        near = distance.abs().argsort()[:num_points:2]  # half of them close to the surface
        chosen = torch.cat([near, torch.arange(num_points // 2)])
        logits = decoder(points[chosen][None], conditioning)[0]
        loss = F.binary_cross_entropy_with_logits(logits, (distance[chosen] >= 0).float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def _uniform(count: int) -> Tensor:
    return 1.1 * torch.rand(count, 3) - 0.55


def _iou(decoder: nn.Module, conditioning: Tensor) -> float:
    points = _uniform(65_536).to(conditioning.device)
    found = decoder(points[None], conditioning)[0] >= 0
    wanted = FIELDS["torus"](points, None) >= 0
    return float((found & wanted).sum() / (found | wanted).sum())

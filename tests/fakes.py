"""Models with known predictions: analytic decoders, lookup tables and tiny networks."""

import torch
from torch import Tensor, nn

from occvae.data.dataset import ShapeDataset
from occvae.geometry.voxelize import cell_centers
from occvae.models import create_model
from occvae.models.decoders import CbnDecoder
from occvae.models.occupancy import OccupancyModel
from occvae.models.protocol import LatentModel, Model, VariationalModel, VoxelModel, VoxelOutput
from occvae.train.config import apply_overrides
from occvae.train.presets import make_preset
from tests.tiny import TINY_MODEL

CENTER = (0.1, 0.05, -0.08)
RADIUS = 0.35


def tiny_options() -> dict:
    return apply_overrides(make_preset("default", "vitocc"), TINY_MODEL).model


def tiny_model(**options) -> OccupancyModel:
    torch.manual_seed(0)
    return create_model("vitocc", **tiny_options() | options)


def octahedron_model(sharpness: float = 20.0) -> OccupancyModel:
    """Returns the tiny network with weights for logit = sharpness (RADIUS - |p - CENTER|_1)."""
    model = tiny_model().eval()
    set_octahedron(model.decoder, sharpness)
    return model


def set_octahedron(decoder: CbnDecoder, sharpness: float = 20.0) -> None:
    """Sets the weights of a new decoder for logit = sharpness (RADIUS - |p - CENTER|_1)."""
    directions = torch.cat([torch.eye(3), -torch.eye(3)])
    with torch.no_grad():
        for layer in (decoder.linear_in, decoder.linear_out):
            layer.weight.zero_()
            layer.bias.zero_()
        decoder.linear_in.weight[:6] = directions
        decoder.linear_in.bias[:6] = -directions @ torch.tensor(CENTER)
        decoder.linear_out.weight[0, :6] = -sharpness
        decoder.linear_out.bias.fill_(sharpness * RADIUS)


def tiny_voxel_model(arch: str = "pix2vox-a", **options):
    """Returns a model of the Pix2Vox family with the smallest possible number of channels."""
    torch.manual_seed(0)
    image_size = 128 if arch == "pix2vox-f" else 64  # pools a map of 14^2 down to 3^2
    small = {"backbone": "resnet18", "image_size": image_size, "width": 0.03}
    return create_model(arch, **small | options)


class MeanColor(nn.Module):
    """An encoder from images (B, 3, S, S) to their mean colors (B, 3)."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))


class Ball(nn.Module):
    """A decoder with logit = slope (radius - |p - center|). The red channel adds to the radius."""

    def __init__(self, center: tuple[float, ...] = CENTER, radius: float = 0.2, slope: float = 8.0):
        super().__init__()
        self.register_buffer("center", torch.tensor(center))
        self.radius, self.slope = radius, slope

    def forward(self, points: Tensor, conditioning: Tensor) -> Tensor:
        radius = self.radius + conditioning[:, :1]
        return self.slope * (radius - (points - self.center).norm(dim=-1))


def ball_model(threshold: float = 0.5, **options) -> OccupancyModel:
    return OccupancyModel(MeanColor(), Ball(**options), image_size=8, threshold=threshold)


class LookUp(Model):
    """A model that recognizes the first view of each shape and predicts from a table.

    Args:
        dataset: its images are recognized at its `image_size`.
        logits: (S, N) per shape and point, in the order of the dataset.
        voxels: (S, R, R, R) probabilities per shape.
    """

    reconstruct = None  # not used here

    def __init__(self, dataset: ShapeDataset, logits: Tensor, voxels: Tensor, **settings):
        super().__init__(image_size=dataset.image_size, threshold=0.5, **settings)
        self.numbers = {
            self._key(dataset[i]["images"][None] / 255.0): i for i in range(len(dataset))
        }
        assert len(self.numbers) == len(dataset)
        self.logits, self.voxels = logits, voxels

    @staticmethod
    def _key(images: Tensor) -> bytes:
        return images[0, 0].numpy().tobytes()

    def predict_points(self, images: Tensor, points: Tensor) -> Tensor:
        return self.logits[self.numbers[self._key(images)]][None, : points.shape[1]]

    def predict_voxels(self, images: Tensor, resolution: int = 32) -> Tensor:
        grids = self.voxels[[self.numbers[self._key(image[None])] for image in images]]
        assert grids.shape[1] == resolution
        return grids


class VoxelLookUp(LookUp, VoxelModel):
    """A `LookUp` that is a voxel model."""


class EllipsoidVae(VariationalModel, LatentModel):
    """A variational model of ellipsoids. The latent (B, 3) is the change of the semi-axes x, y, z.

    An image encodes to its mean RGB minus 0.5, times 0.2. New shapes have the standard deviations
    `STDS`, hypotheses a tenth of them.
    """

    STDS = (0.08, 0.04, 0.02)
    SEMI_AXIS = 0.3

    def __init__(self) -> None:
        super().__init__(resolution=32, image_size=16, threshold=0.5)
        self.register_buffer("stds", torch.tensor(self.STDS))

    def decode(self, latents: Tensor) -> Tensor:
        radii = (self.SEMI_AXIS + latents)[:, None]
        distance = (cell_centers(self.resolution) / radii).norm(dim=-1)
        return (10 * (1 - distance)).sigmoid().view(-1, *[self.resolution] * 3)

    def forward(self, images: Tensor) -> VoxelOutput:
        volumes = self.decode(self.encode_latents(images))
        return VoxelOutput(volumes, volumes)

    def sample(self, count, resolution=None, generator=None) -> Tensor:
        return self.decode(torch.randn(count, 3, generator=generator) * self.stds)

    def predict_samples(self, images, num_samples, *, view_mask=None, generator=None) -> Tensor:
        noise = torch.randn(len(images), num_samples, 3, generator=generator) * self.stds / 10
        latents = self.encode_latents(images)[:, None] + noise
        return torch.stack([self.decode(each) for each in latents])

    def encode_latents(self, images: Tensor) -> Tensor:
        return 0.2 * (images.mean(dim=(1, 3, 4)) - 0.5)

    def latent_axes(self, count: int) -> Tensor:
        return torch.diag(self.stds)[:count]

    def mean_latent(self) -> Tensor:
        return torch.zeros(3)

    def mesh_latents(self, latents, resolution=256, threshold=None, *, progress=None):
        return self.mesh(self.decode(latents), resolution, threshold, progress=progress)

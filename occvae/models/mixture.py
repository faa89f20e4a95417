"""occvae: one latent for images, point clouds and voxels, and an implicit decoder of it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from occvae.errors import UserError
from occvae.models.aggregate_posterior import AggregatePosterior
from occvae.models.decoders import create_decoder
from occvae.models.encoders import ImageEncoder
from occvae.models.image_occupancy import (
    BUILT_IN_ENCODER,
    FIRST_LAYERS,
    SMALL_DECODER,
    build_image_encoder,
)
from occvae.models.inference import check_images, evaluation_mode, resize_images
from occvae.models.inputs import ImageInput
from occvae.models.latent_occupancy import ImplicitLatentModel
from occvae.models.latent_triplane import latent_triplane_decoder
from occvae.models.point_encoder import PointEncoder
from occvae.models.point_occupancy import check_cloud_batch, clouds_to_batch
from occvae.models.posterior import Posterior, product_of_experts
from occvae.models.presets import CPU_SMALL_OPTIM, GENERAL, register_presets
from occvae.models.protocol import ImplicitOutput, LatentModel
from occvae.models.registry import register_model
from occvae.models.voxel_encoder import VoxelEncoder
from occvae.models.voxel_occupancy import check_grid_batch, grids_to_batch
from occvae.observations.kinds import Images, Mixture, PointCloud, VoxelGrid
from occvae.ops.validation import check_count

if TYPE_CHECKING:
    import trimesh

    from occvae.ops.field import Progress

_FIRST_LOG_VARIANCE = -4.0
# Limit of an expert's log variance in either direction. Far beyond it, float32 exponentials
# overflow.
_LARGEST_LOG_VARIANCE = 20.0
# Sets of images, points and voxels from which the second term of the loss is drawn, with their
# probabilities. Sets with voxels are the easiest, because voxels show the whole shape.
_SETS = (
    ((False, True, False), 4 / 12),
    ((True, True, False), 4 / 12),
    ((False, False, True), 1 / 12),
    ((True, False, True), 1 / 12),
    ((False, True, True), 1 / 12),
    ((True, True, True), 1 / 12),
)
_NUM_TERMS = 2


class GaussianExpert(nn.Module):
    """An encoder with linear layers for the mean and the log variance of a Gaussian.

    The Gaussian starts narrow, with a mean that depends on the input, because the decoder learns to
    ignore latents that start as noise. The KL term widens it.

    Args:
        encoder: Module from a batch of M inputs to embeddings (M, E).
        embedding_size: E.
        latent_size: D.

    Shapes: inputs (M, ...) -> mean (M, D), log variance (M, D), float32.
    """

    def __init__(self, encoder: nn.Module, embedding_size: int, latent_size: int):
        super().__init__()
        self.encoder = encoder
        self.to_mean = nn.Linear(embedding_size, latent_size)
        self.to_log_variance = nn.Linear(embedding_size, latent_size)
        nn.init.zeros_(self.to_log_variance.weight)
        nn.init.constant_(self.to_log_variance.bias, _FIRST_LOG_VARIANCE)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        embeddings = self.encoder(inputs)
        log_variances = self.to_log_variance(embeddings).float()
        bounded = log_variances.clamp(-_LARGEST_LOG_VARIANCE, _LARGEST_LOG_VARIANCE)
        return self.to_mean(embeddings).float(), bounded


class MixtureModel(ImplicitLatentModel, LatentModel):
    """Encodes any mixture of images, point clouds and voxels to one posterior, and decodes it.

    Source: multimodal variational autoencoders (Wu and Goodman 2018) with the encoders and the
    decoder of Occupancy Networks (Mescheder et al. 2019). Each input gives a diagonal Gaussian. The
    posterior is the product of these experts and of the prior N(0, I). Every view is an expert of
    its own. The order of views has no effect, and inputs that are missing are not looked at.

    The loss has two terms per shape, each with its own posterior and KL term: one from the images
    of the sample alone, and one from a random set of inputs. Half of the query points belong to
    each. Images are in every sample because they are the most expensive to encode and the least
    certain. The random set is points alone or points with images in a third of the cases each, and
    a set with voxels otherwise. A set with images has a random number of the views. In the source
    there is also a term for all inputs together, which is one of these sets here.

    New shapes are drawn from the `AggregatePosterior` of all inputs of the training shapes.
    Predictions use the mean of the posterior.

    Args:
        images: Module from images (M, 3, S, S) in [0, 1] to embeddings (M, E).
        points: Module from clouds (M, N, 3) to embeddings (M, E).
        voxels: Encoder from grids (M, R, R, R) to embeddings (M, E).
        decoder: Module from points (B, N, 3) and latents (B, D) to logits (B, N).
        cloud: Point clouds that a dataset delivers in training.
        embedding_size: E.
        latent_size: D.
        image_size: S.
        threshold: Probability from which a point counts as occupied when no other is given.

    Shapes: images (B, V, 3, H, W) in [0, 1], points (B, N, 3), voxels (B, R, R, R).
    """

    encoder: nn.ModuleDict

    def __init__(
        self,
        images: ImageEncoder,
        points: PointEncoder,
        voxels: VoxelEncoder,
        decoder: nn.Module,
        *,
        cloud: PointCloud,
        embedding_size: int,
        latent_size: int,
        image_size: int,
        threshold: float,
    ):
        experts = {
            name: GaussianExpert(encoder, embedding_size, latent_size)
            for name, encoder in (("images", images), ("points", points), ("voxels", voxels))
        }
        settings = {"image_size": image_size, "threshold": threshold}
        super().__init__(nn.ModuleDict(experts), decoder, latent_size, **settings)
        self.aggregate = AggregatePosterior(latent_size)
        self._cloud, self._resolution = cloud, voxels.resolution

    @property
    def observation(self) -> Mixture:
        return Mixture(
            Images(self.image_size, self.background_gray), self._cloud, VoxelGrid(self._resolution)
        )

    def posterior(
        self,
        observed: Mapping[str, Tensor] | None = None,
        /,
        *,
        images: Tensor | None = None,
        points: Tensor | None = None,
        voxels: Tensor | None = None,
    ) -> Posterior:
        """The posterior of any mixture of inputs.

        Args:
            observed: The inputs below by name, instead of the keywords.
            images: (B, V, 3, H, W) RGB in [0, 1].
            points: (B, N, 3) in the unit cube.
            voxels: (B, R, R, R) bool or floating point in [0, 1].

        Raises:
            ValueError: There is no input, or an input has another shape.
        """
        if observed is None:
            observed = _given(images=images, points=points, voxels=voxels)
        means, log_variances = self._experts(observed)
        everything = means.new_ones(means.shape[:2], dtype=torch.bool)
        return _product(means, log_variances, everything)

    def encode(
        self, observed: Mapping[str, Tensor] | None = None, /, **inputs: Tensor | None
    ) -> Tensor:
        """Mean of the posterior (B, D), with the arguments of `posterior`."""
        return self.posterior(observed, **inputs).mean

    def forward(self, observed: Mapping[str, Tensor], points: Tensor) -> ImplicitOutput:
        """Logits (B, N) at points (B, N, 3) for latents drawn from the posteriors of two sets.

        Args:
            observed: Images, points and voxels.
            points: (B, N, 3). N is even: points 0, 2, ... belong to the first set.

        Returns:
            The logits, and mean and log variance (2B, D) of the posteriors.

        Raises:
            ValueError: An input is missing.
            UserError: N is odd.
        """
        if observed.keys() != self.encoder.keys():
            raise ValueError(f"training takes {', '.join(self.encoder)}; got {', '.join(observed)}")
        if points.shape[1] % _NUM_TERMS:
            raise UserError(
                f"data.num_points must be even for {self.arch}, got {points.shape[1]}: half of the "
                "query points belong to each of two sets of inputs"
            )
        means, log_variances = self._experts(observed)
        if self.aggregate.training:
            everything = means.new_ones(means.shape[:2], dtype=torch.bool)
            self.aggregate.update(_product(means, log_variances, everything))
        sets = _draw_sets(len(means), observed["images"].shape[1], means.device)
        posterior = _product(
            means.repeat_interleave(_NUM_TERMS, dim=0),
            log_variances.repeat_interleave(_NUM_TERMS, dim=0),
            sets.flatten(0, 1),
        )
        shared = points.unflatten(1, (-1, _NUM_TERMS)).transpose(1, 2).flatten(0, 1)
        logits = self.decode(shared, posterior.sample()).unflatten(0, (-1, _NUM_TERMS))
        return ImplicitOutput(logits.transpose(1, 2).flatten(1), *posterior)

    def to_batch(self, observed: Any) -> dict[str, Tensor]:
        """Returns inputs as a batch on the model's device.

        Args:
            observed: A mapping from `images`, `points` and `voxels` to what `reconstruct` takes.
                Anything else is taken as images.

        Raises:
            UserError: An input cannot be prepared, none is given, or the inputs have different
                numbers of objects.
        """
        given = observed if isinstance(observed, Mapping) else {"images": observed}
        batch: dict[str, Tensor] = {}
        for name, value in given.items():
            if name == "images":
                batch[name] = super().to_batch(value)
            elif name == "points":
                batch[name] = clouds_to_batch(value, self._cloud.num_points).to(self.device)
            elif name == "voxels":
                batch[name] = grids_to_batch(value, self._resolution, self.arch).to(self.device)
            else:
                raise UserError(f"{self.arch} observes {', '.join(self.encoder)}, not {name}")
        if len({len(value) for value in batch.values()}) != 1:
            counts = ", ".join(f"{len(value)} of {name}" for name, value in batch.items())
            raise UserError(f"give each input for the same objects, got {counts or 'no input'}")
        return batch

    @torch.no_grad()
    def reconstruct(
        self,
        observed: Any = None,
        /,
        resolution: int = 256,
        threshold: float | None = None,
        *,
        images: ImageInput | None = None,
        points: Any = None,
        voxels: Any = None,
        progress: "Progress | None" = None,
        refine_vertices: int = 0,
        normals: bool = False,
    ) -> "list[trimesh.Trimesh]":
        """One watertight mesh per object, from any mixture of inputs.

        Args:
            observed: The inputs below by name, instead of the keywords, or images.
            resolution: As in `OccupancyModel.reconstruct`.
            threshold: As in `Model.reconstruct`.
            images: As in `Model.reconstruct`.
            points: As in `PointCloudModel.to_batch`.
            voxels: As in `VoxelGridModel.to_batch`.
            progress: As in `Model.reconstruct`.
            refine_vertices: As in `Model.reconstruct`.
            normals: As in `Model.reconstruct`.
        """
        if observed is None:
            observed = _given(images=images, points=points, voxels=voxels)
        options = {"refine_vertices": refine_vertices, "normals": normals}
        return self._reconstruct(observed, resolution, threshold, progress, **options)

    def draw_latents(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws latents (count, D) from the aggregate posterior of the training shapes."""
        return self.aggregate.draw(count, generator)

    @torch.no_grad()
    def encode_latents(self, observed: Mapping[str, Tensor], /) -> Tensor:
        """Returns the means (B, D) of the posteriors of a batch."""
        with evaluation_mode(self):
            return self.encode(observed)

    def latent_axes(self, count: int) -> Tensor:
        """Returns principal axes (count, D) of the `AggregatePosterior`, see `LatentModel`."""
        return self.aggregate.principal_axes(check_count("count", count))

    def mean_latent(self) -> Tensor:
        """Returns the mean (D,) of the `AggregatePosterior`."""
        return self.aggregate.mean.clone()

    def _experts(self, observed: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Means and log variances (B, X, D) of the X experts: views, points, voxels."""
        if unknown := observed.keys() - self.encoder.keys():
            raise ValueError(f"unknown inputs {', '.join(sorted(unknown))}")
        if len({len(value) for value in observed.values()}) != 1:
            found = {name: len(value) for name, value in observed.items()}
            raise ValueError(f"give inputs of one batch size, at least one; got {found}")
        gaussians = [
            self._encode_kind(name, observed[name]) for name in self.encoder if name in observed
        ]
        means, log_variances = (torch.cat(part, dim=1) for part in zip(*gaussians, strict=True))
        return means, log_variances

    def _encode_kind(self, name: str, values: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log variances (B, X, D) of the experts of one kind of input."""
        count = len(values)
        if name == "images":
            check_images(values)
            values = resize_images(values.flatten(0, 1), self.image_size)
        elif name == "points":
            check_cloud_batch(values)
        else:
            check_grid_batch(values, self._resolution)
        mean, log_variance = self.encoder[name](values)
        return mean.unflatten(0, (count, -1)), log_variance.unflatten(0, (count, -1))


def _given(**inputs: Any) -> dict[str, Any]:
    return {name: value for name, value in inputs.items() if value is not None}


def _product(means: Tensor, log_variances: Tensor, mask: Tensor) -> Posterior:
    """The product of the experts (B, X, D) that a mask (B, X) selects, and of the prior.

    The values of other experts have no effect, and get a gradient of zero.
    """
    return Posterior(*product_of_experts(means[mask], log_variances[mask], mask))


def _draw_sets(batch: int, views: int, device: torch.device) -> Tensor:
    """Draws the experts (B, 2, V + 2) bool of the two terms of each shape."""
    kinds, weights = zip(*_SETS, strict=True)
    drawn = torch.multinomial(torch.tensor(weights), batch, replacement=True)
    chosen = torch.tensor(kinds)[drawn]
    # A random order of the views, of which the first ones are taken, from 1 to all.
    order = torch.rand(batch, views).argsort(dim=1)
    seen = order < torch.randint(1, views + 1, (batch, 1))
    random_set = torch.cat([seen & chosen[:, :1], chosen[:, 1:]], dim=1)
    images_only = torch.arange(views + 2).expand(batch, -1) < views
    return torch.stack([images_only, random_set], dim=1).to(device)


@register_model
def occvae(
    *,
    encoder: str = "vit_small_patch16_224",
    trunk: str | None = None,
    pretrained: bool = False,
    encoder_weights: str | None = None,
    encoder_options: dict[str, Any] | None = None,
    image_size: int = 224,
    num_points: int = 300,
    noise: float = 0.005,
    scans: float = 0.5,
    point_encoder_size: int = 512,
    grid_resolution: int = 32,
    grid_encoder_channels: int = 32,
    embedding_size: int = 256,
    latent_size: int = 128,
    decoder: str = "cbn",
    hidden_size: int = 256,
    num_blocks: int = 5,
    plane_options: dict[str, int] | None = None,
    threshold: float = 0.3,
) -> MixtureModel:
    """One latent for any mixture of images, point clouds and voxels, and an occupancy decoder.

    `MixtureModel` gives the sources and the loss.
    35,792,321 parameters with the default ViT-S/16.

    Args:
        encoder: As in `vitocc`, like all arguments up to `image_size`.
        trunk: As in `vitocc`.
        pretrained: As in `vitocc`.
        encoder_weights: As in `vitocc`.
        encoder_options: As in `vitocc`.
        image_size: Edge in pixels that images are resized to.
        num_points: Points on the surface per shape in training.
        noise: Standard deviation of their Gaussian noise per coordinate, in edges of the unit cube.
        scans: Share of training clouds that are one-sided scans.
        point_encoder_size: Width of the `PointEncoder`.
        grid_resolution: R, edge of the observed grid, a multiple of 16. The dataset must store it.
        grid_encoder_channels: Channels after the first convolution of the `VoxelEncoder`.
        embedding_size: E, size of the embedding of an input.
        latent_size: D, size of the latent.
        decoder: `cbn`, `cnn` or `simple`, see `create_decoder`, or `triplane`.
        hidden_size: Width of the `cbn` or `simple` decoder.
        num_blocks: Number of residual blocks of the `cbn` or `simple` decoder.
        plane_options: Sizes of the `triplane` decoder that replace those of
            `occvae.models.latent_triplane.LATENT_SIZES`.
        threshold: Probability from which a point counts as occupied.

    Shapes: images (B, V, 3, H, W) in [0, 1], points (B, N, 3), voxels (B, R, R, R).
    """
    image_encoder = build_image_encoder(
        encoder,
        trunk,
        image_size,
        embedding_size,
        pretrained,
        encoder_weights,
        encoder_options,
    )
    return MixtureModel(
        image_encoder,
        PointEncoder(embedding_size, point_encoder_size),
        VoxelEncoder(embedding_size, grid_resolution, grid_encoder_channels),
        latent_triplane_decoder(latent_size, plane_options)
        if decoder == "triplane"
        else create_decoder(decoder, latent_size, hidden_size, num_blocks),
        cloud=PointCloud(num_points, noise, scans),
        embedding_size=embedding_size,
        latent_size=latent_size,
        image_size=image_size,
        threshold=threshold,
    )


# The weight of one nat in the mean cross-entropy of points. In the bound, which is a sum over 32^3
# voxels, a nat then has a weight of 32^3 * 3e-5 = 1.
_OPTIM = {"kl_weight": 3e-5, "kl_warmup_steps": 1000, "dice_weight": 0.5}
_VIEWS = {"num_views": 4, "min_views": 1}
register_presets(
    "occvae",
    {
        "cpu-small": {
            **GENERAL["cpu-small"],
            "model": {
                **BUILT_IN_ENCODER,
                **SMALL_DECODER,
                "point_encoder_size": 128,
                "grid_encoder_channels": 8,
            },
            # Points are cheap beside images, and small batches learn more from a sample.
            "data": {**GENERAL["cpu-small"]["data"], **_VIEWS, "num_points": 1024},
            "optim": {**CPU_SMALL_OPTIM, **_OPTIM, "lr": 5e-4, "steps": 2700, "batch_size": 16},
            "frozen": tuple(f"encoder.images.encoder.{name}" for name in FIRST_LAYERS),
        },
        "default": {"data": _VIEWS, "optim": _OPTIM},
    },
)

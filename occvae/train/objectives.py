"""Training objectives: for each kind of model its data, inputs, loss and IoU.

To add a training target, write an objective class, add it to `OBJECTIVES`, and give models the same
`target`.
"""

from typing import Any, Protocol, Self

import torch
from torch import Tensor

from occvae.data.dataset import Batch
from occvae.data.targets import PointTarget, Target, VoxelTarget
from occvae.models.protocol import (
    ImplicitOutput,
    Model,
    VariationalModel,
    VoxelModel,
    VoxelOutput,
)
from occvae.observations.kinds import Images, Observation
from occvae.train.config import OptimConfig
from occvae.train.losses import kl_divergence, kl_loss, occupancy_loss, voxel_loss

# A latent dimension is active if its posterior mean varies more than this over images
# (Burda et al. 2016).
ACTIVE_VARIANCE = 0.01


class Objective(Protocol):
    """How models with one `target` are trained and validated.

    Batches are on the device of the model.
    """

    @classmethod
    def create(cls, model: Model, optim: OptimConfig) -> Self:
        """Creates the objective of a model with this `target`."""

    def data_target(self, model: Model, num_points: int, num_near_points: int) -> Target:
        """Returns the target that the dataset reads for each shape.

        Args:
            model: model to train.
            num_points: query points per shape. Only targets with points use it.
            num_near_points: how many of them lie near the surface.
        """

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        """Returns the arguments of the model's `forward`: the observation, and points to decode."""

    def loss(self, output: Any, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the scalar to minimize at a step, and scalars for the log by name."""

    def predict(self, model: Model, batch: Batch) -> Any:
        """Returns the output in eval mode, computed as in `occvae evaluate`."""

    def iou_inputs(self, output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Returns probabilities (B, ...) and true occupancies (B, ...), the inputs of IoU."""


class PointObjective:
    """The objective of implicit models: cross-entropy of occupancies at points.

    Args:
        optim: weights of the terms.
        observation: what the model is conditioned on.
    """

    def __init__(self, optim: OptimConfig, observation: Observation):
        self.optim, self.observation = optim, observation

    @classmethod
    def create(cls, model: Model, optim: OptimConfig) -> Self:
        return cls(optim, model.observation)

    def data_target(self, model: Model, num_points: int, num_near_points: int) -> Target:
        return PointTarget(num_points, num_near_points)

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        return self.observation.of(batch), batch["points"]

    def loss(self, output: Any, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        return occupancy_loss(output, batch["occupancies"], self.optim.dice_weight), {}

    def predict(self, model: Model, batch: Batch) -> Any:
        return model.predict_points(*self.inputs(batch))

    def iou_inputs(self, output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        return output.float().sigmoid(), batch["occupancies"]


class PosteriorObjective(PointObjective):
    """The objective of implicit models with a posterior: that of points plus the KL term."""

    def loss(
        self, output: ImplicitOutput, batch: Batch, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        loss, _ = super().loss(output.logits, batch, step)
        assert output.mean is not None and output.log_variance is not None
        kl = kl_divergence(output.mean, output.log_variance)
        term = _kl_scale(self.optim, step) * kl_loss(kl, self.optim.free_nats)
        return loss + term, _posterior_figures(kl, output.mean)

    def predict(self, model: Model, batch: Batch) -> ImplicitOutput:
        return ImplicitOutput(super().predict(model, batch))

    def iou_inputs(self, output: ImplicitOutput, batch: Batch) -> tuple[Tensor, Tensor]:
        return super().iou_inputs(output.logits, batch)


class VoxelObjective:
    """The objective of voxel models, with the KL term of variational models.

    The loss sums the terms of the volumes before and after the refiner. The published code runs two
    backward passes instead, whose gradients add up to the same.

    Args:
        optim: weights of the terms.
        sum_kl: whether to sum the KL over the batch instead of averaging it, as the published code
            of Pix2Vox-VAE does.
        observation: what the model is conditioned on.
    """

    def __init__(
        self, optim: OptimConfig, sum_kl: bool = False, observation: Observation | None = None
    ):
        self.optim, self.sum_kl = optim, sum_kl
        self.observation = observation or Images(0)

    @classmethod
    def create(cls, model: Model, optim: OptimConfig) -> Self:
        sum_kl = isinstance(model, VariationalModel) and model.sum_kl
        return cls(optim, sum_kl, model.observation)

    def data_target(self, model: Model, num_points: int, num_near_points: int) -> Target:
        assert isinstance(model, VoxelModel)
        return VoxelTarget(model.resolution)

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        return (self.observation.of(batch),)

    def loss(
        self, output: VoxelOutput, batch: Batch, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        loss = voxel_loss(output.refined, batch["voxels"], self.optim.dice_weight)
        if output.merged is not output.refined:
            loss = loss + voxel_loss(output.merged, batch["voxels"], self.optim.dice_weight)
        if output.mean is None or output.log_variance is None:
            return loss, {}
        kl = kl_divergence(output.mean, output.log_variance)
        # A sum over the batch makes the effective weight depend on the batch size.
        term = kl.sum() if self.sum_kl else kl_loss(kl, self.optim.free_nats)
        loss = loss + _kl_scale(self.optim, step) * term
        return loss, _posterior_figures(kl, output.mean)

    def predict(self, model: Model, batch: Batch) -> VoxelOutput:
        return model(*self.inputs(batch))

    def iou_inputs(self, output: VoxelOutput, batch: Batch) -> tuple[Tensor, Tensor]:
        return output.refined.float(), batch["voxels"]


def _kl_scale(optim: OptimConfig, step: int) -> float:
    """The weight of the KL term at a step."""
    return min(1.0, (step + 1) / max(1, optim.kl_warmup_steps)) * optim.kl_weight


def _posterior_figures(kl: Tensor, mean: Tensor) -> dict[str, Tensor]:
    """Scalars for the log, from the KL (B, D) and the mean (B, D) of posteriors."""
    spread = mean.detach().float().var(dim=0, correction=0)
    return {
        "kl": kl.detach().mean(dim=0).sum(),
        "active_units": (spread > ACTIVE_VARIANCE).sum(),
    }


OBJECTIVES: dict[str, type[Objective]] = {
    "points": PointObjective,
    "points-and-posterior": PosteriorObjective,
    "voxels": VoxelObjective,
}
"""Objectives by `Model.target`."""


def create_objective(model: Model, optim: OptimConfig) -> Objective:
    """Creates the objective that belongs to the `target` of a model."""
    return OBJECTIVES[model.target].create(model, optim)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Moves a batch to a device. Its images stay uint8; `Observation.of` scales them to [0, 1]."""
    return {key: value.to(device, non_blocking=True) for key, value in batch.items()}

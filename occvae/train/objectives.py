"""What a kind of model is trained on: its data, the tensors it takes, its loss, and its IoU.

A further training target is an objective, a line of `OBJECTIVES`, and models with that `target`.
"""

from typing import Any, Protocol, Self

import torch
from torch import Tensor

from occvae.data.dataset import Batch
from occvae.data.targets import PointTarget, Target, VoxelTarget
from occvae.models.protocol import Model, VariationalModel, VoxelModel, VoxelOutput
from occvae.train.config import OptimConfig
from occvae.train.losses import kl_divergence, kl_loss, occupancy_loss, voxel_loss

# Variance of a latent's mean among images from which it counts as used (Burda et al. 2016).
ACTIVE_VARIANCE = 0.01


class Objective(Protocol):
    """One for each `target` of the models; batches are on the device, images in [0, 1]."""

    @classmethod
    def create(cls, model: Model, optim: OptimConfig) -> Self:
        """The objective of a model whose `target` this is."""

    def data_target(self, model: Model, num_points: int, num_near_points: int) -> Target:
        """What the dataset reads of each shape.

        Args:
            num_points, num_near_points: of the configuration, for targets that are points.
        """

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """What the model's `forward` takes."""

    def loss(self, output: Any, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar to minimize at a step, and figures for the log."""

    def predict(self, model: Model, batch: Batch) -> Any:
        """The output in eval mode, as `occvae evaluate` computes it."""

    def iou_inputs(self, output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Probabilities (B, ...) and the truth of the same shape, for IoU."""


class PointObjective:
    """Implicit models: occupancies at points."""

    def __init__(self, optim: OptimConfig):
        self.dice_weight = optim.dice_weight

    @classmethod
    def create(cls, model: Model, optim: OptimConfig) -> Self:
        return cls(optim)

    def data_target(self, model: Model, num_points: int, num_near_points: int) -> Target:
        return PointTarget(num_points, num_near_points)

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        return batch["images"], batch["points"]

    def loss(self, output: Tensor, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        return occupancy_loss(output, batch["occupancies"], self.dice_weight), {}

    def predict(self, model: Model, batch: Batch) -> Tensor:
        return model.predict_points(*self.inputs(batch))

    def iou_inputs(self, output: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        return output.float().sigmoid(), batch["occupancies"]


class VoxelObjective:
    """Voxel models: the volumes before and after the refiner, and the KL term of variational ones.

    The gradients of both volumes are those of one sum: the original runs two backward passes that
    add up to the same.
    """

    def __init__(self, optim: OptimConfig, sum_kl: bool = False):
        self.optim, self.sum_kl = optim, sum_kl

    @classmethod
    def create(cls, model: Model, optim: OptimConfig) -> Self:
        return cls(optim, isinstance(model, VariationalModel) and model.sum_kl)

    def data_target(self, model: Model, num_points: int, num_near_points: int) -> Target:
        assert isinstance(model, VoxelModel)
        return VoxelTarget(model.resolution)

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        return (batch["images"],)

    def loss(
        self, output: VoxelOutput, batch: Batch, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        loss = voxel_loss(output.refined, batch["voxels"], self.optim.dice_weight)
        if output.merged is not output.refined:
            loss = loss + voxel_loss(output.merged, batch["voxels"], self.optim.dice_weight)
        if output.mean is None or output.log_variance is None:
            return loss, {}
        kl = kl_divergence(output.mean, output.log_variance)
        # The seed's sum over the batch makes the weight depend on how many shapes are in it.
        term = kl.sum() if self.sum_kl else kl_loss(kl, self.optim.free_nats)
        warmth = min(1.0, (step + 1) / max(1, self.optim.kl_warmup_steps))
        spread = output.mean.detach().float().var(dim=0, correction=0)
        figures = {
            "kl": kl.detach().mean(dim=0).sum(),
            "active_units": (spread > ACTIVE_VARIANCE).sum(),
        }
        return loss + warmth * self.optim.kl_weight * term, figures

    def predict(self, model: Model, batch: Batch) -> VoxelOutput:
        return model(*self.inputs(batch))

    def iou_inputs(self, output: VoxelOutput, batch: Batch) -> tuple[Tensor, Tensor]:
        return output.refined.float(), batch["voxels"]


OBJECTIVES: dict[str, type[Objective]] = {"points": PointObjective, "voxels": VoxelObjective}
"""By `Model.target`."""


def create_objective(model: Model, optim: OptimConfig) -> Objective:
    return OBJECTIVES[model.target].create(model, optim)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Tensors on the device, images as floats in [0, 1]."""
    moved = {key: value.to(device, non_blocking=True) for key, value in batch.items()}
    moved["images"] = moved["images"].float() / 255.0
    return moved

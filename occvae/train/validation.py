"""Validation of a model in training: its IoU on shapes of the val split, and its samples."""

from pathlib import Path
from typing import Any

import torch
from torch.utils.data import default_collate

from occvae.data.dataset import Batch, ShapeDataset
from occvae.models.protocol import Model, VariationalModel
from occvae.ops.voxel_iou import voxel_iou
from occvae.train import parallel
from occvae.train.contact_sheet import write_contact_sheet, write_prior_sheet
from occvae.train.objectives import Objective, to_device


class Validator:
    """Measures the mean IoU over shapes that are spread evenly over the val split.

    Args:
        dataset: val split with the target of the objective.
        objective: objective of the models.
        num_shapes: largest number of shapes.
        device: device of this rank.
    """

    def __init__(
        self, dataset: ShapeDataset, objective: Objective, num_shapes: int, device: torch.device
    ):
        self.dataset, self.objective, self.device = dataset, objective, device
        self.num_shapes = min(len(dataset), num_shapes)

    def measure(self, model: Model) -> torch.Tensor:
        """Returns the sum and count of IoUs of the shapes that this rank validates."""
        mine = range(parallel.rank(), self.num_shapes, parallel.world_size())
        # Evenly spread shapes cover all categories.
        stride = len(self.dataset) / self.num_shapes
        total = torch.zeros(2, dtype=torch.float64, device=self.device)
        for number in mine:
            total += self._measure_shape(model, int(number * stride))
        return total

    @torch.no_grad()
    def _measure_shape(self, model: Model, number: int) -> torch.Tensor:
        """Returns the sum and count of IoUs. It skips autocast to match `occvae evaluate`."""
        batch = to_device(default_collate([self.dataset[0, number]]), self.device)
        iou = compute_iou(self.objective, model, self.objective.predict(model, batch), batch)
        return torch.tensor([iou.sum(), iou.numel()], device=self.device)

    def write_sheets(self, run: Path, step: int, model: Model) -> None:
        """Writes the contact sheet of a step, and samples if the model is variational."""
        sheet = run / "samples" / f"step-{step:07d}.png"
        write_contact_sheet(sheet, model, self.dataset, self.device)
        if isinstance(model, VariationalModel):
            write_prior_sheet(sheet.with_name(f"prior-{step:07d}.png"), model, self.device)


@torch.no_grad()
def compute_iou(objective: Objective, model: Model, output: Any, batch: Batch) -> torch.Tensor:
    """Returns IoU (B, 1) at the model's threshold."""
    return voxel_iou(*objective.iou_inputs(output, batch), (model.threshold,))

"""Validation of a model in training: its IoU by shape and category, and contact sheets."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch.utils.data import default_collate

from occvae.data.dataset import Batch, ShapeDataset
from occvae.models.protocol import GenerativeModel, Model
from occvae.ops.voxel_iou import voxel_iou
from occvae.train import parallel
from occvae.train.contact_sheet import choose_rows, write_contact_sheet, write_prior_sheet
from occvae.train.objectives import Objective, to_device
from occvae.visualize.report.training import Drop

# A shape is reported as worse if its IoU fell by more than this since the best validation.
_LEAST_DROP = 0.05
_MAX_DROPS = 5


@dataclass(frozen=True)
class Validation:
    """What one validation found.

    Args:
        shapes: IoU of each shape by id.
        categories: category of each shape by id.
    """

    shapes: dict[str, float]
    categories: dict[str, str]

    @property
    def iou(self) -> float:
        """The mean over shapes."""
        return fmean(self.shapes.values())

    def by_category(self) -> dict[str, list[float]]:
        """Returns the IoUs of the shapes of each category, in the order of their names."""
        ious: defaultdict[str, list[float]] = defaultdict(list)
        for id, iou in self.shapes.items():
            ious[self.categories[id]].append(iou)
        return dict(sorted(ious.items()))

    def category_means(self) -> dict[str, float]:
        return {name: fmean(ious) for name, ious in self.by_category().items()}

    def metrics(self) -> dict[str, float]:
        """Returns the metrics for the log: the mean IoU, by category, and their mean."""
        means = self.category_means()
        return {
            "val/iou": self.iou,
            "val/category_mean": fmean(means.values()),
            **{f"val/iou/{name}": iou for name, iou in means.items()},
        }

    def drops(self, before: dict[str, float]) -> list[Drop]:
        """Returns the shapes whose IoU fell most, the largest drop first.

        Args:
            before: IoUs by id in an earlier validation. Shapes that it lacks are not compared.
        """
        found = [
            Drop(id, self.categories[id], before[id], iou)
            for id, iou in self.shapes.items()
            if before.get(id, iou) - iou > _LEAST_DROP
        ]
        return sorted(found, key=lambda drop: drop.now - drop.before)[:_MAX_DROPS]


class Validator:
    """Measures the IoU of shapes that are spread evenly over the val split.

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
        count = min(len(dataset), num_shapes)
        # Evenly spread shapes cover all categories.
        self.numbers = [place * len(dataset) // count for place in range(count)]

    def measure(self, model: Model) -> torch.Tensor:
        """Returns the IoU (S,) of each shape that this rank validates, and 0 for all others."""
        ious = torch.zeros(len(self.numbers), dtype=torch.float64, device=self.device)
        for place in range(parallel.rank(), len(self.numbers), parallel.world_size()):
            ious[place] = self._measure_shape(model, self.numbers[place])
        return ious

    @torch.no_grad()
    def _measure_shape(self, model: Model, number: int) -> torch.Tensor:
        """Returns the IoU of a shape. It skips autocast to match `occvae evaluate`."""
        batch = to_device(default_collate([self.dataset[0, number]]), self.device)
        output = self.objective.predict(model, batch)
        return compute_iou(self.objective, model, output, batch).mean()

    def gather(self, ious: torch.Tensor) -> Validation:
        """Combines what `measure` returned on the ranks. Collective."""
        ids = [self.dataset.ids[number] for number in self.numbers]
        names = [self.dataset.categories[number] for number in self.numbers]
        shapes = dict(zip(ids, parallel.sum_over_ranks(ious).tolist(), strict=True))
        return Validation(shapes, dict(zip(ids, names, strict=True)))

    def write_sheets(self, run: Path, step: int, model: Model, shapes: dict[str, float]) -> None:
        """Writes the contact sheet of a step, and samples if the model has a prior.

        Args:
            run: run folder.
            step: step of the validation.
            model: model on the device.
            shapes: known IoUs by id. The others on the sheet are measured.
        """
        labels = {}
        for number in choose_rows(self.dataset.categories):
            iou = shapes.get(self.dataset.ids[number])
            if iou is None:
                iou = self._measure_shape(model, number).item()
            labels[number] = f"{self.dataset.categories[number]}\nIoU {iou:.2f}"
        sheet = run / "samples" / f"step-{step:07d}.png"
        write_contact_sheet(sheet, model, self.dataset, self.device, labels)
        if isinstance(model, GenerativeModel):
            write_prior_sheet(sheet.with_name(f"prior-{step:07d}.png"), model, self.device)


@torch.no_grad()
def compute_iou(objective: Objective, model: Model, output: Any, batch: Batch) -> torch.Tensor:
    """Returns IoU (B, 1) at the model's threshold."""
    return voxel_iou(*objective.iou_inputs(output, batch), (model.threshold,))

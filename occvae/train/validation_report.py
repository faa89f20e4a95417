"""What a run reports about a validation: lines in the terminal, a JSON file and the run page."""

import json
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

from occvae.system.atomic_write import write_whole_text
from occvae.system.terminal import one_line
from occvae.train.checkpoint import Progress
from occvae.train.validation import Validation
from occvae.visualize.report.run_page import write_training_page
from occvae.visualize.report.training import VALIDATION, ValidationReport


def describe_validation(validation: Validation, before: Progress, step: int) -> list[str]:
    """Returns the lines to print about a validation.

    Args:
        validation: what it found.
        before: the progress of the run before the validation was recorded.
        step: step of the validation.
    """
    best = " (best)" if validation.iou > before.best_iou else ""
    line = f"step {step}: validation IoU {validation.iou:.4f}{best}"
    means = validation.category_means()
    if len(means) > 1:
        lowest, highest = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
        line += (
            f", category mean {fmean(means.values()):.4f}, "
            f"lowest {lowest} {means[lowest]:.2f}, highest {highest} {means[highest]:.2f}"
        )
    lines = [line]
    if drops := validation.drops(before.best_shapes):
        ids = ", ".join(f"{drop.id} {drop.before:.2f} -> {drop.now:.2f}" for drop in drops)
        lines.append(f"  worse than at step {before.best_step}: {ids}")
    return [one_line(text) for text in lines]


def write_validation_report(
    run: Path,
    validation: Validation,
    before: Progress,
    after: Progress,
    last_step: int,
    early: bool,
) -> None:
    """Writes validation.json and index.html, the page of the run.

    Args:
        run: run folder.
        validation: what the validation found.
        before: the progress of the run before the validation was recorded.
        after: the progress with the validation.
        last_step: last step of the run.
        early: whether the run ends early with this validation.
    """
    report = ValidationReport(
        step=after.step,
        last_step=last_step,
        stopped_early=early,
        num_without_gain=after.num_without_gain,
        best_step=after.best_step,
        best_iou=after.best_iou,
        compared_with_step=before.best_step,
        worse=validation.drops(before.best_shapes),
    )
    write_whole_text(run / VALIDATION, json.dumps(asdict(report), indent=1) + "\n")
    write_training_page(run)

"""reconstruct_files(): files of objects to meshes, in batches, with one line per object."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from occvae.errors import UserError
from occvae.geometry.extract_mesh import ProgressBar
from occvae.geometry.mesh_checks import check_mesh
from occvae.models.protocol import Model
from occvae.reconstruction.files import (
    hypothesis_paths,
    place,
    planned_files,
    write_previews,
    write_turntables,
)
from occvae.reconstruction.mesh_writer import write_mesh
from occvae.reconstruction.prediction import Prediction, predict_meshes
from occvae.reconstruction.reading import CUT_OUT, ObservedObject, read_object, to_batch
from occvae.reconstruction.settings import ReconstructionSettings
from occvae.system.atomic_write import WriteError, check_writable
from occvae.system.terminal import one_line
from occvae.system.verbosity import note

# Errors of a prediction that other settings may avoid.
FAILURES = (ValueError, MemoryError, torch.OutOfMemoryError)


def reconstruct_files(
    model: Model,
    images: Sequence[Sequence[str | Path]],
    outputs: list[Path],
    settings: ReconstructionSettings | None = None,
    *,
    device: torch.device | str = "cpu",
    overwrite: bool = True,
) -> None:
    """Reconstructs objects from their files, and writes meshes and previews.

    Models that observe images take images. Models that observe point clouds or voxel grids take one
    scan or one grid per object. Models of mixtures take any of them together. Scans are centered
    and scaled by `occvae.observations.scans.load_scan`, and their meshes are written in the
    coordinates of the scan. Other meshes are in the unit cube, which a voxel grid covers.

    For each object one line on stdout lists the files and whether the meshes are watertight. A line
    on stderr warns of each image whose background is not removed. If an object fails, a line on
    stderr gives the reason, and the other objects are still reconstructed.
    If a batch fails, for example because memory is short, its objects are tried one by one.

    Args:
        model: A model, for example from `occvae.from_pretrained`. It is moved to `device`.
        images: Files of each object. Several images are views of one object.
        outputs: Mesh file of each object. The suffix selects the format. Previews and turntables
            are written beside it. With `num_samples` hypotheses are numbered: chair-1.glb, ...
        settings: See `ReconstructionSettings`. None selects the defaults.
        device: Device to compute on.
        overwrite: Whether to replace files that exist.

    Raises:
        UserError: The settings do not suit the model or the format, a file cannot be written, or
            exists and `overwrite` is false. Or, after all objects were tried, at least one object
            has no mesh. With a single object the error is the reason itself.
    """
    settings = ReconstructionSettings() if settings is None else settings
    settings.check_files(model)
    for output in outputs:
        settings.check(model, output.suffix.lower().lstrip("."))
        check_writable(output)
    _refuse_inputs(images, outputs)
    if not overwrite:
        _refuse_existing(outputs, settings)
    run = _Run(model.to(device).eval(), settings, torch.device(device), total=len(images))
    pairs = list(zip(images, outputs, strict=True))
    # Images are read batch by batch, so that thousands of images do not fill the memory.
    for _, group in itertools.groupby(pairs, key=lambda pair: len(pair[0])):
        alike = list(group)
        for start in range(0, len(alike), settings.batch_size):
            run.reconstruct(alike[start : start + settings.batch_size])
    run.finish()


def _refuse_inputs(images: Sequence[Sequence[str | Path]], outputs: list[Path]) -> None:
    """Refuses to replace an input, such as a scan in .ply by the mesh made from it."""
    inputs = {Path(file).resolve() for files in images for file in files}
    for output in outputs:
        if output.resolve() in inputs:
            raise UserError(f"{output}: is an input; give the mesh another name with -o")


def _refuse_existing(outputs: list[Path], settings: ReconstructionSettings) -> None:
    for output in outputs:
        for path in planned_files(output, settings.num_samples, settings.turntable):
            if path.exists():
                raise UserError(f"{path} exists; replace it with -o {output}, or give another name")


class _Run:
    def __init__(
        self, model: Model, settings: ReconstructionSettings, device: torch.device, total: int
    ):
        self.model, self.settings, self.device = model, settings, device
        self.total, self.done = total, 0
        self.failed: list[str | Path] = []

    def reconstruct(self, batch: list[tuple[Sequence[str | Path], Path]]) -> None:
        """Reconstructs a batch of (images, output), all with the same number of images."""
        objects: list[ObservedObject] = []
        for images, output in batch:
            try:
                objects.append(read_object(images, output, self.model, self.settings))
            except UserError as error:
                self._fail(error, images[0])
            else:
                _warn(objects[-1].warnings)
        # Scans with fewer points than in training differ in their shape.
        for _, group in itertools.groupby(objects, key=lambda item: item.shapes):
            self._reconstruct_alike(list(group))

    def _reconstruct_alike(self, objects: list[ObservedObject]) -> None:
        for item, prediction in self._predict(objects):
            try:
                line = _write(item, prediction, self.settings)
            except WriteError as error:
                counts = f"; {self.done} of {self.total} objects are done" * (self.total > 1)
                raise UserError(f"{error}{counts}") from None
            except UserError as error:
                self._fail(error, item.name)
            else:
                self.done += 1
                note(line)

    def finish(self) -> None:
        """Prints a summary if there were several objects. Raises a UserError if objects failed."""
        if self.failed:
            names = ", ".join(str(name) for name in self.failed[:5])
            names += ", ..." * (len(self.failed) > 5)
            raise UserError(f"{len(self.failed)} of {self.total} objects have no mesh: {names}")
        if self.total > 1:
            note(f"all {self.total} objects reconstructed")

    def _predict(
        self, objects: list[ObservedObject]
    ) -> Iterator[tuple[ObservedObject, Prediction]]:
        """Yields pairs of an object and its prediction, for all objects that have one."""
        error = None
        try:
            predictions = self._call(objects)
        except FAILURES as failure:
            error = describe_failure(failure, self.device)
        if error is None:
            yield from zip(objects, predictions, strict=True)
        elif len(objects) == 1:
            self._fail(UserError(f"{objects[0].name}: {error}"), objects[0].name)
        else:
            for item in objects:
                yield from self._predict([item])

    def _call(self, objects: list[ObservedObject]) -> list[Prediction]:
        if not objects:
            return []
        observed = to_batch(objects, self.device, self.model.observation)
        bar = ProgressBar(
            one_line(objects[0].name) if len(objects) == 1 else f"{len(objects)} objects"
        )
        try:
            return predict_meshes(self.model, observed, self.settings, progress=bar)
        finally:
            bar.close()

    def _fail(self, error: UserError, name: str | Path) -> None:
        if self.total == 1:
            raise error
        print(f"error: {one_line(error)}", file=sys.stderr, flush=True)
        self.failed.append(name)


def _write(item: ObservedObject, prediction: Prediction, settings: ReconstructionSettings) -> str:
    """Writes the files of an object, and returns the line that lists them."""
    paths = hypothesis_paths(item.output, settings.num_samples)
    names = [path.stem for path in hypothesis_paths(Path(item.name), settings.num_samples)]
    pairs = [pair for pair in zip(paths, prediction.meshes, strict=True) if len(pair[1].faces)]
    if not pairs:
        raise UserError(f"{item.name}: the prediction has no surface; try a lower --threshold")
    for path, mesh, name in zip(paths, prediction.meshes, names, strict=True):
        if not len(mesh.faces):
            continue
        if item.frame is None:
            write_mesh(path, mesh, name)
        else:
            write_mesh(path, place(mesh, item.frame), name, unit="as in the scan")
    paths, meshes = [path for path, _ in pairs], [mesh for _, mesh in pairs]
    images = [write_previews(item.output, item.seen, meshes)]
    if settings.turntable:
        images += write_turntables(paths, meshes, settings.turntable)
    written = [
        f"{path} ({len(mesh.faces)} faces, {check_mesh(mesh.vertices, mesh.faces)})"
        for path, mesh in pairs
    ]
    written += map(str, images)
    notes = list(item.notes)
    if len(pairs) < len(prediction.meshes):
        notes.append(f"{len(prediction.meshes) - len(pairs)} hypotheses without a surface")
    if prediction.std is not None:
        notes.append(f"mean deviation of the occupancy {prediction.std:.3f}")
    return "; ".join([f"{item.name} -> {', '.join(written)}", *notes])


def _warn(warnings: Sequence[str]) -> None:
    for warning in warnings:
        line = one_line(f"{warning}; {CUT_OUT}")
        print(f"warning: {line}", file=sys.stderr, flush=True)


def describe_failure(error: Exception, device: torch.device) -> str:
    """Returns the message of a failed prediction."""
    if isinstance(error, torch.OutOfMemoryError):
        return f"{device} is out of memory; try a lower --resolution"
    return str(error)

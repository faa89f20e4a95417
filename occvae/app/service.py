"""What the page computes with a model. Nothing here knows the page."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from occvae.data.procedural import CATEGORIES, make_shape
from occvae.errors import UserError
from occvae.models.protocol import GenerativeModel, HypothesisModel, LatentModel, Model
from occvae.observations.kinds import Mixture, PointCloud, VoxelGrid
from occvae.reconstruction.files import place
from occvae.reconstruction.paths import output_paths
from occvae.reconstruction.pipeline import FAILURES, describe_failure
from occvae.reconstruction.prediction import predict_meshes
from occvae.reconstruction.reading import ObservedObject, read_object, to_batch
from occvae.reconstruction.settings import ReconstructionSettings
from occvae.visualize.rendering import random_albedo, random_extrinsics, render_views

if TYPE_CHECKING:
    import trimesh

    from occvae.ops.field import Progress

MOST_FILES = 16
"""Number of files, and of meshes, of one request."""
MOST_AXES = 6
"""Number of main axes of the latent space that have a slider."""
_EXAMPLE_SIZE = 384

Report = Callable[[str, float], None]
"""Takes what is being done and the share of it that is done. It may raise to cancel the work."""


class NamedShape(NamedTuple):
    """A mesh with a name."""

    name: str
    mesh: trimesh.Trimesh
    unit: str


class Outcome(NamedTuple):
    """What a request computed."""

    name: str
    """Name of the downloads."""
    shapes: list[NamedShape]
    seen: np.ndarray
    """(V, S, S, 3) uint8, what the model saw; V is 0 if it saw nothing."""
    notes: list[str]


class CutOut(NamedTuple):
    """What the model will see of files."""

    names: list[str]
    """A name per image."""
    pixels: list[np.ndarray]
    """(S, S, 3) uint8 each."""
    notes: list[str]
    warnings: list[str]


class MeshService:
    """Reconstructs files with a model, draws shapes, and walks through its latents.

    Args:
        model: A model that observes images, point clouds or voxel grids.
        device: Device to compute on.

    Raises:
        UserError: The model observes something that is not read from files.
    """

    def __init__(self, model: Model, device: torch.device | str = "cpu"):
        ReconstructionSettings().check_files(model)
        self.device = torch.device(device)
        self.model = model.to(self.device).eval()

    @property
    def observes_scans(self) -> bool:
        """Whether the model takes scans, alone or besides images."""
        observation = self.model.observation
        if isinstance(observation, Mixture):
            return observation.points is not None
        return isinstance(observation, PointCloud)

    @property
    def observes_images(self) -> bool:
        return not isinstance(self.model.observation, PointCloud | VoxelGrid)

    @property
    def observes_grids(self) -> bool:
        """Whether the model takes voxel grids, alone or besides images."""
        observation = self.model.observation
        if isinstance(observation, Mixture):
            return observation.voxels is not None
        return isinstance(observation, VoxelGrid)

    @property
    def is_variational(self) -> bool:
        """Whether there are hypotheses, uncertainty and new shapes."""
        return isinstance(self.model, HypothesisModel)

    @property
    def num_axes(self) -> int:
        """Number of axes to move latents along; 0 for a model without latents."""
        if not isinstance(self.model, LatentModel):
            return 0
        return min(MOST_AXES, len(self.model.mean_latent()))

    def cut_out(self, files: Sequence[Path], background: str = "auto") -> CutOut:
        """Returns what the model will see of each file."""
        _check_files(files)
        settings = self._settings(background)
        with plain_errors(files, self.device):
            objects = [self._read([file], settings) for file in files]
        return CutOut(
            [file.name for file in files],
            [item.seen[0] for item in objects],
            list(dict.fromkeys(note for item in objects for note in item.notes)),
            _short([text for item in objects for text in item.warnings], files),
        )

    def reconstruct(
        self,
        files: Sequence[Path],
        together: bool,
        settings: ReconstructionSettings,
        report: Report,
    ) -> Outcome:
        """Reconstructs files.

        Args:
            files: Images, scans or voxel grids.
            together: Whether the files show one object. Files of models without images are always
                separate.
            settings: With `num_samples` there are several meshes per object.
            report: Called many times.

        Raises:
            UserError: A file cannot be read, the settings do not suit the model, or no object has
                a surface.
        """
        _check_files(files)
        groups = [list(files)] if together and self.observes_images else [[f] for f in files]
        names = [path.stem for path in output_paths([group[0] for group in groups])]
        if len(groups) * (settings.num_samples or 1) > MOST_FILES:
            raise UserError(f"more than {MOST_FILES} meshes at once; choose fewer hypotheses")
        shapes: list[NamedShape] = []
        seen: list[np.ndarray] = []
        notes: list[str] = []
        with plain_errors(files, self.device):
            settings.check(self.model, "glb")
            for number, (name, group) in enumerate(zip(names, groups, strict=True)):
                where = f"{name} ({number + 1} of {len(groups)})" if len(groups) > 1 else name
                report(where, 0.0)
                item = self._read(group, settings)
                found, std = self._predict(item, settings, _progress(report, where))
                shapes += _named(name, found, item)
                seen.append(item.seen)
                notes += [*item.notes, *_short(item.warnings, files)]
                if std is not None:
                    notes.append(f"mean deviation of the occupancy of {name}: {std:.3f}")
        _check_surface(shapes)
        pixels = np.concatenate(seen) if len({view.shape[1:] for view in seen}) == 1 else seen[0]
        return Outcome(names[0], shapes, pixels, list(dict.fromkeys(notes)))

    def sample(
        self,
        count: int,
        seed: int,
        resolution: int,
        threshold: float | None,
        report: Report,
    ) -> Outcome:
        """Draws new shapes.

        Raises:
            UserError: The model draws no shapes, or count is not from 1 to `MOST_FILES`.
        """
        model = self.model
        if not isinstance(model, GenerativeModel):
            raise UserError(f"{model.arch} draws no new shapes; take a model such as occvae")
        settings = ReconstructionSettings(resolution, threshold, num_samples=count, seed=seed)
        if count > MOST_FILES:
            raise UserError(f"draw from 1 to {MOST_FILES} shapes; got {count}")
        with plain_errors([], self.device), torch.no_grad():
            generator = torch.Generator(self.device).manual_seed(settings.seed)
            meshes = model.sample_meshes(
                count, resolution, threshold, generator, progress=_progress(report, "draw")
            )
        return _outcome("sample", meshes, [])

    def walk(
        self,
        files: Sequence[Path],
        offsets: Sequence[float],
        settings: ReconstructionSettings,
        report: Report,
    ) -> Outcome:
        """Moves the latent of images along the main axes.

        Args:
            files: Views of one object; empty to start at the mean of the training shapes.
            offsets: Distance along each of up to `num_axes` axes, in standard deviations. More
                are ignored.
            settings: Of the images and the surface.
            report: Called many times.
        """
        model = self._latent_model()
        offsets = offsets[: self.num_axes]
        with plain_errors(files, self.device), torch.no_grad():
            axes = model.latent_axes(len(offsets))
            latent = self._latent(files, settings) if files else model.mean_latent()[None]
            steps = torch.tensor(offsets, dtype=axes.dtype, device=axes.device)
            meshes = model.mesh_latents(
                latent + steps @ axes,
                settings.resolution,
                settings.threshold,
                progress=_progress(report, "move"),
            )
        name = files[0].stem if files else "mean"
        return _outcome(f"{name}-moved", meshes, [])

    def interpolate(
        self,
        first: Sequence[Path],
        second: Sequence[Path],
        steps: int,
        settings: ReconstructionSettings,
        report: Report,
    ) -> Outcome:
        """Makes meshes along the line between the latents of two objects.

        Args:
            first: Views of the object at the start.
            second: Views of the object at the end.
            steps: Number of meshes, both ends included.
            settings: Of the images and the surface.
            report: Called many times.
        """
        model = self._latent_model()
        if not 2 <= steps <= MOST_FILES:
            raise UserError(f"interpolate in 2 to {MOST_FILES} steps; got {steps}")
        for side, files in (("first", first), ("second", second)):
            if not files:
                raise UserError(f"the {side} image of the interpolation is missing; drop one")
        with plain_errors([*first, *second], self.device), torch.no_grad():
            start, end = self._latent(first, settings), self._latent(second, settings)
            weights = torch.linspace(0.0, 1.0, steps, device=start.device)[:, None]
            meshes = model.mesh_latents(
                torch.lerp(start, end, weights),
                settings.resolution,
                settings.threshold,
                progress=_progress(report, "interpolate"),
            )
        return _outcome(f"{first[0].stem}-to-{second[0].stem}", meshes, [])

    def _settings(self, background: str) -> ReconstructionSettings:
        return ReconstructionSettings(background=background if self.observes_images else "auto")

    def _read(self, files: Sequence[Path], settings: ReconstructionSettings) -> ObservedObject:
        return read_object(files, Path(f"{files[0].stem}.glb"), self.model, settings)

    def _predict(
        self, item: ObservedObject, settings: ReconstructionSettings, progress: Progress
    ) -> tuple[list[trimesh.Trimesh], float | None]:
        observed = to_batch([item], self.device, self.model.observation)
        [prediction] = predict_meshes(self.model, observed, settings, progress)
        return prediction.meshes, prediction.std

    def _latent_model(self) -> LatentModel:
        if not isinstance(self.model, LatentModel):
            raise UserError(
                f"{self.model.arch} has no latent space to walk through; take a model such as "
                "occvae"
            )
        return self.model

    def _latent(self, files: Sequence[Path], settings: ReconstructionSettings) -> Tensor:
        item = self._read(files, settings)
        observed = to_batch([item], self.device, self.model.observation)
        return self._latent_model().encode_latents(observed)


def draw_example(folder: Path, seed: int) -> Path:
    """Writes an image of a shape of the embedded dataset, as a model is trained on.

    Args:
        folder: Where to write.
        seed: Chooses category, shape, camera and color.
    """
    rng = np.random.default_rng(seed)
    category = CATEGORIES[int(rng.integers(len(CATEGORIES)))]
    number = int(rng.integers(1 << 20, 1 << 21))  # beyond the shapes of any training set
    vertices, faces = make_shape(category, number).mesh()
    cameras = random_extrinsics(rng, 1)
    [pixels] = render_views(vertices, faces, cameras, _EXAMPLE_SIZE, random_albedo(rng))
    path = folder / f"{category}.png"
    Image.fromarray(pixels).save(path)
    return path


@contextlib.contextmanager
def plain_errors(files: Sequence[Path], device: torch.device) -> Iterator[None]:
    """Turns failures of a prediction into UserErrors, and paths of files into their names."""
    try:
        yield
    except UserError as error:
        raise UserError(_short([str(error)], files)[0]) from None
    except FAILURES as error:
        raise UserError(_short([describe_failure(error, device)], files)[0]) from None


def _short(texts: Sequence[str], files: Sequence[Path]) -> list[str]:
    for file in files:
        texts = [text.replace(str(file), file.name) for text in texts]
    return list(texts)


def _check_files(files: Sequence[Path]) -> None:
    if not files:
        raise UserError("no file: drop one first")
    if len(files) > MOST_FILES:
        raise UserError(f"{len(files)} files at once; drop at most {MOST_FILES}")


def _check_surface(shapes: Sequence[NamedShape]) -> None:
    if not shapes:
        raise UserError("the prediction has no surface; try a lower threshold")


def _progress(report: Report, what: str) -> Progress:
    def progress(round_: int, done: int, total: int) -> None:
        report(f"{what}, round {round_ + 1}", done / max(total, 1))

    return progress


def _named(name: str, meshes: Sequence[trimesh.Trimesh], item: ObservedObject) -> list[NamedShape]:
    """Returns the meshes that have faces, with numbers if there are several meshes."""
    names = [name] if len(meshes) == 1 else [f"{name}-{i + 1}" for i in range(len(meshes))]
    unit = "longest edge of the object" if item.frame is None else "as in the scan"
    return [
        NamedShape(each, mesh if item.frame is None else place(mesh, item.frame), unit)
        for each, mesh in zip(names, meshes, strict=True)
        if len(mesh.faces)
    ]


def _outcome(name: str, meshes: Sequence[trimesh.Trimesh], notes: list[str]) -> Outcome:
    names = [name] if len(meshes) == 1 else [f"{name}-{i + 1}" for i in range(len(meshes))]
    shapes = [
        NamedShape(each, mesh, "longest edge of the object")
        for each, mesh in zip(names, meshes, strict=True)
        if len(mesh.faces)
    ]
    _check_surface(shapes)
    if len(shapes) < len(meshes):
        notes = [*notes, f"{len(meshes) - len(shapes)} shapes without a surface"]
    return Outcome(name, shapes, np.empty((0, 1, 1, 3), np.uint8), notes)

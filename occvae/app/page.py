"""The page and its HTTP API, in gradio."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from html import escape
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import gradio as gr

from occvae.app.results import cut_out_html, statistics, table, view, write_downloads
from occvae.app.service import MOST_AXES, MOST_FILES, MeshService, Outcome, Report, draw_example
from occvae.app.tasks import Cancelled, Tasks
from occvae.data.readers.voxel_files import ENDINGS as VOXEL_ENDINGS
from occvae.errors import UserError
from occvae.images.preprocess import BACKGROUNDS
from occvae.observations.scans import ENDINGS
from occvae.reconstruction.settings import ReconstructionSettings

# Endings of images whose type Python does not know, beside all those that it knows.
_IMAGE_TYPES = ["image", ".dib", ".heic", ".heif", ".hif", ".qoi", ".tga"]
# Gradio deletes files of this age (second number, in seconds), and looks as often as the first.
_DELETE_CACHE = (600, 3600)
_QUEUE_SIZE = 32
_LIMIT = {"concurrency_limit": 1, "concurrency_id": "model"}
_START = "<p class='start'>{}</p>"


def create_page(service: MeshService, folder: Path) -> gr.Blocks:
    """Returns the page of a model, which `launch` of gradio serves.

    Args:
        service: Computes what the page shows.
        folder: The upload folder of gradio. It also gets the files to download, which gradio
            deletes after an hour.
    """
    return _Page(service, folder).build()


def style() -> str:
    """Returns the CSS of the page."""
    return package_files("occvae.app").joinpath("page.css").read_text("utf-8")


def _upload_field(**options: Any) -> gr.File:
    """Returns a field for files that are uploaded. Their names and kinds are not checked here.

    Methods are replaced, because gradio writes a .pyi file beside the module of a subclass.
    """
    field = gr.File(file_count="multiple", **options)
    keep = field.async_move_resource_to_block_cache

    async def refuse_addresses(path: str | Path | None) -> str | None:
        if "://" in str(path):  # gradio would download it
            raise gr.Error("addresses are not read: upload the file", print_exception=False)
        return await keep(path)

    def preprocess(payload: Any) -> list[str]:
        return [] if payload is None else [file.path for file in payload]

    field.async_move_resource_to_block_cache = refuse_addresses  # type: ignore[method-assign, assignment]
    field.preprocess = preprocess  # type: ignore[method-assign]
    return field


class _Page:
    def __init__(self, service: MeshService, folder: Path):
        self.service, self.folder = service, folder
        self.tasks = Tasks()

    def build(self) -> gr.Blocks:
        with gr.Blocks(title="occvae", analytics_enabled=False, delete_cache=_DELETE_CACHE) as page:
            gr.HTML(self._heading(), elem_id="heading")
            with gr.Row():
                with gr.Column(scale=4, min_width=240):
                    self._inputs()
                with gr.Column(scale=7, min_width=240):
                    self._outputs()
            self._connect()
            page.unload(self._stop)
        page.queue(max_size=_QUEUE_SIZE, default_concurrency_limit=1)
        return page

    # ---- layout ----

    def _heading(self) -> str:
        what = self._what()
        return (
            f"<h1>Turn {what} of an object into 3D</h1>"
            f"<p class='notes'>Model: {escape(self.service.model.arch)}. "
            "Everything is computed on the machine that serves this page.</p>"
        )

    def _what(self) -> str:
        images, scans = self.service.observes_images, self.service.observes_scans
        grids = ["voxel grids"] * self.service.observes_grids
        *others, last = ["images"] * images + ["scans"] * scans + grids
        return f"{', '.join(others)} and {last}" if others else last

    def _file_types(self) -> list[str]:
        """What the upload field offers. Point clouds and voxel grids share two endings."""
        service = self.service
        types = [*_IMAGE_TYPES] * service.observes_images
        types += [*ENDINGS] * service.observes_scans + [*VOXEL_ENDINGS] * service.observes_grids
        return list(dict.fromkeys(types))

    def _inputs(self) -> None:
        images = self.service.observes_images
        self.files = _upload_field(
            label=f"{self._what().capitalize()} of an object",
            file_types=self._file_types(),
            height=150,
            elem_id="files",
        )
        self.example = gr.Button("Draw an example image", size="sm", visible=images)
        self.seen = gr.HTML(elem_id="seen", label="seen", padding=False)
        with gr.Row():
            self.run = gr.Button("Reconstruct", variant="primary", elem_id="run")
            self.cancel = gr.Button("Cancel", elem_id="cancel")
        with gr.Accordion("Settings", open=False):
            self._settings()
        if self.service.is_variational:
            with gr.Accordion("New shapes", open=False):
                self._sampling()
        if self.service.num_axes:
            with gr.Accordion("Move the shape", open=False):
                self._axes()
            with gr.Accordion("Between two images", open=False):
                self._interpolation()

    def _settings(self) -> None:
        images, variational = self.service.observes_images, self.service.is_variational
        self.together = gr.Checkbox(False, label="The files show one object", visible=images)
        self.background = gr.Dropdown(
            list(BACKGROUNDS),
            value="auto",
            label="Background",
            info="auto: cut out if plain; keep: use the image as it is; remove: cut out or fail",
            visible=images,
        )
        self.resolution = gr.Slider(
            32, 512, value=128, step=32, label="Resolution", info="cells per axis"
        )
        self.threshold = gr.Slider(
            0.01,
            0.99,
            value=self.service.model.threshold,
            step=0.01,
            label="Threshold",
            info="probability at the surface",
        )
        self.num_samples = gr.Slider(
            0,
            8,
            value=0,
            step=1,
            label="Hypotheses",
            info="0: one mesh, of the mean of the posterior",
            visible=variational,
        )
        self.uncertainty = gr.Checkbox(
            False, label="Color where hypotheses differ", visible=variational
        )
        self.seed = gr.Number(0, precision=0, label="Seed", visible=variational)

    def _sampling(self) -> None:
        self.count = gr.Slider(1, MOST_FILES, value=4, step=1, label="Number of shapes")
        self.draw = gr.Button("Draw new shapes", elem_id="draw")

    def _axes(self) -> None:
        gr.HTML(
            "<p class='notes'>Main axes of the latent space, in standard deviations from the "
            "shape of the images, or from the mean shape without images.</p>"
        )
        shown = self.service.num_axes
        self.axes = [
            gr.Slider(
                *(-3, 3),
                value=0,
                step=0.1,
                label=f"Axis {i + 1}",
                elem_id=f"axis-{i + 1}",
                visible=i < shown,
            )
            for i in range(MOST_AXES)
        ]
        self.reset = gr.Button("Reset", size="sm")

    def _interpolation(self) -> None:
        self.second = _upload_field(
            label="Image at the end",
            elem_id="second",
            file_types=list(_IMAGE_TYPES),
            height=120,
        )
        self.steps = gr.Slider(2, MOST_FILES, value=5, step=1, label="Meshes")
        self.between = gr.Button("Interpolate", elem_id="between")

    def _outputs(self) -> None:
        what = "a voxel grid" if self.service.observes_grids else "a scan"
        what = "an image" if self.service.observes_images else what
        self.view = gr.HTML(
            _START.format(f"Drop {what}, then press Reconstruct."),
            elem_id="view",
            label="view",
            padding=False,
        )
        self.table = gr.HTML(elem_id="table", label="table", padding=False)
        self.downloads = gr.File(
            label="Downloads", file_count="multiple", interactive=False, elem_id="downloads"
        )
        self.statistics = gr.JSON(visible=False, label="statistics")

    # ---- events ----

    def _connect(self) -> None:
        service = self.service
        self.files.change(
            self._show_cut_out,
            [self.files, self.background],
            self.seen,
            api_name="cut_out",
            api_description="Shows what the model will see of each file, as HTML.",
            show_progress="minimal",
        )
        self.background.change(
            self._show_cut_out, [self.files, self.background], self.seen, api_visibility="private"
        )
        self.example.click(self._draw_example, None, self.files, api_visibility="private")
        surface = [self.resolution, self.threshold]
        events = [
            self._event(
                self.run.click,
                self._reconstruct,
                [
                    *(self.files, self.together, self.background, *surface),
                    *(self.num_samples, self.uncertainty, self.seed),
                ],
                "reconstruct",
                "Reconstructs files. Returns a file per format, statistics, and both as HTML.",
            )
        ]
        if service.is_variational:
            events.append(
                self._event(
                    self.draw.click,
                    self._sample,
                    [self.count, self.seed, *surface],
                    "sample",
                    "Draws new shapes.",
                )
            )
        if service.num_axes:
            events += self._connect_latents(surface)
        self.cancel.click(
            lambda: gr.Info("The request was cancelled."),
            cancels=events,
            concurrency_limit=None,
            api_visibility="private",
        )

    def _connect_latents(self, surface: list[gr.Slider]) -> list[Any]:
        inputs = [self.files, self.background, *surface]
        moved = gr.on(
            [axis.change for axis in self.axes],
            self._walk,
            [*inputs, *self.axes],
            self._result(),
            api_name="walk",
            api_description="Moves the latent of images along its main axes.",
            show_progress="full",
            show_progress_on=self.view,
            trigger_mode="always_last",
            **_LIMIT,
        )
        self.reset.click(
            lambda: [0] * len(self.axes), None, self.axes, queue=False, api_visibility="private"
        )
        return [
            moved,
            self._event(
                self.between.click,
                self._interpolate,
                [self.files, self.second, self.steps, self.background, *surface],
                "interpolate",
                "Makes meshes between the latents of two images.",
            ),
        ]

    def _result(self) -> list[gr.components.Component]:
        return [self.downloads, self.statistics, self.table, self.view]

    def _event(
        self,
        listener: Callable[..., Any],
        function: Callable[..., Any],
        inputs: Sequence[gr.components.Component],
        name: str,
        description: str,
    ) -> Any:
        return listener(
            function,
            list(inputs),
            self._result(),
            api_name=name,
            api_description=description,
            show_progress_on=self.view,
            **_LIMIT,
        )

    # ---- requests ----

    async def _show_cut_out(self, files: list[str], background: str) -> str:
        if not files:
            return ""
        paths = [Path(file) for file in files]

        def work(report: Report) -> str:
            return cut_out_html(self.service.cut_out(paths, background))

        return await _sentences(Tasks().run("", work, _ignore))

    def _draw_example(self) -> list[str]:
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        return [str(draw_example(folder, random.randrange(1 << 30)))]

    async def _reconstruct(
        self,
        files: list[str],
        together: bool,
        background: str,
        resolution: int,
        threshold: float,
        num_samples: int,
        uncertainty: bool,
        seed: int,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[Any, ...]:
        def work(report: Report) -> Outcome:
            settings = ReconstructionSettings(
                resolution,
                threshold,
                num_samples=num_samples or None,
                uncertainty=uncertainty,
                seed=seed,
                background=background if self.service.observes_images else "auto",
            )
            return self.service.reconstruct(list(map(Path, files)), together, settings, report)

        return await self._answer(work, request, progress)

    async def _sample(
        self,
        count: int,
        seed: int,
        resolution: int,
        threshold: float,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[Any, ...]:
        def work(report: Report) -> Outcome:
            return self.service.sample(count, seed, resolution, threshold, report)

        return await self._answer(work, request, progress)

    async def _walk(
        self,
        files: list[str],
        background: str,
        resolution: int,
        threshold: float,
        axis_1: float,
        axis_2: float,
        axis_3: float,
        axis_4: float,
        axis_5: float,
        axis_6: float,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[Any, ...]:
        offsets = (axis_1, axis_2, axis_3, axis_4, axis_5, axis_6)

        def work(report: Report) -> Outcome:
            settings = ReconstructionSettings(resolution, threshold, background=background)
            return self.service.walk(list(map(Path, files)), offsets, settings, report)

        return await self._answer(work, request, progress)

    async def _interpolate(
        self,
        files: list[str],
        second: list[str],
        steps: int,
        background: str,
        resolution: int,
        threshold: float,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[Any, ...]:
        def work(report: Report) -> Outcome:
            settings = ReconstructionSettings(resolution, threshold, background=background)
            pair = list(map(Path, files)), list(map(Path, second))
            return self.service.interpolate(*pair, steps, settings, report)

        return await self._answer(work, request, progress)

    async def _answer(
        self,
        work: Callable[[Report], Outcome],
        request: gr.Request,
        progress: gr.Progress,
    ) -> tuple[Any, ...]:
        """Runs work, and returns the values of `_result`."""

        def complete(report: Report) -> tuple[Any, ...]:
            outcome = work(report)
            report("writing files", 0.95)
            folder = Path(tempfile.mkdtemp(dir=self.folder))
            downloads = [str(path) for path in write_downloads(outcome, folder)]
            values = statistics(outcome)
            return downloads, values, table(values), view(outcome)

        def report(what: str, share: float) -> None:
            progress(share, desc=what)

        return await _sentences(self.tasks.run(str(request.session_hash), complete, report))

    def _stop(self, request: gr.Request) -> None:
        self.tasks.stop(str(request.session_hash))


async def _sentences(work: Any) -> Any:
    """Awaits work. Its UserError becomes a sentence in the page."""
    try:
        return await work
    except UserError as error:
        raise gr.Error(escape(str(error), quote=False), None, print_exception=False) from None
    except Cancelled:
        raise gr.Error("cancelled", print_exception=False) from None


def _ignore(what: str, share: float) -> None:
    """A report that nobody reads."""

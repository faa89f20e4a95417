"""Pages of run folders and of mesh files."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from occvae.errors import UserError
from occvae.system.atomic_write import write_whole_text
from occvae.visualize.report.document import document, image_element
from occvae.visualize.report.tables import ABOUT_METRICS, evaluation_tables
from occvae.visualize.report.training import (
    METRICS,
    has_ended,
    read_validation,
    training_sections,
)
from occvae.visualize.report.viewer import Mesh, Viewer, frame_of

_EVALUATIONS = "evaluation*.json"
_MAX_SHEETS = 12
_RELOAD = 30  # seconds


def is_run(folder: Path) -> bool:
    return (folder / METRICS).is_file() or bool(_evaluations(folder))


def run_page(folder: Path) -> str:
    """Returns a page with the curves, evaluations and contact sheets of a run or an export.

    Browsers load it again from time to time until the run has ended.
    """
    parts = [*training_sections(folder), _contact_sheets(folder, _MAX_SHEETS)]
    evaluations = _evaluations(folder)
    for path in evaluations:
        name = escape(str(path.relative_to(folder)))
        tables = evaluation_tables(_read_json(path), level=3)
        parts.append(f"<section><h2>{name}</h2>{tables}</section>")
    if evaluations:
        parts.append(ABOUT_METRICS)
    return _page_of_run(folder, parts, reload=0 if has_ended(folder) else _RELOAD)


def write_training_page(folder: Path) -> None:
    """Writes index.html into a run folder: its curves and the newest contact sheet.

    Raises:
        UserError: the file cannot be written.
    """
    parts = [*training_sections(folder), _contact_sheets(folder, 0)]
    write_whole_text(folder / "index.html", _page_of_run(folder, parts))


def _page_of_run(folder: Path, parts: list[str], reload: int = 0) -> str:
    title = f"Run {folder.resolve().name}"
    body = f"<header><h1>{escape(title)}</h1></header><main>{''.join(parts)}</main>"
    return document(title, body, reload=reload)


@dataclass(frozen=True)
class NamedMesh:
    """A mesh that a page shows.

    Args:
        name: any text.
        mesh: the mesh.
        colors: (V, 3) uint8, or None for a mesh without colors.
    """

    name: str
    mesh: Mesh
    colors: np.ndarray | None = None


def mesh_page(
    meshes: list[NamedMesh], left_out: Sequence[str] = (), *, framed: bool = False
) -> str:
    """Returns a page with an interactive view per mesh. Their cameras can be linked.

    Args:
        meshes: at least one mesh.
        left_out: messages that name the files left out and why.
        framed: whether the page is for a frame in another page. It then has no heading, and one
            mesh fills it.
    """
    viewer = Viewer()
    toggles = ["colors"] * any(item.colors is not None for item in meshes)
    toggles += ["wireframe", "z-up"] + ["linked"] * (len(meshes) > 1)
    title = meshes[0].name if len(meshes) == 1 else f"{len(meshes)} meshes"
    notes = "".join(f"<p>left out: {escape(note)}</p>" for note in left_out)
    scenes = "".join(_mesh_scene(viewer, item) for item in meshes)
    kind = {1: "meshes one", 2: "meshes two"}.get(len(meshes), "meshes")
    heading = "" if framed else f"<h1>{escape(title)}</h1>"
    body = (
        f"<header>{heading}{notes}{viewer.controls(*toggles)}</header>"
        f'<main class="{kind}{" framed" * framed}">{scenes}</main>'
    )
    return document(title, body, viewer=viewer.scripts())


def _mesh_scene(viewer: Viewer, item: NamedMesh) -> str:
    vertices, faces = item.mesh
    caption = f"{item.name}: {len(vertices)} vertices, {len(faces)} faces"
    frame = frame_of(item.mesh)
    return viewer.scene([viewer.view(caption, item.name, item.mesh, frame, item.colors)], frame)


def index_page(links: dict[str, str]) -> str:
    """Returns a page of links.

    Args:
        links: address of each page to its name.
    """
    entries = "".join(
        f'<li><a href="{escape(address)}">{escape(name)}</a></li>'
        for address, name in links.items()
    )
    return document("occvae view", f"<h1>occvae view</h1><ul>{entries}</ul>")


def _evaluations(folder: Path) -> list[Path]:
    """Returns the evaluation files of the folder itself and of its exports."""
    return [
        path
        for path in (*sorted(folder.glob(_EVALUATIONS)), *sorted(folder.glob(f"*/{_EVALUATIONS}")))
        if path.is_file()
    ]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: not an evaluation; write it again with 'occvae evaluate'")
    return value


def _contact_sheets(folder: Path, max_earlier: int) -> str:
    """Returns the newest sheet of each kind of a run, and up to `max_earlier` earlier sheets."""
    shown: dict[str, str] = {}
    earlier: list[str] = []
    paths = _sheet_files(folder)
    for path in paths:
        kind = path.stem.rpartition("-")[0]
        if kind in shown and len(earlier) >= max_earlier:
            continue
        if not (figure := _sheet(path)):
            continue
        if kind in shown:
            earlier.append(figure)
        else:
            shown[kind] = figure
    if not shown:
        return ""
    html = f'<div class="sheets">{"".join(shown.values())}</div>'
    if earlier:
        html += (
            "<details><summary>Earlier contact sheets</summary>"
            f'<div class="gallery">{"".join(earlier)}</div></details>'
        )
    left_out = len(paths) - len(shown) - len(earlier)
    if left_out > 0:
        html += "<p>Earlier contact sheets are in the folder samples/ of the run.</p>"
    return f"<section><h2>Contact sheets</h2>{html}</section>"


def _sheet_files(folder: Path) -> list[Path]:
    """Returns the contact sheets of a run, the newest first.

    A run that was resumed from an earlier step may have left sheets of later steps, which are not
    part of it.
    """
    report = read_validation(folder)
    return [
        path
        for path in sorted((folder / "samples").glob("*.png"), reverse=True)
        if report is None or _step(path) <= report.step
    ]


def _step(sheet: Path) -> int:
    digits = sheet.stem.rpartition("-")[2]
    return int(digits) if digits.isdecimal() else 0


def _sheet(path: Path) -> str:
    """Returns a contact sheet as HTML; empty if the file is being written."""
    data = path.read_bytes()
    try:
        size = Image.open(io.BytesIO(data)).size
    except OSError:
        return ""
    image = image_element(data, f"contact sheet {path.stem}", size)
    return f"<figure>{image}<figcaption>{escape(path.stem)}</figcaption></figure>"

"""What the page shows and offers of an outcome: a 3D view, a table, and files."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from occvae.app.service import CutOut, NamedShape, Outcome
from occvae.geometry.mesh_checks import check_mesh
from occvae.reconstruction.files import preview_image
from occvae.reconstruction.mesh_writer import mesh_files, write_mesh
from occvae.reconstruction.paths import FORMATS
from occvae.visualize.report.document import pixels_element
from occvae.visualize.report.run_page import NamedMesh, mesh_page

if TYPE_CHECKING:
    import trimesh


def write_downloads(outcome: Outcome, folder: Path) -> list[Path]:
    """Writes the meshes in every format, and an image of them.

    A format whose meshes are several files becomes one .zip file, as for .obj files, whose
    material is in a file of its own.

    Args:
        outcome: The meshes.
        folder: An existing folder.

    Returns:
        One file per format of `occvae.reconstruction.FORMATS`, and a PNG.
    """
    files = [_write_format(outcome, format, folder) for format in FORMATS]
    if len(outcome.seen):
        preview = folder / f"{outcome.name}.preview.png"
        preview_image(outcome.seen, [shape.mesh for shape in outcome.shapes]).save(preview)
        files.append(preview)
    return files


def _write_format(outcome: Outcome, format: str, folder: Path) -> Path:
    written: list[Path] = []
    for shape in outcome.shapes:
        path = folder / f"{shape.name}.{format}"
        write_mesh(path, shape.mesh, shape.name, shape.unit)
        written += mesh_files(path)
    if len(written) == 1:
        return written[0]
    archive = folder / f"{outcome.name}-{format}.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in written:
            file.write(path, path.name)
            path.unlink()
    return archive


def statistics(outcome: Outcome) -> dict[str, Any]:
    """Returns JSON values: a row per mesh, and the notes."""
    return {
        "meshes": [_row(shape) for shape in outcome.shapes],
        "notes": outcome.notes,
    }


def _row(shape: NamedShape) -> dict[str, Any]:
    mesh = shape.mesh
    report = check_mesh(mesh.vertices, mesh.faces)
    return {
        "name": shape.name,
        "faces": len(mesh.faces),
        "vertices": len(mesh.vertices),
        "watertight": report.is_watertight,
        "size": [round(float(edge), 4) for edge in mesh.extents],
        "unit": shape.unit,
    }


def table(values: dict[str, Any]) -> str:
    """Returns the statistics as HTML."""
    rows = "".join(
        f"<tr><th scope='row'>{escape(row['name'])}</th><td>{row['faces']:,}</td>"
        f"<td>{'yes' if row['watertight'] else 'no'}</td>"
        f"<td>{' × '.join(f'{edge:.3g}' for edge in row['size'])}</td></tr>"
        for row in values["meshes"]
    )
    units = dict.fromkeys(row["unit"] for row in values["meshes"])
    notes = [*values["notes"], f"unit: {', '.join(units)}; y is up"]
    return (
        "<table class='statistics'><thead><tr><th scope='col'>mesh</th>"
        "<th scope='col'>faces</th><th scope='col'>watertight</th><th scope='col'>size</th>"
        f"</tr></thead><tbody>{rows}</tbody></table>{_lines(notes, 'notes')}"
    )


def view(outcome: Outcome) -> str:
    """Returns HTML of the meshes to turn: a page in a frame that may run only its own script."""
    meshes = [NamedMesh(shape.name, *_arrays(shape.mesh)) for shape in outcome.shapes]
    page = mesh_page(meshes, framed=True)
    return (
        f'<iframe class="view" title="3D view of {escape(outcome.name)}" sandbox="allow-scripts" '
        f'srcdoc="{escape(page)}"></iframe>'
    )


def _arrays(
    mesh: trimesh.Trimesh,
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray | None]:
    visual: Any = mesh.visual
    colors = np.asarray(visual.vertex_colors)[:, :3] if visual.kind == "vertex" else None
    return (np.asarray(mesh.vertices), np.asarray(mesh.faces)), colors


def cut_out_html(seen: CutOut) -> str:
    """Returns the images that the model will see as HTML, with notes and warnings."""
    figures = "".join(
        f"<figure>{pixels_element(pixels, f'what the model sees of {name}')}"
        f"<figcaption>{escape(name)}</figcaption></figure>"
        for name, pixels in zip(seen.names, seen.pixels, strict=True)
    )
    return (
        f"<div class='seen'>{figures}</div>{_lines(seen.notes, 'notes')}"
        f"{_lines(seen.warnings, 'warning')}"
    )


def _lines(texts: Sequence[str], kind: str) -> str:
    return "".join(f"<p class='{kind}'>{escape(text)}</p>" for text in texts)

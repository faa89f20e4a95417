"""Executes the notebooks of docs/notebooks and writes their outputs.

`make notebooks` runs `python -m tests.docs.notebooks`. Tests execute the same notebooks at small
sizes: they replace values in the cell that is tagged `parameters`.
"""

import ast
import base64
import hashlib
import io
import os
import sys
from pathlib import Path
from typing import Any

import nbclient
import nbformat
from PIL import Image

from tests.docs.pages import ROOT

FOLDER = ROOT / "docs" / "notebooks"
NAMES = ("vitocc", "any_field", "latent_space")
# Metadata of a notebook: the digest of the code that made its outputs.
DIGEST = "occvae_code_sha256"
_COLORS = 64

Notebook = nbformat.NotebookNode
Cell = nbformat.NotebookNode


def notebook_path(name: str) -> Path:
    return FOLDER / f"{name}.ipynb"


def read_notebook(name: str) -> Notebook:
    return nbformat.read(notebook_path(name), as_version=4)


def code_cells(notebook: Notebook) -> list[Cell]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def code_digest(notebook: Notebook) -> str:
    code = "\n\0".join(cell.source for cell in code_cells(notebook))
    return hashlib.sha256(code.encode()).hexdigest()


def execute(notebook: Notebook, **parameters: Any) -> None:
    """Runs all cells in a new kernel, in the folder of the notebooks, and stores their outputs.

    Args:
        notebook: changed in place.
        **parameters: new values of names in the cell that is tagged `parameters`.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
        ValueError: the parameters cell has no such name.
    """
    replace_parameters(notebook, parameters)
    client = nbclient.NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        resources={"metadata": {"path": str(FOLDER)}},
        record_timing=False,
        coalesce_streams=True,
    )
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    client.execute(env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)})


def replace_parameters(notebook: Notebook, parameters: dict[str, Any]) -> None:
    """Assigns new values at the end of the cell that is tagged `parameters`."""
    [cell] = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    names = {target.id for line in ast.parse(cell.source).body for target in line.targets}
    if missing := parameters.keys() - names:
        raise ValueError(f"the parameters cell has no {', '.join(sorted(missing))}")
    cell.source += "".join(f"\n{name} = {value!r}" for name, value in parameters.items())


def strip(notebook: Notebook) -> None:
    """Removes what need not be committed, so that a new execution changes little.

    Progress bars and warnings, which go to stderr, are useful only while a notebook runs. PIL adds
    a JPEG to each PNG. PNG files keep 64 colors, which makes them a third as large.
    """
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            DIGEST: code_digest(notebook),
        }
    )
    for cell in code_cells(notebook):
        cell.metadata.pop("execution", None)
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                output.data.pop("image/jpeg", None)
                output.data["image/png"] = _with_palette(output.data["image/png"])


def _with_palette(png: str) -> str:
    """Reduces the colors of a PNG in base64, unless it has a palette already."""
    image = Image.open(io.BytesIO(base64.b64decode(png)))
    if image.mode == "P":
        return png
    file = io.BytesIO()
    image.convert("RGB").quantize(_COLORS).save(file, "png", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def main(names: list[str]) -> None:
    """Executes notebooks, all of them by default, and writes them with their outputs."""
    for name in names or NAMES:
        notebook, path = read_notebook(name), notebook_path(name)
        execute(notebook)
        strip(notebook)
        nbformat.write(notebook, path)
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

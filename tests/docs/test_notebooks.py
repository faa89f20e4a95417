"""The notebooks run from start to end, and those that are committed show what they print."""

import ast

import nbformat
import pytest

from tests.docs.notebooks import (
    DIGEST,
    FOLDER,
    NAMES,
    code_cells,
    code_digest,
    execute,
    notebook_path,
    read_notebook,
    replace_parameters,
    strip,
)

MOST_BYTES = 700_000
SMALL_DATA = {"shapes_per_category": 8, "tile": 24}
SMALL_RUN = ["optim.steps=4", "optim.batch_size=4", "optim.warmup_steps=1", "log_every=2"]
SMALL_RUN += ["validate_every=2", "validate_shapes=2", "data.num_workers=0"]
# Values of the parameters cells with which a notebook takes seconds.
SMALL = {
    "any_field": {"resolution": 64, "fit_steps": 20, "tile": 24},
    "vitocc": {
        **SMALL_DATA,
        "categories": ["chair", "mug"],
        "train_settings": [*SMALL_RUN, "validate_points=512"],
        "mesh_resolution": 32,
    },
    "latent_space": {
        **SMALL_DATA,
        "train_settings": [
            *SMALL_RUN,
            "model.image_size=64",
            "model.width=0.05",
            "model.latent_size=4",
        ],
        "num_samples": 2,
        "num_frames": 2,
    },
}


def test_all_notebooks_are_known():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(NAMES) == set(SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_notebook_runs_at_small_size(name, tmp_path):
    notebook = read_notebook(name)
    folder = {"folder": str(tmp_path)} if name != "any_field" else {}
    execute(notebook, **SMALL[name], **folder)
    # A kernel prints the exceptions of its threads and child processes but goes on.
    printed = "".join(
        output.text
        for cell in code_cells(notebook)
        for output in cell.outputs
        if output.output_type == "stream"
    )
    assert "Traceback" not in printed


@pytest.mark.parametrize("name", NAMES)
def test_small_sizes_replace_parameters(name):
    notebook = read_notebook(name)
    replace_parameters(notebook, SMALL[name])
    with pytest.raises(ValueError, match="no nothing"):
        replace_parameters(notebook, {"nothing": 1})


@pytest.mark.parametrize("name", NAMES)
def test_committed_notebook_was_executed_in_order(name):
    """If this fails, run `make notebooks`."""
    notebook = read_notebook(name)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert [cell.source for cell in cells if prints(cell) and not cell.outputs] == []
    assert notebook.metadata[DIGEST] == code_digest(notebook)


@pytest.mark.parametrize("name", NAMES)
def test_committed_notebook_is_small_and_stripped(name):
    notebook, path = read_notebook(name), notebook_path(name)
    assert path.stat().st_size < MOST_BYTES
    before = nbformat.writes(notebook)
    strip(notebook)
    assert nbformat.writes(notebook) == before


def prints(cell: nbformat.NotebookNode) -> bool:
    """Whether a cell has an output: it calls print, or its last line is a value."""
    shows_value = isinstance(ast.parse(cell.source).body[-1], ast.Expr)
    return "print(" in cell.source or (shows_value and not cell.source.endswith(";"))

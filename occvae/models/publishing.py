"""Publishes an export on the Hugging Face Hub, with a model card."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from occvae.errors import UserError
from occvae.models.hub import is_hub_id, upload_files
from occvae.models.pretrained import CONFIG, WEIGHTS, find_export, from_pretrained

# A report may be older than the weights by this many seconds, because copying a folder keeps no
# order.
_COPYING = 60.0


def push_to_hub(path: str | Path, repo_id: str, *, license: str, private: bool = False) -> str:
    """Uploads a model to the Hugging Face Hub, where `from_pretrained(repo_id)` finds it.

    Uploads config.json, model.safetensors and a model card as README.md. They replace the files of
    these names. The access token is that of `hf auth login`, or `HF_TOKEN`.

    Args:
        path: A run folder or an export.
        repo_id: `owner/name`. The repository is created if it does not exist.
        license: License of the weights as the Hub names it, such as "mit" or "cc-by-nc-4.0". It
            depends on the data that the model was trained on.
        private: Whether a new repository is private.

    Returns:
        Address of the repository.

    Raises:
        UserError: There is no export, a report is older than the weights, or the upload fails.
    """
    if not is_hub_id(repo_id):
        raise UserError(f"{repo_id!r} is not an id on the Hugging Face Hub; give owner/name")
    folder = find_export(path)
    card = model_card(folder, repo_id, license=license)
    files: dict[str, Path | bytes] = {
        CONFIG: folder / CONFIG,
        WEIGHTS: folder / WEIGHTS,
        "README.md": card.encode(),
    }
    return upload_files(repo_id, files, private=private)


def model_card(path: str | Path, repo_id: str, *, license: str) -> str:
    """Returns the model card of an export: use, training data, figures with commands, license.

    The training data is what the training wrote into config.json. Figures are those of the reports
    that `occvae evaluate` wrote into the folder of the export.

    Args:
        path: A run folder or an export.
        repo_id: Id of the model on the Hub, for the examples.
        license: License of the weights as the Hub names it.

    Raises:
        UserError: There is no export, or a report is older than the weights.
    """
    folder = find_export(path)
    model = from_pretrained(folder)
    config = json.loads((folder / CONFIG).read_text())
    size = sum(parameter.numel() for parameter in model.parameters())
    reports = [_read_report(file, folder) for file in sorted(folder.glob("evaluation*.json"))]
    figures = [_figures(report, repo_id) for report in reports]
    sections = [
        _header(model.observation.noun, repo_id, license),
        "## Model\n\n" + _table([("architecture", "parameters"), (model.arch, f"{size:,}")]),
        "## Training data\n\n" + _training(config),
        "## Figures\n\n" + ("\n\n".join(figures) or "This model has not been evaluated."),
        f"## License\n\nThe weights have the license `{license}`.",
    ]
    return "\n\n".join(sections) + "\n"


# By what a model observes: what it turns into a mesh, the call, and the file for the command.
_USES = {
    "image": ("images of an object", 'model.reconstruct("chair.jpg")', "chair.jpg"),
    "point cloud": ("points on an object", 'model.reconstruct("scan.ply")', "scan.ply"),
    "voxel grid": ("a voxel grid (R, R, R)", "model.reconstruct(grid)", None),
    "input": (
        "images of an object, points on it, or both",
        'model.reconstruct(images="chair.jpg", points="scan.ply")',
        "chair.jpg scan.ply --together",
    ),
    "labeled point": ("a random vector", "model.sample_meshes(1)", None),
}
_HEADER = """---
license: {license}
library_name: occvae
pipeline_tag: image-to-3d
---

# {name}

This model turns {seen} into a watertight mesh. It runs in `occvae`:

```python
import occvae

model = occvae.from_pretrained("{id}")
[mesh] = {call}
mesh.export("chair.glb")
```"""
_COMMAND = """

```console
$ occvae reconstruct {file} --model {id}
```"""
_IMAGE_TAG = "pipeline_tag: image-to-3d\n"


def _header(noun: str, repo_id: str, license: str) -> str:
    """The metadata of the card, and how to use a model that observes this."""
    seen, call, file = _USES[noun]
    header = _HEADER if noun in ("image", "input") else _HEADER.replace(_IMAGE_TAG, "")
    text = header.format(
        license=license, name=repo_id.rpartition("/")[2], id=repo_id, seen=seen, call=call
    )
    return text if file is None else text + _COMMAND.format(file=file, id=repo_id)


def _training(config: dict[str, Any]) -> str:
    data, origin = config.get("trained_on", {}), config.get("converted_from")
    rows = [
        ("source", data.get("source")),
        ("shapes", data.get("num_shapes")),
        ("categories", ", ".join(data.get("categories", []))),
        ("splits", config.get("splits")),
        ("steps", config.get("step")),
        ("converted from", origin and f"`{origin['file']}` of {origin['system']}"),
        ("SHA-256 of that file", origin and f"`{origin['sha256']}`"),
    ]
    known = [(name, str(value)) for name, value in rows if value]
    if not known:
        return "The export does not record its training data."
    return _table([("what", "value"), *known])


def _read_report(file: Path, folder: Path) -> dict[str, Any]:
    if file.stat().st_mtime < (folder / WEIGHTS).stat().st_mtime - _COPYING:
        raise UserError(
            f"{file}: is older than the weights beside it; evaluate the model again, or delete the "
            "report"
        )
    try:
        report = json.loads(file.read_text())
        _command(report, "owner/name")
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{file}: not a report of 'occvae evaluate'; move it elsewhere") from None
    return report


def _figures(report: dict[str, Any], repo_id: str) -> str:
    data = report["data"]
    shapes = f"{data['num_shapes']} shapes of the split {data['split']}, source {data['source']}."
    rows = [("metric", "mean of categories", "95 % interval")]
    for name, summary in (report["metrics"] | _controls(report)).items():
        low, high = summary["macro"]["interval"]
        rows.append((name, f"{summary['macro']['mean']:.4f}", f"{low:.4f} to {high:.4f}"))
    return f"{shapes}\n\n{_table(rows)}\n\n```console\n$ {_command(report, repo_id)}\n```"


def _controls(report: dict[str, Any]) -> dict[str, Any]:
    return {f"control: {name}, voxel IoU": value for name, value in report["controls"].items()}


def _command(report: dict[str, Any], repo_id: str) -> str:
    """The command that measures the figures of a report, without the folder of the dataset."""
    data, options = report["data"], report["options"]
    on_val = options["threshold_origin"].startswith("chosen on val")
    words = ["occvae", "evaluate", "--model", repo_id, "--data", Path(data["root"]).name]
    words += ["--split", data["split"], "--seed", str(options["seed"])]
    words += ["--threshold", "val" if on_val else str(options["threshold"])]
    if options["mesh_resolution"] is None:
        words.append("--no-meshes")
    else:
        words += ["--resolution", str(options["mesh_resolution"])]
    if data["num_shapes"] < data["num_stored"]:
        words += ["--shapes", str(data["num_shapes"])]
    if options["precision"] is not None:
        words += ["--precision", options["precision"]]
    return shlex.join(words)


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table. The first row is its head."""
    head, *body = rows
    lines = [head, ("---",) * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

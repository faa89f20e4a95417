"""Models as folders: config.json (architecture and options) beside model.safetensors."""

import json
from pathlib import Path
from typing import Any

from occvae.errors import UserError
from occvae.models.protocol import Model
from occvae.models.registry import create_model
from occvae.system.atomic_write import write_whole, write_whole_text

CONFIG, WEIGHTS = "config.json", "model.safetensors"
# Where a training run keeps its exports, in the order they are looked for.
RUN_EXPORTS = ("best", "last")
# Options of exports up to f105938 and their names today.
_RENAMED = {"backdrop": "background_gray", "normalisation": "normalization"}


def save_pretrained(model: Model, folder: str | Path, **metadata: Any) -> None:
    """Writes a model so that `from_pretrained` and safetensors readers can load it.

    Args:
        model: from `create_model`.
        folder: made if absent; an export in it is replaced.
        **metadata: JSON values kept in config.json, e.g. the step, and the splits of the dataset.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    # Weights come from this export, not from the hub, when the model is made again.
    options = {
        key: value
        for key, value in model.options.items()
        if key not in ("pretrained", "encoder_weights")
    }
    config = {"arch": model.arch, "options": options, **metadata}
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    text = json.dumps(config, indent=1) + "\n"
    write_whole(folder / WEIGHTS, lambda path: save_file(state, path, metadata={"format": "pt"}))
    write_whole_text(folder / CONFIG, text)


def from_pretrained(path: str | Path) -> Model:
    """Loads an exported model, in eval mode, on the CPU.

    Args:
        path: an export folder, its model.safetensors, or a training run's folder (its best model).

    Raises:
        UserError: nothing there, or the weights do not fit the architecture.
    """
    folder = find_export(path)
    try:
        config = json.loads((folder / CONFIG).read_text())
        arch = config["arch"]
        options = {_RENAMED.get(name, name): value for name, value in config["options"].items()}
        model = create_model(arch, **options)
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / CONFIG}: not a model description ({error!r})") from None
    _load_state(model, arch, folder)
    return model.eval()


def load_weights(model: Model, path: str | Path) -> None:
    """The weights of an export into a model from `create_model` of the same architecture.

    Args:
        path: as for `from_pretrained`.

    Raises:
        UserError: nothing there, or the weights do not fit the model.
    """
    _load_state(model, model.arch, find_export(path))


def _load_state(model: Model, arch: str, folder: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{folder / WEIGHTS}: not readable ({error}); export it again") from None
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder / WEIGHTS}: does not fit {arch}: {reason}") from None


def find_export(path: str | Path) -> Path:
    """The folder that holds the config and the weights."""
    path = Path(path)
    if path.is_file():
        path = path.parent
    for folder in (path, *(path / name for name in RUN_EXPORTS)):
        if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file():
            return folder
    raise UserError(f"{path}: holds no {CONFIG} with {WEIGHTS}; give an export or a run folder")

"""Exports: folders with config.json (architecture and options) and model.safetensors."""

import json
from pathlib import Path
from typing import Any

from occvae.errors import UserError
from occvae.models.protocol import Model
from occvae.models.registry import create_model
from occvae.system.atomic_write import write_whole, write_whole_text

CONFIG, WEIGHTS = "config.json", "model.safetensors"
# Exports inside a run folder, in the order in which they are tried.
RUN_EXPORTS = ("best", "last")
# Exports up to commit f105938 have the names on the left for these options.
_RENAMED = {"backdrop": "background_gray", "normalisation": "normalization"}


def save_pretrained(model: Model, folder: str | Path, **metadata: Any) -> None:
    """Writes an export, which `from_pretrained` loads. Other safetensors readers can read it too.

    Args:
        model: A model from `create_model`.
        folder: Created if it does not exist. An export in it is replaced.
        **metadata: JSON values to store in config.json, for example the step of the training.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    # A model built from this export takes its weights from it, so it must not download others.
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
    """Loads an export: the model in eval mode, on the CPU.

    Args:
        path: An export folder, the model.safetensors in it, or a run folder. Of a run folder the
            export `best` is loaded, or `last` if there is no `best`.

    Returns:
        The model. Its `options` are those of the export.

    Raises:
        UserError: There is no export, its config.json is damaged, or the weights do not fit the
            architecture.

    Example:
        >>> import occvae
        >>> model = occvae.from_pretrained("runs/vitocc")  # doctest: +SKIP
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
    """Loads the weights of an export into a model of the same architecture and options.

    Args:
        model: A model from `create_model`; changed in place.
        path: As for `from_pretrained`.

    Raises:
        UserError: There is no export, or the weights do not fit the model.
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
    """Returns the folder with config.json and model.safetensors.

    Args:
        path: As for `from_pretrained`.

    Raises:
        UserError: There is no such folder.
    """
    path = Path(path)
    if path.is_file():
        path = path.parent
    for folder in (path, *(path / name for name in RUN_EXPORTS)):
        if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file():
            return folder
    raise UserError(f"{path}: holds no {CONFIG} with {WEIGHTS}; give an export or a run folder")

"""Exports: folders with config.json (architecture and options) and model.safetensors.

A model is named by a folder, as a built-in model of this package, or by its id on the Hugging Face
Hub. Weights are always read from safetensors files, which cannot run code.
"""

import json
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from occvae.errors import UserError
from occvae.models.hub import download_export, is_hub_id
from occvae.models.protocol import Model
from occvae.models.registry import create_model
from occvae.system.atomic_write import write_whole, write_whole_text

CONFIG, WEIGHTS = "config.json", "model.safetensors"
# Exports inside a run folder, in the order in which they are tried.
RUN_EXPORTS = ("best", "last")
# Exports up to commit f105938 have the names on the left for these options.
_RENAMED = {"backdrop": "background_gray", "normalisation": "normalization"}
# A model built from an export takes its weights from it, so it must not download or read others.
_SOURCES_OF_WEIGHTS = ("pretrained", "encoder_weights")
# The built-in model that is used if no other is given.
DEFAULT_MODEL = "vitocc-small"
# Built-in models, one export per folder. The folder's name is the model's name.
_BUILT_IN = Path(__file__).with_name("built_in")


def save_pretrained(
    model: Model, folder: str | Path, *, half: bool = False, **metadata: Any
) -> None:
    """Writes an export, which `from_pretrained` loads. Other safetensors readers can read it too.

    Args:
        model: A model from `create_model`.
        folder: Created if it does not exist. An export in it is replaced.
        half: Whether to store matrices and convolution kernels in fp16, which halves the file.
            `from_pretrained` converts them to fp32.
        **metadata: JSON values to store in config.json, for example the step of the training.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    options = {key: value for key, value in model.options.items() if key not in _SOURCES_OF_WEIGHTS}
    config = {"arch": model.arch, "options": options, **metadata}
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    if half:
        # Biases and statistics of norms stay in fp32, because they are small and lose the most.
        state = {key: value.half() if value.dim() >= 2 else value for key, value in state.items()}
    text = json.dumps(config, indent=1) + "\n"
    write_whole(folder / WEIGHTS, lambda path: save_file(state, path, metadata={"format": "pt"}))
    write_whole_text(folder / CONFIG, text)


def from_pretrained(path: str | Path = DEFAULT_MODEL) -> Model:
    """Loads a model in eval mode, on the CPU.

    Without an argument it loads a built-in model. That model was trained on the shapes of the
    embedded dataset, which has 12 categories, and knows no others.

    A path that exists is always meant as a path. The network is used only for a text `owner/name`
    for which no folder `owner` exists. What was downloaded is cached by huggingface_hub, and works
    without the network. With the environment variable `HF_HUB_OFFLINE=1` only the cache is used.

    Args:
        path: One of:

            - a run folder. Its export `best` is loaded, or `last` if there is no `best`;
            - an export folder, or the model.safetensors in it;
            - the name of a built-in model, see `list_pretrained`;
            - an id on the Hugging Face Hub, `owner/name`.

    Returns:
        The model. Its `options` are those of the export.

    Raises:
        UserError: There is no such model, it cannot be downloaded, its config.json is damaged, or
            the weights do not fit the architecture.

    Example:
        >>> import occvae
        >>> occvae.from_pretrained().arch
        'vitocc'
        >>> model = occvae.from_pretrained("runs/vitocc")  # doctest: +SKIP
    """
    folder = find_export(path)
    try:
        config = json.loads((folder / CONFIG).read_text())
        arch = config["arch"]
        options = {
            _RENAMED.get(name, name): value
            for name, value in config["options"].items()
            if name not in _SOURCES_OF_WEIGHTS
        }
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


def names_model(path: str) -> bool:
    """Whether a text names a run, an export or a built-in model, and not a file of weights."""
    return path in list_pretrained() or Path(path).is_dir()


def load_encoder(encoder: nn.Module, path: str | Path, without: tuple[str, ...] = ()) -> None:
    """Loads the weights of an export's encoder into an encoder of the same architecture.

    Args:
        encoder: Changed in place.
        path: As for `from_pretrained`.
        without: Prefixes of the names of tensors that are not loaded.

    Raises:
        UserError: There is no export, or its encoder has other layers.
    """
    folder = find_export(path)
    start = "encoder."
    state = {
        key.removeprefix(start): value
        for key, value in _read_state(folder).items()
        if key.startswith(start)
    }
    own = {key: value for key, value in encoder.state_dict().items() if key.startswith(without)}
    state = {key: value for key, value in state.items() if not key.startswith(without)} | own
    try:
        encoder.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(
            f"{folder / WEIGHTS}: does not fit this encoder ({_shortened(error)}); give the "
            "options of that model, or set encoder_weights to null"
        ) from None


def _load_state(model: Model, arch: str, folder: Path) -> None:
    try:
        model.load_state_dict(_read_state(folder))
    except RuntimeError as error:
        raise UserError(f"{folder / WEIGHTS}: does not fit {arch}: {_shortened(error)}") from None


def _read_state(folder: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{folder / WEIGHTS}: not readable ({error}); export it again") from None


def _shortened(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def list_pretrained() -> list[str]:
    """Returns the sorted names of the built-in models, which `from_pretrained` loads.

    Example:
        >>> import occvae
        >>> occvae.list_pretrained()
        ['vitocc-small']
    """
    return sorted(config.parent.name for config in _BUILT_IN.glob(f"*/{CONFIG}"))


def is_built_in(folder: Path) -> bool:
    """Whether the folder of an export belongs to a built-in model."""
    return folder.parent == _BUILT_IN


def find_export(path: str | Path) -> Path:
    """Returns the folder with config.json and model.safetensors, after a download if needed.

    Args:
        path: As for `from_pretrained`.

    Raises:
        UserError: There is no such model, or it cannot be downloaded.
    """
    local = Path(path)
    if local.exists():
        return _find_local(local)
    if str(path) in list_pretrained():
        return _BUILT_IN / str(path)
    # A folder `owner` makes a mistyped path more likely than an id.
    if isinstance(path, str) and is_hub_id(path) and not local.parent.exists():
        return download_export(path, (CONFIG, WEIGHTS))
    names = ", ".join(list_pretrained())
    raise UserError(
        f"{path}: no such run or export; give the folder of one, owner/name of the Hugging Face "
        f"Hub, or a built-in model ({names})"
    )


def _find_local(path: Path) -> Path:
    if path.is_file():
        path = path.parent
    for folder in (path, *(path / name for name in RUN_EXPORTS)):
        if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file():
            return folder
    raise UserError(f"{path}: holds no {CONFIG} with {WEIGHTS}; give an export or a run folder")

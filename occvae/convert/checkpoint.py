"""Reads checkpoints of other systems without running code in them, and maps their tensors."""

import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from occvae.errors import UserError
from occvae.models.protocol import Model

# Pairs of a pattern for a whole source name, and our name in `re` replacement syntax.
Rules = tuple[tuple[str, str], ...]

PREFIXES = ("", "module.")  # torch's DataParallel prefixes all names with "module."

_COUNTER = ".num_batches_tracked"
_LISTED = 10  # names per kind of problem in an error message
# The published training scripts save their best scores as numpy scalars. It is safe to rebuild
# them. The function for it has one module name in numpy 1 and another in numpy 2.
_REBUILD_SCALAR: Any = np.float64(0).__reduce__()[0]
_NUMPY_SCALARS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_REBUILD_SCALAR, "numpy.core.multiarray.scalar"),
    (_REBUILD_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool")),
]


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a dictionary that `torch.save` wrote.

    A file with other objects than tensors and plain values could run code while it is loaded, so
    such a file is rejected.

    Raises:
        UserError: The file is missing, damaged, not a dictionary, or contains other objects.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with torch.serialization.safe_globals(_NUMPY_SCALARS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old pickle protocols
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's message recommends weights_only=False
        raise UserError(f"{path}: {_reason(error)}") from None
    if not isinstance(checkpoint, dict):
        raise UserError(f"{path}: contains a {type(checkpoint).__name__} instead of named weights")
    return checkpoint


def _reason(error: Exception) -> str:
    if forbidden := re.search(r"GLOBAL (\w+(?:\.\w+)+)", str(error)):
        return f"not loaded, because it contains {forbidden[1]}, not only tensors and numbers"
    return f"not a readable checkpoint ({type(error).__name__}); is the download complete?"


def tensors_of(state: Mapping[Any, Any], what: str) -> dict[str, Tensor]:
    """Returns a state dict, without the prefix of DataParallel if every name has it.

    Args:
        state: Entry of a checkpoint.
        what: What the entry is, for error messages.

    Raises:
        UserError: The entry is not a dictionary of dense tensors.
    """
    if not isinstance(state, Mapping):
        raise UserError(f"{what} is a {type(state).__name__} instead of named tensors")
    strange = [str(name) for name, value in state.items() if not _is_dense(value)]
    if strange:
        raise UserError(f"{what} contains entries that are not dense tensors: {_names(strange)}")
    state = {str(name): value for name, value in state.items()}
    prefix = PREFIXES[all(name.startswith(PREFIXES[1]) for name in state)]
    return {name.removeprefix(prefix): value for name, value in state.items()}


def _is_dense(value: object) -> bool:
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
        return False
    # An expanded tensor has any size in a small file, and would fill the memory when copied.
    return value.untyped_storage().nbytes() >= value.numel() * value.element_size()


def holds_tensors(value: object) -> bool:
    """Whether a value is or contains a tensor, at any depth. Lists may contain themselves."""
    waiting, seen = [value], set()
    while waiting:
        entry = waiting.pop()
        if isinstance(entry, Tensor):
            return True
        if isinstance(entry, Mapping | list | tuple) and id(entry) not in seen:
            seen.add(id(entry))
            waiting.extend(entry.values() if isinstance(entry, Mapping) else entry)
    return False


def places(names: Iterable[str], rules: Rules) -> tuple[dict[str, str], list[str]]:
    """Maps source names to our names, each by the first rule that matches.

    Args:
        names: Names in the source.
        rules: See `Rules`.

    Returns:
        A dictionary {our name: source name}, and a list of the source names that are left over. If
        two source names map to one name of ours, the second is left over.
    """
    compiled = [(re.compile(pattern), name) for pattern, name in rules]
    placed, left_over = {}, []
    for foreign in names:
        matches = ((pattern.fullmatch(foreign), name) for pattern, name in compiled)
        ours = next((match.expand(name) for match, name in matches if match), None)
        if ours is None or ours in placed:
            left_over.append(foreign)
        else:
            placed[ours] = foreign
    return placed, left_over


def fit(build: Callable[[], Model], state: Mapping[str, Tensor], rules: Rules, what: str) -> Model:
    """Builds a model and loads every tensor of a source state dict into it.

    Trailing dimensions of size 1 may differ, because 1x1 convolutions there are linear layers here.
    Batch norm's `num_batches_tracked` may be missing, as in files from before torch 0.4.1.

    Args:
        build: Function that builds the model.
        state: Tensors by their source names.
        rules: See `Rules`.
        what: What the state dict is, for error messages.

    Returns:
        The model in training mode.

    Raises:
        UserError: A tensor is missing (listed by our name), or is left over, of another shape or
            not finite (listed by its source name).
    """
    with torch.device("meta"):  # the file gives the sizes: allocate only if they fit
        target = build().state_dict()
    placed, left_over = places(state, rules)
    common = placed.keys() & target.keys()
    alike = {name for name in common if _alike(state[placed[name]], target[name])}
    problems = {
        "missing": [name for name in target.keys() - common if not name.endswith(_COUNTER)],
        "left over": [*left_over, *(placed[name] for name in placed.keys() - common)],
        "of another shape": [
            f"{placed[name]} {_form(state[placed[name]])} for {_form(target[name])}"
            for name in common - alike
        ],
        "not finite": [placed[n] for n in alike if not torch.isfinite(state[placed[n]]).all()],
    }
    found = [f"{kind}: {_names(names)}" for kind, names in problems.items() if names]
    if found:
        raise UserError(f"{what} does not fit; {'; '.join(found)}")
    model = build()
    fitted = {name: state[placed[name]].reshape(target[name].shape) for name in common}
    model.load_state_dict(model.state_dict() | fitted)
    return model


def _alike(tensor: Tensor, wanted: Tensor) -> bool:
    same_kind = tensor.is_floating_point() == wanted.is_floating_point()
    return same_kind and _squeezed(tensor.shape) == _squeezed(wanted.shape)


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _squeezed(shape: torch.Size) -> tuple[int, ...]:
    sizes = list(shape)
    while sizes and sizes[-1] == 1:
        sizes.pop()
    return tuple(sizes)


def _names(names: list[str]) -> str:
    shown = ", ".join(sorted(names)[:_LISTED])
    more = len(names) - _LISTED
    return f"{shown} and {more} more" if more > 0 else shown

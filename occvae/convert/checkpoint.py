"""Foreign checkpoints: read without running what is in them, and fitted tensor by tensor."""

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

# (pattern of a whole foreign name, our name): `re` replacement syntax.
Rules = tuple[tuple[str, str], ...]

PREFIXES = ("", "module.")  # of names; the second is that of DataParallel

_COUNTER = ".num_batches_tracked"
_LISTED = 10  # names of each kind in an error
# Best scores were saved as numpy scalars. Rebuilding them runs no code of the file's choosing; the
# function that does bears the module's name of numpy 1 or of numpy 2.
_REBUILD_SCALAR: Any = np.float64(0).__reduce__()[0]
_NUMPY_SCALARS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_REBUILD_SCALAR, "numpy.core.multiarray.scalar"),
    (_REBUILD_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool")),
]


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The dictionary that torch.save wrote.

    Raises:
        UserError: no such file, not readable, no dictionary, or one that holds more than tensors
            and plain values: such a file could run code when loaded, and is not.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with torch.serialization.safe_globals(_NUMPY_SCALARS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols; what matters is an error
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's own text would advise to load it unsafely
        raise UserError(f"{path}: {_reason(error)}") from None
    if not isinstance(checkpoint, dict):
        raise UserError(f"{path}: holds a {type(checkpoint).__name__} instead of named weights")
    return checkpoint


def _reason(error: Exception) -> str:
    if forbidden := re.search(r"GLOBAL (\w+(?:\.\w+)+)", str(error)):
        return f"refused, for it holds {forbidden[1]}, which is neither a tensor nor a number"
    return f"not a readable checkpoint ({type(error).__name__}); is the download complete?"


def tensors_of(state: Mapping[Any, Any], what: str) -> dict[str, Tensor]:
    """A state dict without the prefix, if every name has it."""
    if not isinstance(state, Mapping):
        raise UserError(f"{what} is a {type(state).__name__} instead of named tensors")
    strange = [str(name) for name, value in state.items() if not _is_dense(value)]
    if strange:
        raise UserError(f"{what} holds other things than dense tensors: {_names(strange)}")
    state = {str(name): value for name, value in state.items()}
    prefix = PREFIXES[all(name.startswith(PREFIXES[1]) for name in state)]
    return {name.removeprefix(prefix): value for name, value in state.items()}


def _is_dense(value: object) -> bool:
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
        return False
    # A file of a few bytes can hold a tensor of any size that repeats one number.
    return value.untyped_storage().nbytes() >= value.numel() * value.element_size()


def holds_tensors(value: object) -> bool:
    """Whether there is a tensor in it, however deep; a file's lists may contain themselves."""
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
    """{our name: foreign name} by the first fitting rule, and the foreign names that are left over.

    Of two that would take the same place, the second is left over.
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
    """The model that `build` makes, with every tensor of a foreign state in its place.

    Trailing dimensions of size 1, as of convolutions over single points, may be there or not.
    Batch norm's counters of training steps may be missing, as in files from before torch 0.4.1.

    Raises:
        UserError: lists our names of what is missing, and the foreign ones of tensors that are left
            over, of another shape, or not finite.
    """
    with torch.device("meta"):  # sizes come from the file: nothing is allocated before they fit
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

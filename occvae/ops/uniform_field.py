"""UniformField: calls every form of field that a user may write in one way."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from occvae.ops.validation import check_callable

#: (points (N, 3)) or (points, shape_index (N,)) -> (N,) or (N, 1) floating values, with tensors
#: or NumPy arrays.
Field = Callable[..., Any]

_ARRAY_DTYPES = (np.float16, np.float32, np.float64)


class UniformField:
    """Calls a field as (points (N, 3), shape_index (N,)) -> (N,) floating values, all tensors.

    Whether the field gets `shape_index` is read from its signature, for a module from that of
    `forward`. It does if two parameters have no default, or if the second one is called
    `shape_index`. If the signature does not tell, as with `*args`, the first call tries both
    arguments and then the points alone.

    The first call passes tensors. If the field then raises TypeError, AttributeError or ValueError,
    or does not return usable values, the call is repeated with NumPy arrays. Later calls pass what
    worked.

    A field may change `points` in place. Changing `shape_index`, which is not copied, is an error.

    Args:
        field: see `occvae.extract_mesh`.
        inside: "positive" for fields with larger values inside. With "negative", values change
            their sign.

    Raises:
        TypeError: the field cannot be called with points, or with points and shape_index.
        ValueError: `inside` has another value. A call raises it if the field returned a wrong shape
            or device, or changed `shape_index`.
    """

    def __init__(self, field: Field, inside: str = "positive"):
        check_callable("field", field)
        if inside not in ("positive", "negative"):
            raise ValueError(f'inside must be "positive" or "negative"; got {inside!r}')
        self._field = field
        self._is_negated = inside == "negative"
        takes_shape = _takes_shape_index(field)
        options = (True, False) if takes_shape is None else (takes_shape,)
        # One form is left after the first call.
        self._forms = [
            _Form(with_shape, arrays) for arrays in (False, True) for with_shape in options
        ]
        # A scripted module of PyTorch raises RuntimeError for a wrong number of arguments.
        self._mismatches: tuple[type[Exception], ...] = (TypeError, AttributeError, ValueError)
        if takes_shape is None:
            self._mismatches += (RuntimeError,)

    def __call__(self, points: Tensor, shape_index: Tensor) -> Tensor:
        if shape_index.is_inference():  # has no version, which counts changes
            values = self._call(points, shape_index.clone())
        else:
            version = shape_index._version
            values = self._call(points, shape_index)
            if shape_index._version != version:
                raise ValueError(
                    "field must not change shape_index in place; change a clone() of it"
                )
        return values.neg() if self._is_negated else values

    def _call(self, points: Tensor, shape_index: Tensor) -> Tensor:
        if len(self._forms) > 1:
            return self._first_call(points, shape_index)
        return _to_values(self._forms[0].call(self._field, points, shape_index), points)

    def _first_call(self, points: Tensor, shape_index: Tensor) -> Tensor:
        """Finds the form of the field. Raises the first error if no form works."""
        failures: list[Exception] = []
        for form in self._forms:
            try:
                returned = form.call(self._field, points.clone(), shape_index)
            except self._mismatches as error:
                failures.append(error)
                continue
            try:
                values = _to_values(returned, points)
            except (TypeError, ValueError) as error:
                failures.append(error)
                continue
            self._forms = [form]
            return values
        first, *others = failures
        for form, other in zip(self._forms[1:], others, strict=True):
            if str(other) != str(first):
                first.add_note(f"called with {form}: {type(other).__name__}: {other}")
        raise first


def uniform_field(field: Field) -> UniformField:
    """Returns a `UniformField` as it is, and wraps any other field in one."""
    return field if isinstance(field, UniformField) else UniformField(field)


@dataclass(frozen=True)
class _Form:
    with_shape: bool
    arrays: bool

    def call(self, field: Field, points: Tensor, shape_index: Tensor) -> object:
        if self.arrays:
            shapes = [shape_index.cpu().numpy().copy()] if self.with_shape else []
            return field(points.detach().cpu().numpy(), *shapes)
        return field(points, shape_index) if self.with_shape else field(points)

    def __str__(self) -> str:
        names = "points and shape_index" if self.with_shape else "points alone"
        return f"{names} as {'NumPy arrays' if self.arrays else 'tensors'}"


def _takes_shape_index(field: Field) -> bool | None:
    """Whether the field takes points and shape_index, or points alone. None if unknown."""
    try:
        target = field.forward if isinstance(field, torch.nn.Module) else field
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return None
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    positional = [parameter for parameter in parameters if parameter.kind in by_position]
    required = [parameter for parameter in positional if parameter.default is parameter.empty]
    takes_any = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters)
    if len(required) > 2 or not (positional or takes_any):
        raise TypeError(
            "field must take one argument, points, or two, points and shape_index; "
            f"its parameters are ({', '.join(map(str, parameters))})"
        )
    if len(required) == 2 or (len(positional) > 1 and positional[1].name == "shape_index"):
        return True
    return None if takes_any else False


def _to_values(returned: object, points: Tensor) -> Tensor:
    """Values (N,) on the device of the points from what a field returned."""
    if isinstance(returned, np.ndarray):
        returned = _from_array(returned).to(points.device)
    if not isinstance(returned, Tensor):
        raise TypeError(
            f"field must return a tensor or a NumPy array; got {type(returned).__name__}"
        )
    if not returned.is_floating_point():
        raise TypeError(f"field must return floating values; got {returned.dtype}")
    count = len(points)
    if returned.shape not in ((count,), (count, 1)):
        got = tuple(returned.shape)
        raise ValueError(f"field must return shape ({count},) or ({count}, 1); got {got}")
    if returned.device != points.device:
        raise ValueError(f"field must return values on {points.device}; got {returned.device}")
    return returned.reshape(count)


def _from_array(array: np.ndarray[Any, Any]) -> Tensor:
    dtype = array.dtype.newbyteorder("=")
    if dtype not in _ARRAY_DTYPES:
        raise TypeError(f"field must return float16, float32 or float64; got {array.dtype}")
    return torch.from_numpy(np.array(array, dtype=dtype, order="C"))

"""Example of a new op. Without kernels it is two files, with kernels five files and one line.

An op `count_inside` with kernels consists of:

    occvae/ops/count_inside.py      wrapper, reference, fake and `_extension.declare`, as below
    csrc/count_inside.h             code that both kernels share
    csrc/cpu/count_inside.cpp       CPU kernel
    csrc/cuda/count_inside.cu       CUDA kernel
    csrc/bindings.cpp               one line: the schema
    tests/ops/test_count_inside.py  tests

The build finds sources by their folder. An op without kernels needs only the first and last file.
"""

import pytest
import torch
from torch import Tensor

from occvae.ops import _extension


def count_inside(values: Tensor, level: float = 0.0, *, backend: str = "auto") -> Tensor:
    """Number (B,) int64 of values (B, ...) that are at least `level`."""
    native = _extension.use_native("count_inside", values.device, backend)
    count = _op if native else _reference
    return count(values, level)


def _reference(values: Tensor, level: float) -> Tensor:
    return (values >= level).flatten(1).sum(1)


def _fake(values: Tensor, level: float) -> Tensor:
    return values.new_empty(values.shape[:1], dtype=torch.int64)


_op = _extension.declare("count_inside(Tensor values, float level) -> Tensor", _reference, _fake)


@pytest.fixture
def values() -> Tensor:
    return torch.tensor([[[0.5, -1.0], [0.25, 2.0]], [[-1.0, -1.0], [-1.0, 0.25]]])


def test_a_new_op_has_a_reference_and_a_fake(values):
    assert torch.ops.occvae.count_inside(values, 0.25).tolist() == [3, 1]
    results = torch.library.opcheck(_op, (values, 0.25))
    assert set(results.values()) == {"SUCCESS"}


def test_auto_runs_the_reference_and_warns_without_a_kernel(values, monkeypatch):
    monkeypatch.setattr(_extension, "_warned", set())
    with pytest.warns(UserWarning, match="count_inside runs its slow PyTorch reference on cpu"):
        assert count_inside(values, 0.25).tolist() == [3, 1]
    assert count_inside(values, 0.25, backend="reference").tolist() == [3, 1]
    with pytest.raises(RuntimeError, match="count_inside has no cpu kernel"):
        count_inside(values, backend="native")


def test_a_new_op_compiles_to_one_graph(values):
    compiled = torch.compile(count_inside, fullgraph=True, backend="eager")
    assert compiled(values, 0.25).tolist() == [3, 1]
    as_op = torch.compile(lambda x: _op(x, 0.25) + 1, fullgraph=True, backend="eager")
    assert as_op(values).tolist() == [4, 2]


def test_a_second_schema_is_refused():
    with pytest.raises(ImportError, match="built from other sources"):
        _extension.declare("count_inside(Tensor values) -> Tensor", _reference, _fake)

"""Tests of the package with kernels, without kernels, and with kernels of another version."""

import pytest
import torch

from occvae.cli import info
from occvae.ops import _extension
from occvae.ops.voxel_iou import voxel_iou_counts
from tests.conftest import DEVICES, needs_kernels
from tests.fresh_process import run_fresh

OP = voxel_iou_counts.__name__  # the import above declares the op of that name


def run_without_kernels(code: str) -> str:
    """Runs code in a Python process without kernel modules, and returns its output."""
    return run_fresh(code, OCCVAE_DISABLE_EXT="1")


def test_ops_run_without_kernels_and_warn_once():
    output = run_without_kernels(
        "import torch\n"
        "from occvae.ops.voxel_iou import voxel_iou\n"
        "pred, target = torch.tensor([[0.9, 0.6, 0.2]]), torch.tensor([[True, False, False]])\n"
        "for _ in range(2): print(voxel_iou(pred, target, (0.5, 0.8)).tolist())\n"
        "print(torch.ops.occvae.voxel_iou_counts(pred, target, [0.5]).tolist())\n"
        "print(torch.compile(voxel_iou, fullgraph=True, backend='eager')(pred, target).tolist())\n"
        "op = torch.ops.occvae.voxel_iou_counts.default\n"
        "print(set(torch.library.opcheck(op, (pred, target, [0.5])).values()))\n"
    )
    assert output.count("[[0.5, 1.0]]") == 2 and "[[[1, 2]]]" in output and "[[0.5]]" in output
    assert "{'SUCCESS'}" in output
    assert output.count("runs its slow PyTorch reference on cpu") == 1


def test_native_without_kernels_reports_the_reason():
    output = run_without_kernels(
        "import torch\n"
        "from occvae.ops.voxel_iou import voxel_iou\n"
        "try: voxel_iou(torch.ones(1, 8), torch.ones(1, 8), backend='native')\n"
        "except RuntimeError as error: print(error)\n"
    )
    assert "has no cpu kernel: occvae._C is switched off by OCCVAE_DISABLE_EXT=1" in output


def test_meshes_are_extracted_without_kernels():
    output = run_without_kernels(
        "import occvae\n"
        "ball = lambda points, shape: 0.4 - points.norm(dim=1)\n"
        "print(occvae.extract_mesh(ball, resolution=32)[0].is_watertight)\n"
        "try: occvae.mise(ball, resolution=32, backend='native')\n"
        "except RuntimeError as error: print(error)\n"
    )
    assert "True" in output and "mise_mark has no cpu kernel: occvae._C is switched off" in output
    for op in ("mise_mark", "marching_cubes"):
        assert output.count(f"{op} runs its slow PyTorch reference on cpu") == 1


def test_python_and_binary_have_the_same_schemas():
    """Without kernels Python defines the schemas. With kernels the binary does."""
    code = (
        "import torch, occvae.ops.voxel_iou\n"
        "print(torch.ops.occvae.voxel_iou_counts.default._schema)\n"
    )
    schema = torch.ops.occvae.voxel_iou_counts.default._schema
    assert str(schema) in run_without_kernels(code)


@needs_kernels
def test_a_binary_with_another_schema_is_refused():
    with pytest.raises(ImportError, match="built from other sources.*build them again"):
        _extension.declare("voxel_iou_counts(Tensor pred) -> Tensor", lambda: None, lambda: None)


@needs_kernels
def test_the_isa_limit_is_restored_and_never_above_the_machine():
    before = _extension.cpu_isa()
    for name in _extension.ISA_NAMES:
        with _extension.limit_cpu_isa(name):
            expected = min(name, before, key=_extension.ISA_NAMES.index)
            assert _extension.cpu_isa() == expected
    assert _extension.cpu_isa() == before


@pytest.mark.parametrize("device", DEVICES)
def test_use_native_follows_backend_and_kernels(device):
    device = torch.device(device)
    assert not _extension.use_native(OP, device, "reference")
    if _extension.status()[{"cpu": "_C", "cuda": "_C_cuda"}[device.type]] is None:
        assert _extension.use_native(OP, device, "native")


def test_auto_warns_once_on_a_device_without_kernels(monkeypatch, recwarn):
    monkeypatch.setattr(_extension, "_warned", set())
    for _ in range(2):
        assert not _extension.use_native(OP, torch.device("meta"), "auto")
    assert [str(w.message) for w in recwarn] == [
        "voxel_iou_counts runs its slow PyTorch reference on meta: "
        "kernels exist for cpu and cuda only"
    ]


def test_describe_names_versions_and_kernels():
    text = info.describe(info.inspect_installation())
    assert text.isascii() and torch.__version__ in text
    for name in ("occvae", "deepspeed", "cpu kernels", "cuda kernels", "gpu"):
        assert any(line.startswith(name) for line in text.splitlines())


def test_describe_without_kernels_tells_what_to_do():
    output = run_without_kernels(
        "import sys\n"
        "from occvae.cli import info\n"
        "print(info.describe(info.inspect_installation()))\n"
        "print('heavy', sorted({'timm', 'deepspeed', 'torchvision'} & set(sys.modules)))\n"
    )
    assert output.count("switched off by OCCVAE_DISABLE_EXT=1") == 2
    assert "Unset that variable" in output

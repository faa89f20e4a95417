"""Tests of voxel_iou against a NumPy oracle that counts in float64 and Python integers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from occvae.ops import _extension
from occvae.ops.voxel_iou import iou_from_counts, voxel_iou, voxel_iou_counts
from tests.builders import pack_bits, random_grids
from tests.conftest import DEVICES

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)
HAVE_KERNELS = _extension.status()["_C"] is None
BACKENDS = ("native", "reference") if HAVE_KERNELS else ("reference",)
needs_kernels = pytest.mark.skipif(not HAVE_KERNELS, reason="occvae._C is not built")


def oracle_counts(pred, target, thresholds):
    """Counts by definition, with thresholds rounded to pred's dtype and all else in float64."""
    batch = pred.shape[0]
    values = pred.detach().double().cpu().numpy().reshape(batch, -1)
    inside = target.double().cpu().numpy().reshape(batch, -1) >= 0.5
    counts = np.zeros((batch, len(thresholds), 2), dtype=object)
    for k, threshold in enumerate(thresholds):
        hits = values >= torch.tensor(threshold, dtype=pred.dtype).double().item()
        for b in range(batch):
            counts[b, k] = int(np.sum(hits[b] & inside[b])), int(np.sum(hits[b] | inside[b]))
    return torch.from_numpy(counts.astype(np.int64))


def assert_counts(pred, target, thresholds=THRESHOLDS, *, expected=None, **options):
    if expected is None:
        expected = oracle_counts(pred, target, thresholds)
    counts = voxel_iou_counts(pred, target, thresholds, **options)
    assert counts.dtype == torch.int64 and counts.device == pred.device
    torch.testing.assert_close(counts.cpu(), expected, rtol=0, atol=0)


# name, prediction, target, thresholds, expected IoU
CASES = [
    ("both empty", [0, 0, 0, 0], [0, 0, 0, 0], [0.5], [1.0]),
    ("full and empty", [1, 1, 1, 1], [0, 0, 0, 0], [0.5], [0.0]),
    ("empty and full", [0, 0, 0, 0], [1, 1, 1, 1], [0.5], [0.0]),
    ("equal", [1, 0, 1, 0], [1, 0, 1, 0], [0.5], [1.0]),
    ("half overlap", [1, 1, 1, 0], [0, 1, 1, 1], [0.5], [0.5]),
    ("ties are occupied", [0.5, 0.5, 0.4, 0], [1, 1, 0, 0], [0.5], [1.0]),
    ("a float32 tie above a double", [0.7, 0.1, 0, 0], [1, 1, 0, 0], [0.7, 0.1], [0.5, 1.0]),
    ("thresholds in any order", [0.9, 0.6, 0.2, 0], [1, 0, 0, 0], [0.8, 0.1, 0.5], [1, 1 / 3, 0.5]),
    ("logits", [-3, -1, 0, 2], [0, 0, 1, 1], [0.0, -2.0], [1.0, 2 / 3]),
    ("NaN is never occupied", [math.nan, 1, 1, 0], [1, 1, 0, 0], [0.5, -9.0], [1 / 3, 1 / 4]),
    ("infinities", [math.inf, -math.inf, 0, 0], [1, 1, 0, 0], [0.5], [0.5]),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("pred, target, thresholds, expected", [c[1:] for c in CASES],
                         ids=[c[0] for c in CASES])  # fmt: skip
def test_known_cases_have_their_iou(device, backend, pred, target, thresholds, expected):
    pred = torch.tensor([pred], dtype=torch.float32, device=device)
    target = torch.tensor([target], dtype=torch.bool, device=device)
    iou = voxel_iou(pred, target, thresholds, backend=backend)
    assert iou.dtype == torch.float64 and iou.device == pred.device
    torch.testing.assert_close(iou.cpu(), torch.tensor([expected], dtype=torch.float64))


@pytest.mark.parametrize("number", [np.float32, np.float64, np.array, torch.tensor])
def test_a_threshold_may_be_a_scalar_of_numpy_or_a_tensor(number):
    pred, target = random_grids(3, (7,), dtype=torch.float32)
    expected = voxel_iou(pred, target, 0.25)
    assert torch.equal(voxel_iou(pred, target, number(0.25)), expected)
    assert torch.equal(voxel_iou(pred, target, [number(0.25)]), expected)


def test_an_empty_union_has_the_value_of_empty():
    pred, target = torch.zeros(2, 8), torch.zeros(2, 8, dtype=torch.bool)
    target[1, 3] = True
    assert voxel_iou(pred, target, empty=0.25).tolist() == [[0.25], [0.0]]
    assert math.isnan(voxel_iou(pred, target, empty=math.nan)[0, 0])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(1,), (7,), (8,), (63,), (64,), (65,), (5, 7, 11), (33, 32, 32)])
def test_all_sizes_and_dtypes_are_exact(device, backend, dtype, shape):
    pred, target = random_grids(3, shape, dtype=dtype)
    pred, target = pred.to(device), target.to(device)
    assert_counts(pred, target, backend=backend)
    assert_counts(pred, pack_bits(target), expected=oracle_counts(pred, target, THRESHOLDS),
                  packed=True, backend=backend)  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.int64, *FLOATS])
def test_targets_may_be_numbers(device, backend, dtype):
    pred, target = random_grids(2, (9, 9, 9))
    numbers = target.to(dtype)
    if dtype.is_floating_point:
        numbers = torch.where(target, 0.5, 0.49).to(dtype)
        numbers[0, 0, 0, 0] = math.nan
    else:
        numbers[1] *= 2
    assert_counts(pred.to(device), numbers.to(device), backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("count", [*range(1, 10), 17, 40])
def test_any_number_of_thresholds_is_exact(device, backend, count):
    pred, target = random_grids(2, (10, 10, 10))
    thresholds = torch.linspace(0, 1, count).tolist()
    assert_counts(pred.to(device), target.to(device), thresholds, backend=backend)


@pytest.mark.parametrize("device", DEVICES)
def test_one_threshold_may_be_a_number(device):
    pred, target = (x.to(device) for x in random_grids(2, (4, 4)))
    assert torch.equal(voxel_iou(pred, target, 0.3), voxel_iou(pred, target, (0.3,)))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("device", DEVICES)
def test_tensors_need_not_be_contiguous(device, backend):
    pred, target = (x.to(device) for x in random_grids(4, (6, 8, 10)))
    pred, target = pred.transpose(1, 3)[::2], target.transpose(1, 3)[::2]
    assert not pred.is_contiguous()
    assert_counts(pred, target, backend=backend)
    packed = pack_bits(target).repeat(1, 2)[:, : -(-pred[0].numel() // 8)]
    assert not packed.is_contiguous()
    expected = oracle_counts(pred, target, THRESHOLDS)
    assert_counts(pred, packed, expected=expected, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("offset", [1, 2, 3])
def test_addresses_need_not_be_aligned(device, backend, offset):
    pred, target = (x.to(device) for x in random_grids(1, (offset + 4096,)))
    pred, target = pred[0, offset:].view(2, 2048), target[0, offset:].view(2, 2048)
    assert_counts(pred, target, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("device", DEVICES)
def test_padding_bits_of_a_packed_target_are_ignored(device, backend):
    pred, target = random_grids(3, (4, 5, 3))  # 60 voxels: 4 bits of padding
    packed = pack_bits(target)
    packed[:, -1] |= 0x0F
    expected = oracle_counts(pred, target, THRESHOLDS)
    assert_counts(pred.to(device), packed.to(device), expected=expected, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(0, 4, 4), (2, 0), (0, 0)])
def test_grids_without_samples_or_voxels_are_allowed(device, backend, shape):
    pred = torch.zeros(shape, device=device)
    iou = voxel_iou(pred, pred.bool(), (0.3, 0.5), backend=backend)
    assert iou.tolist() == [[1.0, 1.0]] * shape[0]


@pytest.mark.parametrize("device", DEVICES)
def test_counts_above_two_to_the_24_are_exact(device):
    """Sums in float32, which are common for this metric, lose voxels here."""
    pred = torch.ones(1, 300, 300, 300, dtype=torch.float16, device=device)
    target = torch.ones(1, 300**3, dtype=torch.bool, device=device).view(pred.shape)
    target[0, 0, 0, 0] = False
    assert voxel_iou_counts(pred, target).tolist() == [[[300**3 - 1, 300**3]]]


@pytest.mark.parametrize("device", DEVICES)
def test_many_samples_are_exact(device):
    pred, target = (x.to(device) for x in random_grids(70_000, (8,)))
    assert_counts(pred, target, (0.5,))


@needs_kernels
@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 3),
    voxels=st.integers(1, 300),
    dtype=st.sampled_from(FLOATS),
    levels=st.lists(st.floats(-2, 2), min_size=1, max_size=10),
    isa=st.sampled_from(_extension.ISA_NAMES),
    seed=st.integers(0, 2**16),
)
def test_kernel_agrees_with_oracle_and_reference(batch, voxels, dtype, levels, isa, seed):
    generator = torch.Generator().manual_seed(seed)
    # Few distinct values, the thresholds among them, so that ties happen.
    pool = torch.tensor([*levels, -math.inf, math.inf, math.nan, 0.0, 0.5], dtype=dtype)
    pred = pool[torch.randint(len(pool), (batch, voxels), generator=generator)]
    target = torch.rand(batch, voxels, generator=generator) < 0.5
    with _extension.limit_cpu_isa(isa):
        assert_counts(pred, target, levels, backend="native")
        native = voxel_iou_counts(pred, target, levels, backend="native")
    assert torch.equal(native, voxel_iou_counts(pred, target, levels, backend="reference"))


@needs_kernels
@pytest.mark.parametrize("isa", _extension.ISA_NAMES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_every_instruction_set_is_exact(isa, dtype):
    pred, target = random_grids(2, (41, 40, 43), dtype=dtype)
    expected = oracle_counts(pred, target, THRESHOLDS)
    with _extension.limit_cpu_isa(isa):
        for given_as in (target, target.to(dtype), target.byte(), pack_bits(target)):
            assert_counts(pred, given_as, expected=expected, backend="native")


@needs_kernels
@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_any_number_of_threads_gives_the_same_result(threads):
    pred, target = random_grids(3, (70, 64, 61))
    expected = oracle_counts(pred, target, THRESHOLDS)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_counts(pred, target, expected=expected, backend="native")
    finally:
        torch.set_num_threads(before)


def test_counts_add_up_across_batches():
    pred, target = random_grids(4, (6, 6, 6))
    parts = [voxel_iou_counts(pred[i : i + 1], target[i : i + 1]) for i in range(4)]
    total = torch.cat(parts).sum(0)
    whole = voxel_iou(pred.reshape(1, -1), target.reshape(1, -1))
    assert torch.equal(iou_from_counts(total), whole[0])


def test_inputs_may_require_grad_but_results_do_not():
    pred, target = random_grids(2, (5, 5))
    assert not voxel_iou(pred.requires_grad_(), target).requires_grad


ERRORS = [
    ("pred is no tensor", TypeError, "pred must be a torch.Tensor; got list", {"pred": [[1.0]]}),
    ("integer pred", TypeError, "pred must be one of .*; got torch.int64",
     {"pred": torch.ones(2, 8, dtype=torch.int64)}),
    ("complex target", TypeError, "target must be one of .*; got torch.complex64",
     {"target": torch.ones(2, 8, dtype=torch.complex64)}),
    ("no batch", ValueError, r"two or more axes; got \(8,\)", {"pred": torch.ones(8)}),
    ("other shape", ValueError, r"pred's shape \(2, 8\).*got torch.bool of shape \(2, 9\)",
     {"target": torch.ones(2, 9, dtype=torch.bool)}),
    ("packed, other width", ValueError, r"uint8 of shape \(2, 1\); got .* \(2, 2\)",
     {"target": torch.ones(2, 2, dtype=torch.uint8), "packed": True}),
    ("packed, other dtype", ValueError, "packed target must be uint8",
     {"target": torch.ones(2, 1, dtype=torch.int32), "packed": True}),
    ("ambiguous", ValueError, "may be packed bits or numbers; pass packed=",
     {"pred": torch.ones(2, 1), "target": torch.ones(2, 1, dtype=torch.uint8)}),
    ("NaN threshold", ValueError, r"finite numbers; got \[nan\]", {"thresholds": [math.nan]}),
    ("infinite threshold", ValueError, "finite numbers", {"thresholds": (0.5, math.inf)}),
    ("no threshold", ValueError, r"one or more finite numbers; got \[\]", {"thresholds": ()}),
    ("backend", ValueError, "auto, native, reference; got 'cuda'", {"backend": "cuda"}),
    ("device", ValueError, "pred is on cpu but target on meta",
     {"target": torch.ones(2, 8, device="meta")}),
]  # fmt: skip


@pytest.mark.parametrize("error, message, change", [e[1:] for e in ERRORS],
                         ids=[e[0] for e in ERRORS])  # fmt: skip
def test_errors_say_what_was_expected_and_given(error, message, change):
    arguments = {"pred": torch.ones(2, 8), "target": torch.ones(2, 8, dtype=torch.bool)} | change
    with pytest.raises(error, match=message):
        voxel_iou(**arguments)


def test_grids_of_one_voxel_need_packed():
    pred, target = torch.ones(1, 1), torch.tensor([[1]], dtype=torch.uint8)  # bit 7 is voxel 0
    assert voxel_iou(pred, target, packed=False).item() == 1.0
    assert voxel_iou(pred, target, packed=True).item() == 0.0


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["bool", "packed", "requires_grad", "half"])
def test_opcheck(device, kind):
    pred, target = (x.to(device) for x in random_grids(2, (5, 6, 7)))
    pred = pred.half() if kind == "half" else pred.requires_grad_(kind == "requires_grad")
    target = pack_bits(target) if kind == "packed" else target
    op = torch.ops.occvae.voxel_iou_counts.default
    torch.library.opcheck(op, (pred, target, [0.3, 0.625], kind == "packed"))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles_as_one_graph(device, backend):
    pred, target = (x.to(device) for x in random_grids(2, (5, 6, 7)))
    compiled = torch.compile(voxel_iou, fullgraph=True, backend=backend)
    for given_as in (target, pack_bits(target)):
        iou = compiled(pred, given_as, THRESHOLDS)
        torch.testing.assert_close(iou, voxel_iou(pred, target, THRESHOLDS), rtol=0, atol=0)


def test_meta_tensors_give_the_shape_of_the_result():
    pred = torch.empty(3, 4, 4, device="meta")
    counts = torch.ops.occvae.voxel_iou_counts(pred, pred.bool(), [0.1, 0.2])
    assert counts.shape == (3, 2, 2) and counts.dtype == torch.int64

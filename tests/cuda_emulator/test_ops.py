"""Runs the tests of the ops on the CUDA sources, compiled for the CPU by tests/cuda_emulator."""

import os
import subprocess
import sys

import pytest

from tests.conftest import EMULATED_CUDA
from tests.cuda_emulator import build

# Test files of the ops, by the CUDA source that they run.
TESTS = {
    "voxel_iou": ["tests/ops/test_voxel_iou.py"],
    "mise": ["tests/ops/test_mise_native.py"],
    "marching_cubes": [
        "tests/ops/test_marching_cubes_native.py",
        "tests/ops/test_devices_agree.py",
    ],
    "query_occupancy": ["tests/ops/test_query_occupancy_cuda.py"],
    "query_triplane": [
        "tests/ops/test_query_triplane.py",
        "tests/ops/test_triplane_invariance.py",
    ],
    "inside_mesh": ["tests/ops/test_inside_mesh.py"],
    "winding_number": ["tests/ops/test_inside_mesh.py"],
}
# The emulator runs those tests of test_inside_mesh.py that call a kernel, except slow ones.
# winding_sign has no CUDA kernel.
KERNEL_TESTS = "(native or kernel or opcheck or ops_refuse)"
SLOW_TESTS = "(analytic or order_of_faces or large_faces or 30000 or winding_sign)"
INSIDE_MESH = f"(not test_inside_mesh.py or ({KERNEL_TESTS} and not {SLOW_TESTS}))"
# All instruction sets of a CPU run the same emulated kernel of query_triplane.
SELECTION = f"{INSIDE_MESH} and not (triplane and (portable or avx2 or avx512-))"

# `make test` runs one small test per CUDA source, and one per kernel of query_occupancy.
SMALL_TESTS = {
    "voxel_iou": [
        "test_known_cases_have_their_iou",
        "test_addresses_need_not_be_aligned[2-cpu-native]",
    ],
    "mise": ["test_kernels_equal_the_reference_on_batches_of_random_signs[8]"],
    "marching_cubes": ["test_meshes_of_random_signs_are_watertight[1]"],
    "query_occupancy": [
        "test_logits_agree_with_float64[fma-fp32-128-cpu]",
        "test_logits_agree_with_float64[mma-fp16-128-cpu]",
        "test_logits_agree_with_float64[wgmma-fp16-256-cpu]",
        "test_logits_agree_with_float64[wgmma-deep-fp16-256-cpu]",
        "test_logits_agree_with_float64[wgmma-pairs-fp16-256-cpu]",
    ],
    "query_triplane": [
        "test_logits_are_accurate_for_all_widths_depths_and_precisions[avx512_bf16-cpu-64-1-bf16]",
        "test_points_beyond_the_range_of_fp16_are_computed_in_fp32[avx512_bf16-cpu]",
    ],
    "inside_mesh": ["test_duplicate_faces_cancel_and_nested_shells_alternate[native-cpu]"],
    "winding_number": ["test_winding_numbers_of_closed_meshes_are_integers[dtype0-native-cpu]"],
}

pytestmark = [
    pytest.mark.skipif(build.compiler() is None, reason="no g++"),
    pytest.mark.skipif(EMULATED_CUDA, reason="would run itself"),
]


def run_emulated(*arguments: str) -> None:
    """Runs tests in one process with AddressSanitizer and asserts that they pass."""
    environment = os.environ | build.with_address_sanitizer()
    environment |= {"OCCVAE_TEST_EMULATED_CUDA": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--capture=sys"]
        + list(arguments),
        cwd=build.ROOT,
        env=environment | {"PYTHONPATH": str(build.ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
    assert " passed" in done.stdout


def test_every_source_has_tests():
    sources = {path.stem for path in (build.ROOT / "csrc/cuda").glob("*.cu")}
    parts = ("query_occupancy_", "query_triplane_")  # of one op
    own = {source for source in sources if not source.startswith(parts)}
    assert own == TESTS.keys() == SMALL_TESTS.keys()


def test_a_small_test_of_each_source_on_emulated_cuda():
    small = [
        f"{TESTS[source][0]}::{name}" for source, names in SMALL_TESTS.items() for name in names
    ]
    run_emulated(*small)


@pytest.mark.slow
def test_ops_on_emulated_cuda():
    files = dict.fromkeys(file for files in TESTS.values() for file in files)
    run_emulated(*files, "-k", SELECTION)

"""The tests of the ops on the CUDA sources, which tests/cuda_emulator runs on the CPU."""

import os
import subprocess
import sys

import pytest

from tests.conftest import EMULATED_CUDA
from tests.cuda_emulator import build

# Of test_inside_mesh: what runs a kernel, but for the tests that take minutes on an emulator.
KERNEL_TESTS = "(native or kernel or opcheck or themselves)"
SLOW_TESTS = "(analytic or order_of_faces or large_faces or 30000)"

# Tests of ops, by the CUDA source that they run, and which of them (-k).
TESTS = {
    "voxel_iou": ("tests/ops/test_voxel_iou.py", ""),
    "mise": ("tests/ops/test_mise_native.py", ""),
    "marching_cubes": (
        "tests/ops/test_marching_cubes_native.py tests/ops/test_devices_agree.py",
        "",
    ),
    "query_occupancy": ("tests/ops/test_query_occupancy_cuda.py", ""),
    "inside_mesh": (
        "tests/ops/test_inside_mesh.py",
        f"{KERNEL_TESTS} and not {SLOW_TESTS} and not winding",
    ),
    "winding_number": ("tests/ops/test_inside_mesh.py", f"{KERNEL_TESTS} and winding"),
}

pytestmark = [
    pytest.mark.skipif(build.compiler() is None, reason="no g++"),
    pytest.mark.skipif(EMULATED_CUDA, reason="would run itself"),
]


@pytest.mark.slow
@pytest.mark.parametrize("source", TESTS)
def test_ops_on_emulated_cuda(source):
    assert (build.ROOT / f"csrc/cuda/{source}.cu").exists()
    files, selection = TESTS[source]
    environment = os.environ | build.with_address_sanitizer()
    environment |= {"OCCVAE_TEST_EMULATED_CUDA": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--capture=sys"]
        + [*files.split(), "-k", selection],
        cwd=build.ROOT,
        env=environment | {"PYTHONPATH": str(build.ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
    assert " passed" in done.stdout

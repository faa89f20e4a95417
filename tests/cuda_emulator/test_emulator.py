"""The emulator catches mistakes in kernels that fail only sometimes on a GPU.

Each test runs a kernel of kernels.cu with a deliberate mistake, under several seeds.
"""

import os
import shutil
import subprocess
import sys

import pytest
import torch

from tests.cuda_emulator import build, library
from tests.cuda_emulator.test_ptx import randn, run_wgmma

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="no g++")
SEEDS = range(10)


@pytest.fixture(scope="module")
def kernels():
    return library.emulated_kernels()


def caught(kernels, run) -> int:
    """Number of seeds for which run() raises or returns False."""
    count = 0
    for seed in SEEDS:
        kernels.seed(seed)
        try:
            count += not run()
        except RuntimeError:
            count += 1
    return count


def reverse(kernels, mistake: int) -> bool:
    values = torch.arange(4 * 256, dtype=torch.int32)
    out = torch.zeros_like(values)
    kernels.run("reverse", 4, values, out, mistake)
    return torch.equal(out.view(4, 256), values.view(4, 256).flip(1))


def test_a_missing_barrier_is_caught(kernels):
    assert caught(kernels, lambda: reverse(kernels, 0)) == 0
    assert caught(kernels, lambda: reverse(kernels, 1)) == len(SEEDS)


def stream(kernels, name: str, mistake: int) -> bool:
    values = randn(kernels, 9 * 256)
    out = torch.zeros_like(values)
    kernels.run(name, 9, values, out, mistake)
    return torch.equal(out, values)


@pytest.mark.parametrize("name", ["stream_copies", "stream_bulk"])
@pytest.mark.parametrize("mistake", [1, 2], ids=["no wait for data", "no wait for readers"])
def test_copies_without_a_wait_are_caught(kernels, name, mistake):
    assert caught(kernels, lambda: stream(kernels, name, mistake)) == len(SEEDS)


CLUSTER_MISTAKES = ["no wait for data", "no wait for readers of the other block", "early end"]


@pytest.mark.parametrize("mistake", range(1, 4), ids=CLUSTER_MISTAKES)
def test_mistakes_in_a_cluster_are_caught(kernels, mistake):
    values = randn(kernels, 9 * 256)

    def run() -> bool:
        out = torch.zeros(2, 9 * 256)
        kernels.run("stream_to_cluster", 9, values, out, mistake)
        return torch.equal(out, values.expand(2, -1))

    found = caught(kernels, run)
    # A block that ends early fails only if the other one has not arrived at its barriers before.
    assert found > 0 if mistake == 3 else found == len(SEEDS)


def test_a_slot_that_is_not_released_is_caught(kernels):
    def run() -> bool:
        out = torch.zeros(20 * 64, dtype=torch.int32)
        kernels.run("hand_over", 20, out, 1)
        return torch.equal(out, torch.arange(20 * 64, dtype=torch.int32))

    assert caught(kernels, run) == len(SEEDS)


WGMMA_MISTAKES = ["no proxy fence", "wrong swizzle", "no wait", "no fence", "overwritten operand",
                  "shifted descriptor"]  # fmt: skip


@pytest.mark.parametrize("mistake", range(1, 7), ids=WGMMA_MISTAKES)
def test_wgmma_mistakes_are_caught(kernels, mistake):
    found = caught(kernels, lambda: run_wgmma(kernels, torch.float16, 128, mistake) < 1e-4)
    late = mistake == 5  # visible only if the product runs late, which is random
    assert 0 < found < len(SEEDS) if late else found == len(SEEDS)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (0, "the warp has diverged: lane .* is in __(shfl|ballot)_sync with mask ffffffff"),
        (1, "deadlock; 32 threads .* wait at __syncthreads; 32 threads .* wait at mbarrier_wait"),
        (2, "a write past the end of the dynamic shared memory, 1000 bytes, at byte 1000"),
        (3, "no mbarrier was initialized at shared address"),
        (4, "is not in shared memory"),
        (5, "lane 31 of the mask ffffffff has ended"),
    ],
)
def test_errors_name_what_a_kernel_must_not_do(kernels, what, message):
    with pytest.raises(RuntimeError, match=message):
        kernels.run("misbehave", what, torch.zeros(64, dtype=torch.int32))
    assert reverse(kernels, 0)  # the next launch works


def test_an_access_outside_a_tensor_is_caught():
    sanitizer = build.with_address_sanitizer()
    if not sanitizer:
        pytest.skip("no libasan")
    code = (
        "import torch\n"
        "from tests.cuda_emulator.library import emulated_kernels\n"
        "values = torch.zeros(3 * 256, dtype=torch.int32)\n"
        "emulated_kernels().run('reverse', 3, values, values.clone(), 0)\n"
        "print('all within', flush=True)\n"
        "emulated_kernels().run('reverse', 4, values, values.clone(), 0)\n"
        "print('not reached')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | sanitizer | {"PYTHONPATH": str(build.ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0 and "heap-buffer-overflow" in done.stderr, done.stderr
    assert done.stdout == "all within\n"


def test_a_seed_repeats_its_schedule(kernels):
    outs = []
    for _ in range(2):
        kernels.seed(5)
        values = torch.arange(4 * 256, dtype=torch.int32)
        outs.append(torch.zeros_like(values))
        kernels.run("reverse", 4, values, outs[-1], 1)  # the output shows the order of the threads
    assert torch.equal(*(out == torch.arange(1024).view(4, 256).flip(1).flatten() for out in outs))


def test_an_instruction_above_the_capability_fails(kernels, monkeypatch):
    monkeypatch.setenv("OCCVAE_EMULATED_DEVICE", "8.6")
    with pytest.raises(RuntimeError, match="wgmma.* needs compute capability 9.0, .* has 8.6"):
        run_wgmma(kernels, torch.float16, 128)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_90a"])
def test_the_inline_ptx_assembles(architecture):
    library.nvcc_compiles(architecture)


def test_only_plain_launches_are_rewritten():
    assert build.rewrite("f<<<1, n>>>(a);") == "emulator::configure(f, 1, n)(a);"
    with pytest.raises(ValueError, match="understands only"):
        build.rewrite("f<int><<<1, n>>>(a);")

"""OpenMP threads sleep while they wait, and leave cores to other programs."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from occvae.system.devices import share_cores
from occvae.system.openmp import busy_cores, chosen_threads, limit_spinning, usable_cores

OPENMP = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")


@pytest.fixture(autouse=True)
def no_openmp_variables(monkeypatch):
    for name in (*OPENMP, "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    # The copy discards changes that the tested code makes.
    monkeypatch.setattr(os, "environ", os.environ.copy())


@pytest.fixture
def process_group(tmp_path, restored_threads):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_waiting_threads_spin_for_a_bounded_time():
    limit_spinning()
    assert os.environ["GOMP_SPINCOUNT"] == "1000"


@pytest.mark.parametrize("own", [{"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "ACTIVE"}])
def test_values_of_the_user_are_kept(own):
    os.environ.update(own)
    limit_spinning()
    assert {name: os.environ[name] for name in OPENMP if name in os.environ} == own


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(
            "from occvae.cli.main import main; main(['info'])", id="occvae", marks=pytest.mark.slow
        ),
        pytest.param(
            "sys.argv = ['train.py', '--print-config']; "
            "runpy.run_path(sys.argv[0], run_name='__main__')",
            id="launcher",
        ),
    ],
)
def test_torch_is_loaded_after_spinning_is_limited(command, request):
    watch = (
        "import os, runpy, sys\n"
        "class Watch:\n"
        "    def find_spec(name, path=None, target=None):\n"
        "        if name == 'torch':\n"
        "            print('loads torch with', os.environ.get('GOMP_SPINCOUNT'), file=sys.stderr)\n"
        "sys.meta_path.insert(0, Watch)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", watch + command],
        cwd=request.config.rootpath / "launchers",
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    loads = [line for line in run.stderr.splitlines() if line.startswith("loads torch")]
    assert loads and set(loads) == {"loads torch with 1000"}


@pytest.mark.parametrize(
    "text, expected", [(None, None), ("3", 3), ("3,2", 3), ("0", None), ("many", None), ("", None)]
)
def test_chosen_threads_reads_omp_num_threads(text, expected):
    if text is not None:
        os.environ["OMP_NUM_THREADS"] = text
    assert chosen_threads() == expected


@pytest.mark.skipif(not os.path.exists("/proc/self/environ"), reason="needs /proc")
@pytest.mark.parametrize("by_user, expected", [(False, "None"), (True, "1")])
def test_the_single_thread_set_by_torchrun_is_ignored(by_user, expected):
    """torchrun sets OMP_NUM_THREADS=1 in the environment of its ranks, not in its own."""
    child = "from occvae.system.openmp import chosen_threads; print(chosen_threads())"
    launcher = (
        "import os, subprocess, sys\n"
        "os.environ['OMP_NUM_THREADS'] = '1'\n"
        "os.environ['TORCHELASTIC_RUN_ID'] = 'none'\n"
        f"subprocess.run([sys.executable, '-c', {child!r}], check=True)\n"
    )
    environment = os.environ | ({"OMP_NUM_THREADS": "1"} if by_user else {})
    run = subprocess.run(
        [sys.executable, "-c", launcher], env=environment, capture_output=True, text=True
    )
    assert (run.stdout.strip(), run.stderr) == (expected, "")


@pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="needs /proc")
def test_busy_cores_counts_a_busy_core():
    core = min(usable_cores())
    code = f"import os; os.sched_setaffinity(0, {{{core}}}); print(flush=True)\nwhile True: pass"
    loop = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        loop.stdout.readline()
        assert busy_cores(frozenset([core])) > 0.7
    finally:
        loop.kill()
        loop.wait()
        loop.stdout.close()
    assert busy_cores(frozenset()) == 0.0


def test_all_cores_but_the_busy_ones_are_used(process_group):
    cores = len(usable_cores())
    share_cores()
    assert torch.get_num_threads() == cores
    share_cores(busy=1)
    assert torch.get_num_threads() == max(1, cores - 1)


def test_the_affinity_mask_limits_the_threads(process_group):
    before = usable_cores()
    os.sched_setaffinity(0, {min(before)})
    try:
        share_cores()
        assert torch.get_num_threads() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_ranks_bound_to_their_own_cores_use_all_of_them(process_group, monkeypatch):
    cores = usable_cores()
    mine = (socket.gethostname(), cores)
    others = {"same": mine, "other host": ("elsewhere", cores), "bound": (mine[0], frozenset([-1]))}

    def threads(other: tuple) -> int:
        def gather(places, own, group):
            places[:] = [own, other]

        monkeypatch.setattr(dist, "get_world_size", lambda group: 2)
        monkeypatch.setattr(dist, "all_gather_object", gather)
        share_cores()
        return torch.get_num_threads()

    assert threads(others["same"]) == max(1, len(cores) // 2)
    assert threads(others["other host"]) == threads(others["bound"]) == len(cores)


def test_omp_num_threads_overrides_the_shared_cores(process_group):
    os.environ["OMP_NUM_THREADS"] = "3"
    share_cores(busy=1)
    assert torch.get_num_threads() == 3


def test_systems_without_affinity_masks_and_proc_use_all_cores(monkeypatch):
    """No core counts as busy, and OMP_NUM_THREADS counts as set by the user."""
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cores() == frozenset(range(os.cpu_count()))

    def no_such_file(*_):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", no_such_file)
    monkeypatch.setattr(Path, "read_bytes", no_such_file)
    assert busy_cores(usable_cores()) == 0.0
    os.environ.update(OMP_NUM_THREADS="1", TORCHELASTIC_RUN_ID="none")
    assert chosen_threads() == 1

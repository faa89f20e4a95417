"""A rank reads the environment of its launcher and watches the launcher's processes."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from occvae.errors import UserError
from occvae.train import launch
from occvae.train.failures import ReportedByPeer
from occvae.train.launch import choose_interface, complete_environment, first_host
from occvae.train.run_lock import lock_run
from tests.train.ranks import free_port, wait_until
from tests.train.runs import DEEPSPEED

SRUN = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "2",
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_STEP_TASKS_PER_NODE": "2(x3),1",
    "SLURM_STEP_NODELIST": "gpu[03-05,9]",
    "SLURM_NTASKS": "7",
}
MPIRUN = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "1234",
}


def completed(env: dict[str, str]) -> dict[str, str]:
    env = dict(env)
    complete_environment(env)
    return {name: env[name] for name in TORCHRUN}


def test_variables_of_srun_are_translated():
    assert completed(SRUN) == {
        "RANK": "5",
        "WORLD_SIZE": "7",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "gpu03",
        "MASTER_PORT": "27110",
    }
    last = {**SRUN, "SLURM_PROCID": "6", "SLURM_LOCALID": "0", "SLURM_NODEID": "3"}
    assert completed(last)["LOCAL_WORLD_SIZE"] == "1"


def test_a_batch_script_without_srun_is_a_single_process():
    """Although Slurm sets the variables of the whole allocation."""
    batch = {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"}
    assert completed(batch)["WORLD_SIZE"] == "1"


@pytest.mark.parametrize(
    "nodes, first",
    [("a", "a"), ("a,b", "a"), ("n[1,3]", "n1"), ("n[007-9]", "n007"), ("x-1,n[1-2]", "x-1")],
)
def test_first_host_of_a_slurm_node_list(nodes, first):
    assert first_host(nodes) == first


def test_variables_of_mpirun_are_translated():
    assert completed(MPIRUN) == {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29500",
    }
    far = {**MPIRUN, "OMPI_COMM_WORLD_LOCAL_SIZE": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}
    assert completed({**far, "MASTER_ADDR": "a"})["MASTER_ADDR"] == "a"
    with pytest.raises(ReportedByPeer):
        completed(far)
    with pytest.raises(UserError, match="needs -x MASTER_ADDR"):
        completed({**far, "OMPI_COMM_WORLD_RANK": "0"})


def test_variables_of_torchrun_and_deepspeed_are_kept():
    assert completed(TORCHRUN) == TORCHRUN
    assert completed({**SRUN, **TORCHRUN, "WORLD_SIZE": "14"})["WORLD_SIZE"] == "14"
    deepspeed = {**TORCHRUN, "LOCAL_SIZE": "2"}
    del deepspeed["LOCAL_WORLD_SIZE"]
    assert completed(deepspeed) == TORCHRUN


@pytest.mark.parametrize(
    "change, message",
    [
        ({"RANK": "4"}, "RANK=4, WORLD_SIZE=4"),
        ({"RANK": "x"}, "RANK=x"),
        ({"LOCAL_RANK": "2"}, "LOCAL_RANK=2, LOCAL_WORLD_SIZE=2"),
        ({"LOCAL_WORLD_SIZE": "5"}, "contradict each other"),
        ({"RANK": None}, "did not set RANK"),
        ({"WORLD_SIZE": None, "RANK": "0"}, "did not set WORLD_SIZE"),
        ({"LOCAL_RANK": None, "RANK": "0"}, "did not set LOCAL_RANK"),
        ({"MASTER_ADDR": None, "RANK": "0"}, "MASTER_ADDR is not set"),
        ({"OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_RANK": "0"}, "mpirun started 8 processes"),
        ({"SLURM_STEP_NUM_TASKS": "8"}, "srun started 8 processes, but WORLD_SIZE=4"),
    ],
)
def test_missing_and_contradictory_variables_are_reported(change, message):
    env = {name: value for name, value in {**TORCHRUN, **change}.items() if value is not None}
    with pytest.raises(UserError, match=message) as raised:
        completed(env)
    assert not isinstance(raised.value, ReportedByPeer)


def test_missing_variables_of_srun_are_reported_by_rank_0():
    for name in ("SLURM_LOCALID", "SLURM_STEP_NODELIST"):
        env = {key: value for key, value in SRUN.items() if key != name}
        with pytest.raises(UserError, match=f"srun did not set {name}"):
            completed({**env, "SLURM_PROCID": "0"})
        with pytest.raises(ReportedByPeer):
            completed(env)


def test_an_interface_is_chosen_if_the_host_name_is_a_loopback_address(monkeypatch):
    monkeypatch.setattr(launch.socket, "gethostname", lambda: "localhost")
    env = {**TORCHRUN, "MASTER_ADDR": "192.0.2.1"}
    monkeypatch.setattr(launch, "_interface_towards", lambda host: "eth7")
    choose_interface(env)
    assert env["GLOO_SOCKET_IFNAME"] == "eth7"
    choose_interface(env)
    one_node = {**env, "LOCAL_WORLD_SIZE": "4"}
    del one_node["GLOO_SOCKET_IFNAME"]
    choose_interface(one_node)
    assert "GLOO_SOCKET_IFNAME" not in one_node
    monkeypatch.setattr(launch, "_interface_towards", lambda host: None)
    with pytest.raises(UserError, match="set GLOO_SOCKET_IFNAME"):
        choose_interface({**TORCHRUN, "MASTER_ADDR": "192.0.2.1"})


def test_the_interface_towards_the_loopback_address_is_lo():
    assert launch._interface_towards("127.0.0.1") == "lo"


def test_a_run_folder_takes_one_training_at_a_time(tmp_path):
    lock_run(tmp_path)
    again = "import pathlib, sys; from occvae.train.run_lock import lock_run; "
    again += "lock_run(pathlib.Path(sys.argv[1]))"
    command = [sys.executable, "-c", again, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True)
    message = f"is being trained by process {os.getpid()} on {socket.gethostname()}"
    assert message in result.stderr


WATCHED = """
import signal, sys, time
from occvae.train.watch import watch_launchers
watch_launchers(interval=0.05)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(open(sys.argv[1], "w").write("told")))
open(sys.argv[1] + ".ready", "w").close()
time.sleep(60)
"""


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


def write_launchers(folder: Path, start_next: str, rank: str) -> list[str]:
    """Writes scripts with the names of deepspeed's processes, and returns their paths."""
    (folder / "rank.py").write_text(rank)
    for name in ("deepspeed", "deepspeed.launcher.launch"):
        (folder / name).write_text(start_next)
    return [
        str(folder / script) for script in ("deepspeed", "deepspeed.launcher.launch", "rank.py")
    ]


def test_a_rank_gets_sigterm_when_a_launcher_above_its_parent_dies(tmp_path):
    """deepspeed runs a front process, below it deepspeed.launcher.launch, below it the ranks."""
    told = tmp_path / "told"
    start_next = "import subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]])\n"
    words = write_launchers(tmp_path, start_next, WATCHED)
    front = subprocess.Popen([sys.executable, *words, str(told)], env=ENVIRONMENT)
    try:
        wait_until(lambda: (tmp_path / "told.ready").exists())
        front.send_signal(signal.SIGTERM)
        wait_until(lambda: told.exists() and told.read_text())
    finally:
        front.kill()
        front.wait()


STARTS_NEXT = """
import subprocess, sys
rest = [word for word in sys.argv[1:] if "deepspeed" in word or "rank.py" in word]
sys.exit(subprocess.run([sys.executable, *rest]).returncode)
"""
CHECKED = "from occvae.system.launchers import check_hostfile; check_hostfile()"


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        (["--hostfile", "missing"], True),
        (["--num_gpus", "2", "--hostfile=missing"], True),
        (["-H", "missing"], True),
        (["-H", "there"], False),
        (["--num_gpus", "2"], False),
    ],
)
def test_a_hostfile_that_deepspeed_did_not_find_is_an_error(tmp_path, options, missing):
    (tmp_path / "there").write_text("localhost slots=1")
    front, *rest = write_launchers(tmp_path, STARTS_NEXT, CHECKED)
    command = [sys.executable, front, *options, *rest]
    result = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode == missing, result.stderr
    message = "UserError: deepspeed --hostfile missing: no such file, so deepspeed started ranks on"
    assert (message in result.stderr) == missing


@pytest.mark.slow
@pytest.mark.parametrize("script", ["train.py", "evaluate.py"])
def test_the_launchers_stop_without_the_hostfile(tmp_path, script):
    launcher = Path(__file__).parents[2] / "launchers" / script
    command = [DEEPSPEED, "--hostfile", "missing", "--master_port", str(free_port()), launcher]
    result = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode == 2, result.stdout + result.stderr
    [line] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: deepspeed --hostfile missing: no such file")
    assert [path.name for path in tmp_path.iterdir()] == []

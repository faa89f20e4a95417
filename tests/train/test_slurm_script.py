"""launchers/slurm.sbatch, with fake srun and scontrol commands."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "launchers" / "slurm.sbatch"
LAUNCH = "srun --kill-on-bad-exit=1 python launchers/train.py --out"


@pytest.fixture
def submit(tmp_path):
    """Returns a function that runs the job and gives its status and its Slurm commands."""
    commands = tmp_path / "commands"
    for name in ("srun", "scontrol"):
        program = tmp_path / name
        program.write_text(f'#!/bin/bash\necho {name} "$@" >> {commands}\nexit $SRUN_STATUS\n')
        program.chmod(0o755)

    def run(*arguments, srun_status: int = 0) -> tuple[int, list[str]]:
        commands.unlink(missing_ok=True)
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
        environment["SRUN_STATUS"] = str(srun_status)
        done = subprocess.run(["bash", SCRIPT, *map(str, arguments)], env=environment)
        return done.returncode, commands.read_text().splitlines()

    return run


def test_a_job_starts_a_run_once_and_then_resumes_it(submit, tmp_path):
    run, arguments = tmp_path / "run", ["--arch", "onet", "--timeout", "600", "optim.steps=9"]
    assert submit(run, *arguments) == (0, [f"{LAUNCH} {run} {' '.join(arguments)}"])
    (run / "checkpoints" / "step-5").mkdir(parents=True)
    assert submit(run, *arguments) == (0, [f"{LAUNCH} {run} --resume --timeout 600"])
    both = ["--device", "cpu", "--timeout=8"]
    assert submit(run, *both) == (0, [f"{LAUNCH} {run} --resume --timeout 8 --device cpu"])
    assert submit(run, "--timeout=9") == (0, [f"{LAUNCH} {run} --resume --timeout 9"])
    assert submit(run, "--arch", "onet") == (0, [f"{LAUNCH} {run} --resume"])


@pytest.mark.parametrize(("status", "requeued"), [(143, True), (0, False), (1, False), (2, False)])
def test_only_a_run_stopped_by_a_signal_is_requeued(submit, tmp_path, status, requeued):
    found, commands = submit(tmp_path / "run", "--arch", "onet", srun_status=status)
    assert found == status
    assert (commands[1:] == ["scontrol requeue 7"]) == requeued

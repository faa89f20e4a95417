"""The script for a machine with a GPU names what exists, and ends early without a GPU."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import timing
import cuda_smoke

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks/gpu_check.sh"


def run_script(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"OUT": str(folder), "PYTHON": sys.executable} | environment
    command = ["bash", str(SCRIPT), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_files_and_checks_of_the_script_exist():
    text = SCRIPT.read_text()
    files = re.findall(r"(?:tests|benchmarks|launchers)/[\w/]+\.py", text)
    assert len(files) > 10
    assert [file for file in files if not (ROOT / file).is_file()] == []
    (smoke,) = re.findall(r"--only (voxel_iou [\w ]+)", text)
    assert {*smoke.split(), "queries_wgmma"} == cuda_smoke.CHECKS.keys()
    assert f'"{smoke}" queries_wgmma' in text  # under compute-sanitizer


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_no_part_runs(tmp_path):
    done = run_script(tmp_path, "query", PARTS="machine smoke")
    assert done.returncode == 1
    assert "torch sees no GPU; DEVICE=cpu rehearses on the CPU" in done.stdout
    assert "smoke" not in (tmp_path / "query.summary").read_text()


def test_an_unknown_command_is_refused(tmp_path):
    done = run_script(tmp_path, "everything")
    assert done.returncode == 2 and "choose query or rest" in done.stderr


def test_a_part_that_fails_does_not_stop_the_others(tmp_path):
    broken = tmp_path / "python"
    broken.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} "$@"\nexit 7\n')
    broken.chmod(0o755)
    done = run_script(
        tmp_path, "query", PARTS="smoke machine", DEVICE="cpu", PYTHON=str(broken), WGMMA="0"
    )
    summary = (tmp_path / "query.summary").read_text()
    assert done.returncode == 1
    assert re.search(r"smoke +\d+ s  FAILED: exit status 7\nmachine +\d+ s  ok", summary)


def test_benchmarks_run_without_git(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    facts = timing.environment()
    assert facts["commit"] == "none" and facts["dirty"]

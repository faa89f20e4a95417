"""The scripts of `occvae completion` complete commands, options and known words."""

import os
import shutil
import subprocess

import pytest

from occvae.cli.main import main

pytest.importorskip("shtab")

COMPLETE = """
source ./script
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
COMP_TYPE=9
_shtab_occvae
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_script(folder, shell: str, capsys) -> str:
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    (folder / "script").write_text(text)
    return text


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("occvae ev", {"evaluate"}),
        ("occvae data import me", {"meshes"}),
        ("occvae train --print", {"--print-config"}),
        ("occvae train --arch vit", {"vitocc"}),
        ("occvae train optim.l", {"optim.lr="}),
        ("occvae reconstruct phot", {"photo.png"}),
        ("occvae completion f", {"fish"}),
    ],
)
def test_bash_completes(here, capsys, words, offered):
    write_script(here, "bash", capsys)
    (here / "photo.png").touch()
    command = ["bash", "--norc", "-c", COMPLETE, "bash", *words.split()]
    environment = {**os.environ, "LC_ALL": "C"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert {word.strip() for word in result.stdout.split()} == offered, result.stderr


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_a_valid_script(here, capsys, shell):
    text = write_script(here, shell, capsys)
    assert "print-config" in text and "pix2vox-vae" in text and "optim.lr" in text
    if shutil.which(shell):
        subprocess.run([shell, "-n", "script"], check=True)

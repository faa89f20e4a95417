"""Progress of `occvae reconstruct`, and the files left after an interruption or a full disk."""

import errno
import io
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

import occvae
from occvae.cli.main import main
from occvae.geometry import extract_mesh as extract_mesh_module
from occvae.geometry.extract_mesh import ProgressBar, extract_mesh
from occvae.models import save_pretrained
from occvae.reconstruction import files
from tests.fakes import octahedron_model
from tests.fields import sphere


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def arguments(tmp_path, monkeypatch) -> list[str]:
    """Arguments of a reconstruction, in a directory with an image, a model and an output folder."""
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).integers(0, 255, (30, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save("photo.png")
    save_pretrained(octahedron_model(), "model")
    Path("out").mkdir()
    command = ["reconstruct", "photo.png", "-o", "out/photo.glb", "--model", "model"]
    return [*command, "--background", "keep", "--resolution", "32"]


def interrupt(*_, **__):
    raise KeyboardInterrupt


def write_some_and_interrupt(mesh, path, **_):
    Path(path).write_bytes(b"glTF and then nothing")
    raise KeyboardInterrupt


INTERRUPTED = {
    "in the extraction": (extract_mesh_module, "mise", interrupt, set()),
    "in the export": (trimesh.Scene, "export", write_some_and_interrupt, set()),
    "in the preview": (files, "preview_image", interrupt, {"photo.glb"}),
}


@pytest.mark.parametrize("when", INTERRUPTED)
def test_an_interruption_prints_one_line_and_leaves_no_partial_file(
    arguments, monkeypatch, capsys, when
):
    owner, name, replacement, expected = INTERRUPTED[when]
    monkeypatch.setattr(owner, name, replacement)
    assert main(arguments) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert {path.name for path in Path("out").iterdir()} == expected


@pytest.mark.parametrize("content", ["the export", "the preview", "the turntable"])
def test_a_full_disk_prints_one_line_and_keeps_existing_files(
    arguments, monkeypatch, capsys, content
):
    owner, name, file = {
        "the export": (trimesh.Scene, "export", "photo.glb"),
        "the preview": (Image.Image, "save", "photo.preview.png"),
        "the turntable": (files, "write_turntable", "photo.turntable.gif"),
    }[content]
    Path("out", file).write_bytes(b"before")

    def fail(first, path, *_, **__):
        Path(path if owner is not files else first).write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(owner, name, fail)
    assert main([*arguments, "--turntable", "gif"]) == 2
    expected = f"error: out/{file}: cannot be written (No space left on device)\n"
    assert capsys.readouterr().err == expected
    assert Path("out", file).read_bytes() == b"before"
    assert not [path for path in Path("out").iterdir() if "partial" in path.name]


def test_out_of_memory_prints_one_line(arguments, monkeypatch, capsys):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2.00 GiB.")

    monkeypatch.setattr(extract_mesh_module, "mise", fail)
    assert main(arguments) == 2
    expected = "error: photo.png: cpu is out of memory; try a lower --resolution\n"
    assert capsys.readouterr().err == expected


def test_invalid_resolutions_print_one_line(arguments, capsys):
    assert main([*arguments[:-1], "101"]) == 2
    error = capsys.readouterr().err
    assert error.endswith("got 101: nearest valid are 100 and 102\n") and error.count("\n") == 1


def test_without_a_terminal_there_is_no_bar(arguments, capsys):
    assert main(arguments) == 0
    assert capsys.readouterr().err == ""


def test_the_bar_shows_rounds_of_an_extraction(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    ticks = iter(range(10**6))
    monkeypatch.setattr("tqdm.std.time", lambda: next(ticks))  # each call is a second later
    field = sphere()
    extract_mesh(field, resolution=64, max_points_per_call=5000, progress=ProgressBar("ball"))
    shown = terminal.getvalue().split("\r")
    assert any(line.startswith("ball, round 1: ") for line in shown)
    assert any(line.startswith("ball, round 2: ") and "k points" in line for line in shown)
    assert "\n" not in terminal.getvalue() and shown[-1] == ""  # every bar is erased


def test_a_short_extraction_shows_no_bar(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    extract_mesh(sphere(), resolution=32, progress=ProgressBar())
    assert "round" not in terminal.getvalue()


# The real command, with a field that takes seconds on any machine.
SLOW_COMMAND = """
import sys, time
from occvae.cli.main import main
from occvae.geometry import extract_mesh

def slow(field, mise=extract_mesh.mise, **options):
    def slower(points, shape_index):
        time.sleep(0.05)
        return field(points, shape_index)

    return mise(slower, **options | {"max_points_per_call": 300})

extract_mesh.mise = slow
sys.exit(main(sys.argv[1:]))
"""


def test_ctrl_c_in_a_terminal_prints_one_line(arguments):
    """Sends the real signal to a process with a terminal, once its progress bar appears."""
    fcntl, termios = pytest.importorskip("fcntl"), pytest.importorskip("termios")
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    command = [sys.executable, "-c", SLOW_COMMAND, *arguments]
    root = str(Path(occvae.__file__).parent.parent)
    environment = os.environ | {"PYTHONPATH": root, "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(
        command,
        stderr=theirs,
        stdout=subprocess.PIPE,
        env=environment,
        # Background jobs of a shell ignore the signal, and child processes inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    os.close(theirs)
    shown = read_until(ours, b"photo.png, round ")
    time.sleep(0.07)  # not while it writes the bar
    process.send_signal(signal.SIGINT)
    rest = read_until(ours, None)
    out, _ = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 130, (shown, rest)
    assert out == b""
    # One line: the bar is erased before the message is printed.
    *_, wiped, message, end = (shown + rest).split(b"\r")
    assert (wiped.strip(), message, end) == (b"", b"interrupted", b"\n"), (shown, rest)
    assert (shown + rest).count(b"\n") == 1
    assert not list(Path("out").iterdir())


def read_until(descriptor: int, wanted: bytes | None) -> bytes:
    """Reads up to and including `wanted`, or to the end."""
    data = b""
    while wanted is None or wanted not in data:
        try:
            part = os.read(descriptor, 4096)
        except OSError:  # Linux reports the end of a pseudo-terminal like this
            break
        if not part:
            break
        data += part
    return data

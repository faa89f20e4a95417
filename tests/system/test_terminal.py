"""Commands print printable single lines, whatever characters names and files contain."""

import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
import trimesh
from PIL import Image

from occvae.cli.main import main
from occvae.cli.view import _pages
from occvae.models import save_pretrained
from occvae.system.terminal import one_line
from occvae.visualize.report import write_report
from occvae.visualize.report.server import create_server
from tests.cli.test_view import get
from tests.convert.published_onet import onet_state
from tests.fakes import octahedron_model
from tests.photographs import ellipse, photograph
from tests.visualize.report.builders import case, evaluation, sphere

NO_TEXT = os.fsdecode(b"a\xffb")


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("chäir 椅子 🪑.png", "chäir 椅子 🪑.png"),
        ("Screenshot 9.41\u202fAM.png", "Screenshot 9.41\u202fAM.png"),
        ("a\nb\r\tc\x1b[31md", r"a\nb\r\tc\x1b[31md"),
        ("a\u2028b\u202ec\x9bd", r"a\u2028b\u202ec\x9bd"),
        (NO_TEXT, r"a\udcffb"),
    ],
)
def test_one_line_escapes_control_characters(text, printed):
    assert one_line(text) == printed


def run(monkeypatch, *arguments: str | Path, encoding: str) -> tuple[int, bytes, bytes]:
    """Runs the command with encoded streams. Returns its status and output."""
    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding) for name in ("stdout", "stderr")}
    with monkeypatch.context() as patch:
        for name, stream in streams.items():
            patch.setattr(sys, name, stream)
        status = main([str(argument) for argument in arguments])
    for stream in streams.values():
        stream.flush()
    return status, *(stream.buffer.getvalue() for stream in streams.values())


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "octahedron"
    save_pretrained(octahedron_model(), folder)
    return folder


@pytest.fixture
def arguments(model, tmp_path) -> list[str | Path]:
    """Arguments that reconstruct an image with an undecodable name into the folder `out`."""
    image = tmp_path / f"{NO_TEXT}.png"
    photograph(ellipse(90, (0.5, 0.5), (0.2, 0.2))).save(image)
    common = ["--model", model, "--resolution", 32, "-o", tmp_path / "out"]
    return ["reconstruct", image, *common]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_images_with_undecodable_names_are_reconstructed(
    arguments, tmp_path, monkeypatch, encoding
):
    status, out, err = run(monkeypatch, *arguments, encoding=encoding)
    assert (status, err) == (0, b"")
    assert rb"a\udcffb.png -> " in out
    assert (tmp_path / "out" / f"{NO_TEXT}.glb").is_file()


def test_characters_that_a_terminal_lacks_are_escaped(arguments, tmp_path, monkeypatch):
    command, *rest = arguments
    status, _, err = run(monkeypatch, command, tmp_path / "ä.png", *rest, encoding="ascii")
    assert status == 2
    assert rb"\xe4.png: no such file" in err.splitlines()[0]


@pytest.mark.slow
def test_a_process_accepts_undecodable_names(arguments, tmp_path):
    finished = subprocess.run(
        [sys.executable, "-m", "occvae", *map(str, arguments)],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "utf-8:strict"},
    )
    assert (finished.returncode, finished.stderr) == (0, b"")
    assert rb"a\udcffb.png -> " in finished.stdout
    assert (tmp_path / "out" / f"{NO_TEXT}.glb").is_file()


def test_meshes_and_reports_with_undecodable_names_are_served(tmp_path):
    mesh, report = (tmp_path / f"{NO_TEXT}.{kind}" for kind in ("ply", "html"))
    trimesh.creation.box().export(mesh)
    write_report(report, evaluation({NO_TEXT: 0.5}), [case(NO_TEXT, 0.5, sphere())])
    server = create_server(_pages([mesh, report]))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        for path in ("/", "/1", "/2"):
            status, _, text = get(server.server_address[1], path)
            assert status == 200 and r"a\udcffb" in text
    finally:
        server.shutdown()
        server.server_close()


def test_keys_of_checkpoints_are_printed_escaped(tmp_path, capsys):
    state = onet_state(False, blocks=(2, 2, 2, 2), width=16)
    torch.save(state | {"decoder.evil\n\x1b[31mkey": torch.ones(2)}, tmp_path / "a.pt")
    assert main(["convert", str(tmp_path / "a.pt"), "-o", str(tmp_path / "model")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert r"left over: decoder.evil\n\x1b[31mkey" in line and line.isprintable()
    entries = {"model": state, "best\x1b[31m": 0.5}
    torch.save(entries, tmp_path / "b.pt")
    assert main(["convert", str(tmp_path / "b.pt"), "-o", str(tmp_path / "model")]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert second == r"left out because only training needs it: best\x1b[31m"


def test_names_of_images_are_printed_escaped(model, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    photograph(ellipse(90, (0.5, 0.5), (0.2, 0.2))).save(folder / "good\x1b[31m.png")
    Image.new("RGB", (9, 9)).save(folder / "bad\nerror: .png")
    arguments = ["--model", str(model), "--resolution", "32", "-o", str(tmp_path / "out")]
    assert main(["reconstruct", str(folder), *arguments]) == 2
    captured = capsys.readouterr()
    [line] = captured.out.splitlines()
    assert r"good\x1b[31m.png -> " in line and line.isprintable()
    first, second = captured.err.splitlines()
    assert r"bad\nerror: .png: shows nothing but its background" in first
    assert second.startswith("error: 1 of 2 objects have no mesh: ")

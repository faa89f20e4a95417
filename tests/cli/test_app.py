"""`occvae app`: messages before it starts. tests/app tests the page."""

import pytest

from occvae.app import server
from occvae.cli.main import create_parser, main


@pytest.fixture(autouse=True)
def folder_without_runs(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_only_this_machine_is_the_default():
    assert create_parser().parse_args(["app"]).host == "127.0.0.1"


def test_without_gradio_one_line_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setattr(server, "find_spec", lambda name: None)
    assert main(["app"]) == 2
    assert capsys.readouterr().err == "error: occvae app needs gradio: pip install 'occvae[app]'\n"


@pytest.mark.parametrize("port", ["0", "65536", "-1"])
def test_impossible_ports_are_refused(port, capsys):
    pytest.importorskip("gradio")
    assert main(["app", "--no-browser", "--port", port]) == 2
    assert f"error: --port {port}: must be between 1 and 65535" in capsys.readouterr().err


def test_a_port_in_use_is_refused(capsys):
    pytest.importorskip("gradio")
    import socket

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        assert main(["app", "--no-browser", "--port", port]) == 2
    assert f"--port {port}: cannot be used; choose another" in capsys.readouterr().err

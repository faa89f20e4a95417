"""`occvae view`: the pages it serves, and which requests it answers."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from occvae.cli.main import main
from occvae.cli.view import _load_mesh, _pages
from occvae.errors import UserError
from occvae.visualize.report import write_report
from occvae.visualize.report.server import create_server
from tests.visualize.report.browser import Browser, needs_browser
from tests.visualize.report.builders import evaluation
from tests.visualize.report.canvas import CanvasImage, frames, settle


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "a<b>"
    (folder / "samples").mkdir(parents=True)
    (folder / "last").mkdir()
    lines = [{"step": i, "train/loss": 1 / i, "train/iou": None} for i in range(1, 50)]
    lines += [{"step": 25, "val/loss": 0.125}, {"step": 50, "val/loss": 0.25}]
    text = "\n".join(map(json.dumps, lines)) + '\n{"step": 51, "train/lo'  # cut by a crash
    (folder / "metrics.jsonl").write_text(text)
    (folder / "last" / "evaluation.json").write_text(json.dumps(evaluation({"a": 0.5})))
    (folder / "last" / "evaluation-mine-test.json").write_text(json.dumps(evaluation({"b": 0.75})))
    for step in (1, 2):
        Image.new("RGB", (20, 10), (step, 0, 0)).save(folder / "samples" / f"step-{step}.png")
    (folder / "samples" / "step-3.png").write_bytes(b"half")
    return folder


@pytest.fixture(scope="module")
def mesh_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("meshes") / "box.OFF"
    path.write_text(trimesh.creation.box((1.0, 0.3, 0.2)).export(file_type="off"))
    return path


@pytest.fixture
def serve():
    """A function that serves the pages of its paths and returns the port."""
    servers = []

    def start(*paths: Path) -> int:
        server = create_server(_pages(list(paths)))
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return server.server_address[1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def get(port: int, path: str = "/", *, host: str | None = None, method: str = "GET"):
    """Status, headers and text of the answer. The path is sent without normalization."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", f"127.0.0.1:{port}" if host is None else host)
    connection.endheaders()
    response = connection.getresponse()
    return response.status, response.headers, response.read().decode()


def test_the_page_of_a_run_shows_curves_metrics_and_sheets(serve, run_folder):
    status, headers, page = get(serve(run_folder))
    assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8"
    assert "a&lt;b&gt;" in page and "a<b>" not in page
    assert "Loss over steps" in page and "val</span> 0.25" in page
    assert "last/evaluation.json" in page and "0.2500" in page
    assert "last/evaluation-mine-test.json" in page and "0.7500" in page
    assert page.count("<img src=") == 2  # the half-written one is left out


def test_each_visit_reads_the_run_again(serve, run_folder):
    port = serve(run_folder)
    metrics = run_folder / "metrics.jsonl"
    before = metrics.read_text()
    metrics.write_text('{"step": 1, "train/speed": 3.0}\n')
    page = get(port)[2]
    metrics.write_text(before)
    assert "Speed over steps" in page and "Loss over steps" not in page


def test_an_export_without_its_run_shows_its_evaluation(serve, run_folder):
    assert "evaluation.json" in get(serve(run_folder / "last"))[2]


def test_several_pages_get_an_index(serve, run_folder, mesh_file, tmp_path):
    report = tmp_path / "report.html"
    write_report(report, evaluation({"a": 0.5}), [])
    port = serve(report, mesh_file, run_folder, mesh_file.parent)
    links = re.findall(r'<a href="([^"]*)">', get(port)[2])
    assert links == ["/1", "/2", "/3"]
    meshes, second, third = (get(port, link)[2] for link in links)
    assert meshes.count("box.OFF: 8 vertices, 12 faces") == 2
    assert second == report.read_text("utf-8") and "Run a&lt;b&gt;" in third


def test_files_that_are_not_meshes_are_left_out(serve, mesh_file, tmp_path, capsys):
    (tmp_path / "x.glb").mkdir()
    (tmp_path / "good.off").write_bytes(mesh_file.read_bytes())
    (tmp_path / "<bad>.ply").write_text("no mesh")
    page = get(serve(tmp_path))[2]
    assert "good.off: 8 vertices, 12 faces" in page and page.count("</canvas>") == 1
    assert (
        f"<p>left out: {tmp_path}/&lt;bad&gt;.ply: not a PLY file: it does not begin with ply"
        in page
    )
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"left out: {tmp_path}/<bad>.ply: not a PLY file")


@pytest.mark.parametrize(
    "path",
    [
        *("/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/etc/passwd"),
        *("/metrics.jsonl", "/last/evaluation.json", "/favicon.ico", "/.", "/1", "*", "http://[x/"),
    ],
)
def test_paths_of_requests_are_never_read_from_disk(serve, run_folder, path):
    status, headers, text = get(serve(run_folder), path)
    assert (status, text) == (404, "No such page.\n")
    assert headers["Content-Type"].startswith("text/plain")


def test_requests_to_other_host_names_are_rejected(serve, run_folder):
    port = serve(run_folder)
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "", "0.0.0.0"):
        status, _, text = get(port, host=host)
        assert status == 403 and "Only requests to localhost" in text, host
    for host in ("localhost", f"localhost:{port}", "LOCALHOST:9", "[::1]:9", "127.0.0.1"):
        assert get(port, host=host)[0] == 200, host
    assert get(port, method="POST")[0] == 501
    status, headers, text = get(port, method="HEAD")
    assert status == 200 and text == "" and int(headers["Content-Length"]) > 1000


def test_only_this_machine_can_connect():
    server = create_server({"/": lambda: "text"})
    try:
        assert server.server_address[0] == "127.0.0.1"
    finally:
        server.server_close()


def test_a_page_that_fails_shows_the_error(serve, tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    port = serve(tmp_path)
    (tmp_path / "evaluation.json").write_text("[")
    status, _, text = get(port)
    assert status == 500 and "evaluation.json: not readable as JSON" in text
    interval = {"mean": 0.5, "interval": [0.25]}
    strange = {"iou": {"per_category": {}, "macro": interval, "micro": 0.5}}
    (tmp_path / "evaluation.json").write_text(json.dumps(strange))
    status, _, text = get(port)
    assert status == 500 and text.startswith("cannot show this page: ValueError: ")


def test_metrics_that_are_not_numbers_are_skipped(serve, tmp_path):
    lines = b'{"step": 1, "train/loss": 0.5}\n{"step": 2, "train/loss": NaN}\n'
    lines += b'{"step": 3, "train/loss": Infinity}\n{"step": null, "train/loss": 0.25}\n[1]\n\xff\n'
    (tmp_path / "metrics.jsonl").write_bytes(lines)
    status, _, page = get(serve(tmp_path))
    assert status == 200 and "Loss over steps, last: " in page and "train</span> 0.25" in page


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.obj", None, "missing.obj: no such file"),
        ("text.obj", "nothing", "text.obj: "),
        ("text.xyz1", "nothing", "text.xyz1: not a mesh that trimesh can read"),
        ("other.html", "<p>hello", "other.html: not a report of 'occvae evaluate --html'"),
        ("folder", ..., "folder: contains neither a run"),
    ],
)
def test_wrong_paths_are_errors(tmp_path, capsys, name, content, message):
    path = tmp_path / name
    if content is ...:
        path.mkdir()
    elif content is not None:
        path.write_text(content)
    assert main(["view", "--no-browser", str(path)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line


def test_wrong_ports_are_errors(run_folder, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["view", "--no-browser", "--port", str(port), str(run_folder)]) == 2
    assert capsys.readouterr().err == (
        f"error: --port {port}: is in use; choose another or leave it out\n"
    )
    with pytest.raises(UserError, match="--port 65536: must be between 0 and 65535"):
        create_server({}, 65536)


def test_the_server_answers_until_it_is_interrupted(run_folder):
    """The printed address works at once, and Ctrl-C prints one line."""
    command = [sys.executable, "-m", "occvae", "view", "--no-browser", str(run_folder)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        # A shell starts background commands with SIGINT ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            url, forward = process.stdout.readline(), process.stdout.readline()
            port = int(re.match(r"http://127\.0\.0\.1:(\d+)/ ", url).group(1))
            assert f"ssh -L {port}:127.0.0.1:{port} " in forward
            assert get(port)[0] == 200
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130
            assert process.stderr.read() == "interrupted\n"
        finally:
            process.kill()


def colored_box(linear: bool) -> trimesh.Trimesh:
    """A red box, with colors as glTF files have them (linear) or as others have them."""
    mesh = trimesh.creation.box((1.0, 0.3, 0.2))
    green = 8 if linear else 50  # 255 * ((50 / 255 + 0.055) / 1.055) ** 2.4 = 8.0
    mesh.visual.vertex_colors = np.tile(np.uint8([255, green, 0, 255]), (8, 1))
    return mesh


@pytest.mark.parametrize("ending", ["glb", "ply", "obj"])
def test_vertex_colors_are_read(tmp_path, ending):
    path = tmp_path / f"red.{ending}"
    colored_box(linear=ending == "glb").export(path)
    found = _load_mesh(path)
    assert len(found.mesh[0]) == len(found.colors) == 8
    np.testing.assert_allclose(found.colors, [[255, 50, 0]] * 8, atol=1)


def test_meshes_without_colors_have_none(tmp_path):
    for ending in ("glb", "ply", "obj", "stl", "off"):
        path = tmp_path / f"plain.{ending}"
        trimesh.creation.box().export(path)
        assert _load_mesh(path).colors is None, ending


@needs_browser
def test_the_browser_draws_a_mesh(serve, mesh_file):
    url = f"http://127.0.0.1:{serve(mesh_file)}/"
    with Browser(600, 600) as browser:
        browser.open(url)
        settle(browser)
        before = CanvasImage(browser, 0).pixels
        assert before > 1000
        browser.evaluate("document.querySelector('[data-toggle=z-up]').click()")
        frames(browser)
        assert abs(CanvasImage(browser, 0).pixels - before) > 100
        assert [each for each in browser.requests if not each.startswith("data:")] == [url]
        assert browser.problems == []


@needs_browser
def test_two_meshes_are_side_by_side_in_their_colors_and_turn_together(serve, mesh_file, tmp_path):
    path = tmp_path / "red.ply"
    colored_box(linear=False).export(path)
    with Browser(1000, 700) as browser:
        browser.open(f"http://127.0.0.1:{serve(mesh_file, path)}/")
        settle(browser)
        place = "document.querySelectorAll('canvas')[{}].getBoundingClientRect()"
        assert browser.evaluate(f"{place.format(0)}.top === {place.format(1)}.top")
        assert browser.evaluate(f"{place.format(0)}.right < {place.format(1)}.left")
        plain, red = (CanvasImage(browser, index) for index in (0, 1))
        assert red.color[0] > 3 * red.color[1] and plain.color[2] > plain.color[0]
        assert red.pixels == plain.pixels
        browser.evaluate("document.querySelector('canvas').focus()")
        browser.press("ArrowLeft")
        frames(browser)
        turned = CanvasImage(browser, 0).pixels
        assert CanvasImage(browser, 1).pixels == turned != plain.pixels
        browser.evaluate("document.querySelector('[data-toggle=linked]').click()")
        browser.press("ArrowLeft")
        frames(browser)
        assert CanvasImage(browser, 1).pixels == turned != CanvasImage(browser, 0).pixels
        assert browser.problems == []

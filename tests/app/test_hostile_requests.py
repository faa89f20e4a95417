"""`occvae app` as a process of its own: many requests at once, and wrong ones."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("gradio")

import httpx
import trimesh
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from occvae.app.server import MOST_BYTES
from occvae.models import save_pretrained
from tests.app.inputs import photo
from tests.docs.pages import ROOT, read_blocks
from tests.fakes import octahedron_model

pytestmark = pytest.mark.slow
SECRET = "nobody may read this"


class App:
    """The running command.

    Attributes:
        url: Address of the page.
        work: Its working directory.
        temporary: Its folder of temporary files.
        home: Its home directory.
        proxy: A listening socket, which it would use as a proxy.
    """

    def __init__(self, folder: Path):
        save_pretrained(octahedron_model(), folder / "model")
        self.work, self.temporary, self.home = (folder / name for name in ("work", "tmp", "home"))
        for path in (self.work, self.temporary, self.home):
            path.mkdir()
        # Requests to other machines would go through this proxy, which does not answer.
        self.proxy = socket.create_server(("127.0.0.1", 0))
        self.proxy.setblocking(False)
        proxy = f"http://127.0.0.1:{self.proxy.getsockname()[1]}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "occvae", "app", "--model", str(folder / "model")],
            cwd=self.work,
            env={
                **os.environ,
                "TMPDIR": str(self.temporary),
                "HOME": str(self.home),
                **dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), proxy),
                "no_proxy": "",
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            },
            stdout=subprocess.PIPE,
            stderr=(folder / "stderr").open("w"),
            text=True,
        )
        assert self.process.stdout is not None
        self.url = re.findall(r"http://\S+", self.process.stdout.readline())[0]

    def client(self, folder: Path) -> Client:
        return Client(self.url, verbose=False, download_files=str(folder))

    def uploads(self) -> Path:
        [folder] = self.temporary.iterdir()
        return folder / "uploads"

    def memory(self) -> int:
        """Resident memory in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.findall(r"VmRSS:\s+(\d+)", status)[0])


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    running = App(tmp_path_factory.mktemp("app"))
    yield running
    running.process.kill()
    running.process.wait()
    running.proxy.close()


def reconstruct(app: App, folder: Path, image: Path) -> tuple:
    files = [handle_file(str(image))]
    return app.client(folder).predict(files=files, resolution=64, api_name="/reconstruct")


def test_the_documented_call_gives_a_mesh(app, tmp_path, monkeypatch):
    [block] = [b for b in read_blocks(ROOT / "docs/guides/app.md") if b.language == "python"]
    monkeypatch.chdir(tmp_path)
    photo(tmp_path / "chair.jpg")
    names: dict = {}
    exec(block.code.replace("http://127.0.0.1:7860/", app.url), names)
    mesh = trimesh.load(names["downloads"][0], force="mesh")
    assert Path(names["downloads"][0]).name == "chair.glb" and mesh.is_watertight
    assert names["statistics"]["meshes"][0]["faces"] == len(mesh.faces)
    assert "chair" in names["table"] and "<iframe" in names["view"]


def test_ten_requests_at_once_are_answered_in_turn_and_memory_returns(app, tmp_path):
    images = [photo(tmp_path / f"image-{i}.jpg", size=120 + i) for i in range(10)]
    sizes = []
    for _ in range(3):  # at first, threads and buffers are made
        with ThreadPoolExecutor(10) as threads:
            calls = [
                threads.submit(reconstruct, app, tmp_path / image.stem, image) for image in images
            ]
        answers = [call.result() for call in calls]
        names = [Path(downloads[0]).name for downloads, *_ in answers]
        assert names == [f"image-{i}.glb" for i in range(10)]
        assert all(values["meshes"][0]["watertight"] for _, values, *_ in answers)
        sizes.append(app.memory())
    growth = sizes[2] - sizes[1]
    print(f"ten more requests at once: resident memory grew by {growth / 2**20:.1f} MiB")
    assert growth < 30 << 20


def wrong_files(folder: Path) -> list[Path]:
    whole = photo(folder / "whole.jpg").read_bytes()
    contents = {
        "empty.png": b"",
        "page.jpg": b"<!doctype html><script>alert(1)</script>",
        "noise.png": os.urandom(5000),
        "header.png": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "bomb.svg": b"<svg xmlns='http://www.w3.org/2000/svg' width='99999' height='99999'/>",
        "text.txt": b"hello",
        "archive.zip": b"PK\x03\x04" + bytes(50),
        "..png": b"",
        "<img src=x onerror=alert(1)>.jpg": b"x",
        "-rf.jpg": b"\xff\xd8\xff",
    }
    contents |= {f"cut-{i}.jpg": whole[: 100 * i] for i in range(1, 41)}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]


def test_wrong_uploads_give_sentences_and_memory_returns(app, tmp_path):
    reconstruct(app, tmp_path, photo(tmp_path / "warm.jpg"))
    before = app.memory()
    files = wrong_files(tmp_path)
    assert len(files) == 50
    client = app.client(tmp_path)
    for file in files:
        with pytest.raises(AppError) as error:
            client.predict(files=[handle_file(str(file))], resolution=32, api_name="/reconstruct")
        message = str(error.value)
        assert (
            len(message) < 300 and "Traceback" not in message and str(app.temporary) not in message
        )
    growth = app.memory() - before
    print(f"50 wrong uploads: resident memory grew by {growth / 2**20:.1f} MiB")
    assert growth < 60 << 20
    reconstruct(app, tmp_path, photo(tmp_path / "after.jpg"))


@pytest.mark.parametrize(
    "name", ["../../escaped.png", "/etc/escaped.png", "..\\..\\escaped.png", "%2e%2e/escaped.png"]
)
def test_names_with_traversal_stay_in_the_upload_folder(app, tmp_path, name):
    image = photo(tmp_path / "a.jpg", size=100).read_bytes()
    answer = httpx.post(f"{app.url}gradio_api/upload", files={"files": (name, image)})
    [path] = answer.json()
    uploads = app.uploads()
    assert Path(path).resolve().is_relative_to(uploads.resolve())
    assert Path(path).read_bytes() == image


def call(app: App, path: str) -> str:
    """Calls the API with the path of a file that was not uploaded, and returns the answer."""
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    data = [[file], False, "auto", 32, 0.5, 0, False, 0]
    event = httpx.post(f"{app.url}gradio_api/call/reconstruct", json={"data": data}).json()
    url = f"{app.url}gradio_api/call/reconstruct/{event['event_id']}"
    return httpx.get(url, timeout=60).text


def test_only_uploaded_files_are_read(app, tmp_path):
    secret = tmp_path / "secret.png"
    photo(tmp_path / "a.jpg", size=100).rename(secret)
    uploads = app.uploads()
    for path in (str(secret), f"{uploads}/../../../{secret.name}", "file:///etc/passwd"):
        answer = call(app, path)
        assert "event: error" in answer and "meshes" not in answer
    assert "addresses are not read" in call(app, "http://example.invalid/image.png")
    (app.work / "secret.txt").write_text(SECRET)
    for path in (app.work / "secret.txt", f"{uploads}/../../../work/secret.txt", "/etc/passwd"):
        answer = httpx.get(f"{app.url}gradio_api/file={path}")
        assert answer.status_code in (403, 404) and SECRET not in answer.text
    (app.work / "secret.txt").unlink()


def test_files_above_the_limit_are_refused(app):
    content = b"x" * (MOST_BYTES + 1)
    answer = httpx.post(f"{app.url}gradio_api/upload", files={"files": ("huge.png", content)})
    assert answer.status_code == 413
    assert not [path for path in app.temporary.rglob("*") if path.stat().st_size > MOST_BYTES]


def test_other_sites_can_neither_read_nor_resolve_to_the_page(app):
    origin = {"Origin": "http://evil.example"}
    answer = httpx.get(f"{app.url}config", headers=origin)
    assert "access-control-allow-origin" not in answer.headers
    assert httpx.get(app.url, headers={"Host": "evil.example"}).status_code == 400


def test_wrong_values_are_sentences(app, tmp_path):
    image = handle_file(str(photo(tmp_path / "a.jpg", size=100)))
    client = app.client(tmp_path)
    for values in ({"resolution": 1e9}, {"threshold": 7}, {"background": "magic"}, {"seed": -1}):
        with pytest.raises(AppError) as error:
            client.predict(files=[image], api_name="/reconstruct", **values)
        assert "Traceback" not in str(error.value)


def test_a_cancelled_request_ends(app, tmp_path):
    image = handle_file(str(photo(tmp_path / "a.jpg", size=100)))
    client = app.client(tmp_path)
    job = client.submit(files=[image] * 16, resolution=512, api_name="/reconstruct")
    while job.status().code.value != "PROGRESS":
        threading.Event().wait(0.02)
    job.cancel()
    start = time.monotonic()
    reconstruct(app, tmp_path, photo(tmp_path / "b.jpg"))
    assert time.monotonic() - start < 20  # sixteen meshes take minutes


def test_no_request_leaves_the_machine(app):
    """Runs after the others. The browser's requests are tested in test_browser.py."""
    with pytest.raises(BlockingIOError):
        app.proxy.accept()


def test_nothing_is_left_behind(app):
    """Runs last."""
    assert [*app.work.iterdir()] == []
    assert app.uploads().parent.name.startswith("occvae-app-")
    fonts = app.home / ".cache" / "matplotlib"  # which gradio imports where it is installed
    files = [path for path in app.home.rglob("*") if path.is_file()]
    assert [path for path in files if not path.is_relative_to(fonts)] == []
    app.process.send_signal(signal.SIGTERM)
    assert app.process.wait(30) == 130
    assert [*app.temporary.iterdir()] == []

"""Downloads end with the whole file or with one line, whatever the server does."""

import time
from pathlib import Path

import numpy as np
import pytest

from occvae.errors import UserError
from occvae.system import download as module
from occvae.system.download import download
from tests.small_disk import mounted
from tests.system.http_server import Server, file, in_turn, refuse, send, started

CONTENT = np.random.default_rng(0).bytes(300_000)
OTHER = np.random.default_rng(1).bytes(250_000)


@pytest.fixture
def server():
    with started() as server:
        yield server


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """The seconds between attempts. No test waits for them."""
    waits: list[float] = []
    monkeypatch.setattr(module.time, "sleep", waits.append)
    return waits


def fetch(server: Server, folder: Path, *answers) -> bytes:
    """Downloads a file that the server answers in turn. Nothing else is left in the folder."""
    server.answers["/file"] = in_turn(*answers)
    download(f"{server.url}/file", folder / "new" / "file.zip")
    assert [path.name for path in (folder / "new").iterdir()] == ["file.zip"]
    return (folder / "new" / "file.zip").read_bytes()


def test_a_file_is_downloaded(server, tmp_path, waits):
    assert fetch(server, tmp_path, file(CONTENT)) == CONTENT
    assert server.ranges == [None] and not waits


def test_a_broken_connection_is_continued(server, tmp_path, waits):
    assert fetch(server, tmp_path, file(CONTENT, cut=100_000)) == CONTENT
    assert server.ranges == [None, "bytes=100000-", "bytes=200000-"]
    assert waits == [1.0, 1.0]  # each attempt brought something


def test_a_later_call_continues(server, tmp_path, waits):
    url, path = f"{server.url}/file", tmp_path / "file.zip"
    server.answers["/file"] = in_turn(file(CONTENT, cut=100_000), file(CONTENT, cut=0))
    message = "/file: the server sent no data; gave up after 5 attempts; run the same command again"
    with pytest.raises(UserError, match=message):
        download(url, path)
    assert not path.exists()
    assert waits == [1.0, 1.0, 2.0, 4.0, 8.0]
    server.answers["/file"] = file(CONTENT)
    server.ranges.clear()
    download(url, path)
    assert server.ranges == ["bytes=100000-"] and path.read_bytes() == CONTENT


def test_a_complete_partial_file_needs_no_request(server, tmp_path, waits):
    url, path = f"{server.url}/file", tmp_path / "file.zip"
    server.answers["/file"] = in_turn(file(CONTENT, cut=100_000), refuse(404))
    with pytest.raises(UserError, match="404 Not Found; if you have the file from elsewhere, put"):
        download(url, path)
    (tmp_path / "file.zip.partial").write_bytes(CONTENT)  # killed just before the end
    download(url, path)
    assert len(server.ranges) == 2 and path.read_bytes() == CONTENT


def test_a_partial_file_of_another_address_is_not_continued(server, tmp_path, waits):
    server.answers["/other"] = in_turn(file(OTHER, cut=100_000), refuse(403))
    with pytest.raises(UserError, match="the server answered 403 Forbidden"):
        download(f"{server.url}/other", tmp_path / "new" / "file.zip")
    assert fetch(server, tmp_path, file(CONTENT)) == CONTENT
    assert server.ranges[-1] is None


@pytest.mark.parametrize("description", [b"", b"[", b"[]", b"{}", b"\xff"])
def test_a_partial_file_without_its_description_is_not_continued(
    server, tmp_path, waits, description
):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "file.zip.partial").write_bytes(b"garbage")
    (tmp_path / "new" / "file.zip.partial.json").write_bytes(description)
    assert fetch(server, tmp_path, file(CONTENT)) == CONTENT


@pytest.mark.parametrize(
    "second",
    [
        file(OTHER, ETag='"2"'),  # changed, and noticed by the server
        file(OTHER, ranges=False, ETag='"2"'),
        lambda request: send(
            request,
            206,
            OTHER[100_000:],
            Content_Range=f"bytes 100000-249999/{len(OTHER)}",
            Content_Length=150_000,
        ),  # changed, and not noticed by the server
        lambda request: send(
            request,
            206,
            OTHER,
            Content_Range="bytes 0-249999/300000",
            Content_Length=len(OTHER),
        ),
        lambda request: send(request, 206, OTHER, Content_Length=len(OTHER)),
        refuse(416),
    ],
)
def test_another_version_starts_again(server, tmp_path, waits, second):
    new = file(OTHER, ETag='"2"')
    assert fetch(server, tmp_path, file(CONTENT, cut=100_000), second, new) == OTHER


@pytest.mark.parametrize(
    "version", [{"Last-Modified": "x"}, {"ETag": 'W/"1"', "Last-Modified": "x"}]
)
def test_a_date_is_a_version(server, tmp_path, waits, version):
    assert fetch(server, tmp_path, file(CONTENT, cut=200_000, **version)) == CONTENT
    assert server.ranges == [None, "bytes=200000-"]


@pytest.mark.parametrize("version", [{"Server": "x"}, {"ETag": 'W/"1"'}])
def test_without_a_version_every_attempt_is_whole(server, tmp_path, waits, version):
    answers = file(CONTENT, cut=200_000, **version), file(OTHER, **version)
    assert fetch(server, tmp_path, *answers) == OTHER
    assert server.ranges == [None, None]


def test_a_server_without_ranges_sends_the_whole_file(server, tmp_path, waits):
    answers = file(CONTENT, cut=200_000), file(CONTENT, ranges=False)
    assert fetch(server, tmp_path, *answers) == CONTENT


def test_a_server_that_never_gets_further_is_given_up(server, tmp_path, waits):
    server.answers["/file"] = file(CONTENT, cut=200_000, ranges=False)
    with pytest.raises(UserError, match="ended after 200000 of 300000 bytes; gave up after 5 att"):
        download(f"{server.url}/file", tmp_path / "file.zip")
    assert len(server.ranges) == 1 + 5


def test_bytes_beyond_the_announced_size_are_dropped(server, tmp_path, waits):
    def too_much(request):
        send(
            request,
            206,
            CONTENT[100_000:] + b"more",
            Content_Range="bytes 100000-299999/300000",
            Content_Length=200_004,
        )

    assert fetch(server, tmp_path, file(CONTENT, cut=100_000), too_much) == CONTENT


def test_a_size_may_be_unknown(server, tmp_path, waits):
    assert fetch(server, tmp_path, lambda request: send(request, 200, CONTENT)) == CONTENT

    def chunked(request, body=b"5\r\nhello\r\n"):
        send(request, 200, body, Transfer_Encoding="chunked", ETag='"1"')

    def rest(request):
        assert request.headers["Range"] == "bytes=5-"
        send(request, 206, b" you", Content_Range="bytes 5-8/9", Content_Length=4)

    (tmp_path / "new" / "file.zip").unlink()
    assert fetch(server, tmp_path, chunked, rest) == b"hello you"  # the last chunk is missing


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_temporary_errors_are_tried_again(server, tmp_path, waits, status):
    assert fetch(server, tmp_path, refuse(status), refuse(status), file(CONTENT)) == CONTENT
    assert waits == [1.0, 2.0]


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_other_errors_are_reported_at_once(server, tmp_path, waits, status):
    server.answers["/file"] = refuse(status)
    with pytest.raises(UserError, match=rf"/file: the server answered {status} .* put it at .*zip"):
        download(f"{server.url}/file", tmp_path / "file.zip")
    assert len(server.ranges) == 1 and not list(tmp_path.iterdir())


PAGE = b"\n  <!DOCTYPE html><p>Please log in"


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/zip"])
def test_a_web_page_is_refused_and_drops_nothing(server, tmp_path, waits, kind):
    def page(request):
        send(request, 200, PAGE, Content_Type=kind, Content_Length=len(PAGE), ETag='"9"')

    server.answers["/file"] = in_turn(page, file(CONTENT, cut=100_000), page)
    for name in (None, "file.zip.partial"):
        with pytest.raises(
            UserError, match="sent a web page instead of the file; open the address"
        ):
            download(f"{server.url}/file", tmp_path / "file.zip")
        assert name is None or (tmp_path / name).read_bytes() == CONTENT[:100_000]
    server.ranges.clear()
    server.answers["/file"] = file(CONTENT)
    download(f"{server.url}/file", tmp_path / "file.zip")
    assert server.ranges == ["bytes=100000-"]
    assert (tmp_path / "file.zip").read_bytes() == CONTENT


def test_a_silent_server_is_given_up(server, tmp_path, waits, monkeypatch):
    monkeypatch.setattr(module, "_TIMEOUT", 0.05)
    server.answers["/file"] = lambda request: real_sleep(0.3)
    with pytest.raises(UserError, match="timed out; gave up after 5 attempts"):
        download(f"{server.url}/file", tmp_path / "file.zip")


real_sleep = time.sleep  # `waits` replaces it


def test_an_unreachable_server_is_given_up(tmp_path, waits):
    with started() as server:
        url = server.url
    with pytest.raises(UserError, match="Connection refused; gave up after 5 attempts"):
        download(f"{url}/file", tmp_path / "file.zip")
    assert waits == [1.0, 2.0, 4.0, 8.0]


def test_a_file_larger_than_the_disk_is_refused_before_it_is_written(server, tmp_path, waits):
    with mounted(tmp_path / "small", "64k") as folder:
        server.answers["/file"] = file(CONTENT)
        message = "small: downloading file.zip needs 300.0 kB, but only 6.* are free; free some"
        with pytest.raises(UserError, match=message):
            download(f"{server.url}/file", folder / "file.zip")
        assert (folder / "file.zip.partial").stat().st_size == 0


def test_a_full_disk_is_reported_and_the_download_continues(server, tmp_path, waits, monkeypatch):
    path = tmp_path / "small" / "file.zip"
    with mounted(tmp_path / "small", "256k"):
        server.answers["/file"] = file(CONTENT[:200_000])
        filler = path.with_name("filler")
        with monkeypatch.context() as patched:
            # Another program fills the disk after the check.
            patched.setattr(module, "check_room", lambda *_: filler.write_bytes(bytes(150_000)))
            message = r"file.zip: cannot be written \(No space left on device\); fix that and run"
            with pytest.raises(UserError, match=message):
                download(f"{server.url}/file", path)
        filler.unlink()
        download(f"{server.url}/file", path)
        assert path.read_bytes() == CONTENT[:200_000]

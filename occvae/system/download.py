"""Downloads large files over HTTP, and continues where an earlier attempt broke off."""

import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NoReturn

from tqdm import tqdm

from occvae.errors import UserError
from occvae.system.atomic_write import WriteError, to_disk, write_whole_text
from occvae.system.disk_room import check_room
from occvae.system.verbosity import is_quiet

_MAX_FAILURES = 5  # in a row, without a byte more than before
_TIMEOUT = 60.0  # seconds without data after which a connection is given up
_BLOCK = 1 << 18  # bytes per read
_AGAIN = "run the same command again; it continues where it stopped"
# Answers that may differ at the next attempt.
_TEMPORARY = frozenset((408, 425, 429, 500, 502, 503, 504))


class _Interrupted(Exception):
    """An attempt failed, and another one may succeed."""


def download(url: str, path: Path) -> None:
    """Downloads a file. It has its final name only once all its bytes are on the disk.

    Until then its bytes are in `NAME.partial` beside it, and `NAME.partial.json` identifies the
    version of the file on the server. A later call continues with a range request. The download
    starts again from the first byte if the server has another version, does not support ranges, or
    names no version (by `ETag` or `Last-Modified`).

    Args:
        url: address of the file.
        path: where to write it. Its folder is created if absent.

    Raises:
        UserError: the server refuses the file or answers with a web page, the disk has too little
            room, or several attempts in a row brought no more bytes.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = _Partial(url, path)
        with tqdm(desc=path.name, unit="B", unit_scale=True, disable=is_quiet()) as progress:
            _repeat(partial, progress)
        partial.finish()
    except OSError as error:  # network errors are handled in `_repeat`
        raise WriteError(
            f"{path}: cannot be written ({error.strerror or error}); fix that and {_AGAIN}"
        ) from None


class _Partial:
    """The bytes of a download so far, and the version of the file on the server.

    Args:
        url: address of the file.
        path: final path of the file.

    Attributes:
        size: number of bytes of the whole file, or None if unknown.
        version: its strong `ETag` or its `Last-Modified`, or None if the server sent neither.
    """

    def __init__(self, url: str, path: Path):
        self.url, self.path = url, path
        self.file = path.with_name(f"{path.name}.partial")
        self._info = path.with_name(f"{path.name}.partial.json")
        self.size: int | None = None
        self.version: str | None = None
        info = self._read_info()
        if self.file.is_file() and info.get("url") == url:
            self.size, self.version = info.get("size"), info.get("version")

    @property
    def length(self) -> int:
        return self.file.stat().st_size if self.file.is_file() else 0

    @property
    def is_complete(self) -> bool:
        return self.size is not None and self.length == self.size

    def begin(self, size: int | None, version: str | None) -> None:
        """Drops the bytes so far, and records the version of those that follow."""
        self.file.write_bytes(b"")
        self.size, self.version = size, version
        info = {"url": self.url, "size": size, "version": version}
        write_whole_text(self._info, json.dumps(info) + "\n")

    def drop(self) -> None:
        self.file.unlink(missing_ok=True)
        self._info.unlink(missing_ok=True)
        self.size = self.version = None

    def finish(self) -> None:
        to_disk(self.file)
        os.replace(self.file, self.path)
        to_disk(self.path.parent)
        self._info.unlink(missing_ok=True)

    def _read_info(self) -> dict[str, Any]:
        try:
            info = json.loads(self._info.read_text())
        except (OSError, ValueError):
            return {}
        return info if isinstance(info, dict) else {}


def _repeat(partial: _Partial, progress: "tqdm[NoReturn]") -> None:
    """Makes attempts until the file is complete or too many in a row bring no more bytes."""
    failures, furthest = 0, partial.length
    while not partial.is_complete:
        try:
            _attempt(partial, progress)
        except _Interrupted as error:
            length = partial.length
            failures = 0 if length > furthest else failures + 1
            furthest = max(furthest, length)
            if failures == _MAX_FAILURES:
                raise UserError(
                    f"{partial.url}: {error}; gave up after {failures} attempts; {_AGAIN}"
                ) from None
            time.sleep(2.0 ** max(failures - 1, 0))


def _attempt(partial: _Partial, progress: "tqdm[NoReturn]") -> None:
    """Requests the bytes that are missing, and writes those that arrive.

    Raises:
        _Interrupted: they did not all arrive.
    """
    start = partial.length if partial.version else 0
    with _open(partial, start) as response:
        continues = response.status == 206
        if continues:
            _check_range(partial, start, response.headers.get("Content-Range", ""))
        first = _read(response, _BLOCK)
        # Looked at before earlier bytes are dropped, because a portal may answer in between.
        is_page = not continues and first.lstrip().startswith(b"<")
        if is_page or response.headers.get_content_type() == "text/html":
            raise _page_error(partial)
        if not first:
            raise _Interrupted("the server sent no data")
        if not continues:
            start = 0
            partial.begin(_size(response), _version(response))
        size = partial.size
        if size is not None:
            check_room(partial.file.parent, size - start, f"downloading {partial.path.name}")
        progress.total, progress.n = size, start
        progress.refresh()
        _receive(response, first if size is None else first[: size - start], partial, progress)


def _open(partial: _Partial, start: int) -> http.client.HTTPResponse:
    headers = {"User-Agent": "occvae"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": str(partial.version)}
    request = urllib.request.Request(partial.url, headers=headers)
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=_TIMEOUT)
        return response
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # the file is shorter now
            partial.drop()
        if error.code == 416 or error.code in _TEMPORARY:
            raise _Interrupted(f"the server answered {error.code} {error.reason}") from None
        raise UserError(
            f"{partial.url}: the server answered {error.code} {error.reason}; if you have the file "
            f"from elsewhere, put it at {partial.path} and run the same command again"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        raise _Interrupted(_reason(error)) from None


def _receive(
    response: http.client.HTTPResponse,
    block: bytes,
    partial: _Partial,
    progress: "tqdm[NoReturn]",
) -> None:
    """Writes the bytes of an answer, which begins with `block`."""
    length, size = partial.length, partial.size
    with partial.file.open("ab") as file:
        while block:
            file.write(block)
            length += len(block)
            progress.update(len(block))
            block = b"" if length == size else _read(response, _BLOCK)
            if size is not None:
                block = block[: size - length]
    if size is None:
        partial.size = length  # the server sent no size, so the end of its data is the end
    elif length < size:
        raise _Interrupted(f"the connection ended after {length} of {size} bytes")


def _read(response: http.client.HTTPResponse, count: int) -> bytes:
    try:
        return response.read1(count)
    except (OSError, http.client.HTTPException) as error:
        raise _Interrupted(_reason(error)) from None


def _check_range(partial: _Partial, start: int, text: str) -> None:
    """Checks that an answer continues the bytes so far."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", text, re.ASCII)
    if match and int(match[1]) == start:
        total = partial.size if match[2] == "*" else int(match[2])
        if partial.size in (None, total):
            partial.size = total
            return
    size = partial.size
    partial.drop()
    raise _Interrupted(
        f"the server answered with {text or 'no range'} where byte {start} of {size} was next"
    )


def _size(response: http.client.HTTPResponse) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if re.fullmatch(r"\d+", text, re.ASCII) else None


def _version(response: http.client.HTTPResponse) -> str | None:
    tag = response.headers.get("ETag")
    # A weak tag does not promise equal bytes, so HTTP forbids it in If-Range.
    if tag and not tag.startswith("W/"):
        return tag
    return response.headers.get("Last-Modified")


def _page_error(partial: _Partial) -> UserError:
    return UserError(
        f"{partial.url}: the server sent a web page instead of the file; open the address in a "
        f"browser to see why, or put the file from elsewhere at {partial.path} and run the same "
        "command again"
    )


def _reason(error: Exception) -> str:
    inner = error.reason if isinstance(error, urllib.error.URLError) else error
    text = inner.strerror if isinstance(inner, OSError) and inner.strerror else str(inner)
    return text or type(inner).__name__

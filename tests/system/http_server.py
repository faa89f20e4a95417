"""A local HTTP server whose answers are well behaved or wrong in a chosen way."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """Serves files, and remembers the requests.

    Attributes:
        answers: path to what answers its requests.
        ranges: the `Range` header of each request in order, None if there is none.
    """

    def __init__(self):
        self.answers: dict[str, Answer] = {}
        self.ranges: list[str | None] = []
        self.url = ""

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        self.ranges.append(request.headers["Range"])
        self.answers.get(request.path, refuse(404))(request)
        request.close_connection = True


@contextmanager
def started() -> Iterator[Server]:
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            server.handle(self)

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{http.server_address[1]}"
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()


def send(request: BaseHTTPRequestHandler, status: int, body: bytes, **headers: str | int) -> None:
    """Sends an answer. Headers are named with "_" for "-", and nothing is added to them."""
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), str(value))
    request.end_headers()
    request.wfile.write(body)


def refuse(status: int) -> Answer:
    return lambda request: send(request, status, b"no", Content_Length=2)


def file(content: bytes, *, cut: int | None = None, ranges: bool = True, **headers: str) -> Answer:
    """Serves a file with its version, by default an ETag.

    Args:
        content: the bytes.
        cut: number of bytes after which each answer breaks off.
        ranges: whether ranges are supported.
        headers: headers that replace the ETag.
    """
    versions: dict[str, str] = headers or {"ETag": '"1"'}

    def answer(request: BaseHTTPRequestHandler) -> None:
        start, status, more = 0, 200, {}
        match = re.fullmatch(r"bytes=(\d+)-", request.headers["Range"] or "")
        if match and ranges and request.headers["If-Range"] in versions.values():
            start, status = int(match[1]), 206
            more["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        body = content[start:]
        more["Content_Length"] = str(len(body))
        send(request, status, body[:cut], **more, **versions)

    return answer


def in_turn(*answers: Answer) -> Answer:
    """Gives each answer once, and the last one ever after."""
    left = list(answers)
    return lambda request: (left.pop(0) if len(left) > 1 else left[0])(request)

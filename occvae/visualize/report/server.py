"""The server of `occvae view`, which answers only this machine."""

import errno
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from occvae.errors import UserError
from occvae.system.terminal import one_line

ADDRESS = "127.0.0.1"
# Protection from DNS rebinding: a foreign page can let its own host name resolve to 127.0.0.1 and
# then read our pages. Its requests carry that name as Host. The port may differ behind `ssh -L`.
_HOSTS = ("127.0.0.1", "localhost", "[::1]")
_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}

Page = Callable[[], str]


def create_server(pages: dict[str, Page], port: int = 0) -> ThreadingHTTPServer:
    """Returns a server that is bound to its port but does not serve yet.

    Args:
        pages: path such as "/" to a function that makes the page. The path of a request is only
            looked up in this dict and never on disk.
        port: 0 takes a free port.

    Raises:
        UserError: the port is in use, not allowed or out of range.
    """
    handler = type("Handler", (_Handler,), {"pages": pages})
    if not 0 <= port < 1 << 16:
        raise UserError(f"--port {port}: must be between 0 and 65535")
    try:
        return _Server((ADDRESS, port), handler)
    except OSError as error:
        reason = "is not allowed"
        if error.errno == errno.EADDRINUSE:
            reason = "is in use"
        raise UserError(f"--port {port}: {reason}; choose another or leave it out") from None


class _Server(ThreadingHTTPServer):
    daemon_threads = True  # an open connection must not delay Ctrl-C

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Prints one line. A browser that closes the connection early is not an error."""
        error = sys.exception()
        if not isinstance(error, ConnectionError):
            print(f"error: {type(error).__name__}: {one_line(error)}", file=sys.stderr)


class _Handler(BaseHTTPRequestHandler):
    pages: dict[str, Page]
    server_version, sys_version = "occvae", ""
    timeout = 30.0  # seconds until a silent client is disconnected

    def do_GET(self) -> None:
        self._answer(*self._find_page())

    def do_HEAD(self) -> None:
        self._answer(*self._find_page())

    def log_message(self, format: str, *args: object) -> None:
        """Logs nothing, so that the terminal shows only the address."""

    def _find_page(self) -> tuple[int, str]:
        host = self.headers.get("Host", "")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if name.lower() not in _HOSTS:
            return 403, "Only requests to localhost or 127.0.0.1 are answered.\n"
        page = self.pages.get(self.path.partition("?")[0])
        if page is None:
            return 404, "No such page.\n"
        try:
            return 200, page()
        except (UserError, OSError) as error:  # a file may have changed or been deleted
            return 500, f"{error}\n"
        except Exception as error:  # a file may hold what a run never writes
            return 500, f"cannot show this page: {type(error).__name__}: {error}\n"

    def _answer(self, status: int, text: str) -> None:
        body = text.encode(errors="backslashreplace")  # file names may be undecodable
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(
                name, value if status == 200 or name != "Content-Type" else "text/plain"
            )
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

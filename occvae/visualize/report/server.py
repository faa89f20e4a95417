"""A server for the pages of `occvae view`, for this machine only."""

import errno
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from occvae.errors import UserError
from occvae.system.terminal import one_line

ADDRESS = "127.0.0.1"
# A page elsewhere may give its own name the address 127.0.0.1 (DNS rebinding) and read what is
# here; its requests then bear that name. The port may differ behind `ssh -L`.
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
    """A bound server, not yet serving.

    Args:
        pages: what makes a page, by path such as "/". Nothing else is served: a request's path is
            only ever looked up here, never on disk.
        port: 0 takes a free one.

    Raises:
        UserError: the port is taken, not allowed or none.
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
        raise UserError(f"--port {port}: {reason}; choose another, or leave it out") from None


class _Server(ThreadingHTTPServer):
    daemon_threads = True  # an open connection must not hold up Ctrl-C

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that closes early is no event; anything else is one line."""
        error = sys.exception()
        if not isinstance(error, ConnectionError):
            print(f"error: {type(error).__name__}: {one_line(error)}", file=sys.stderr)


class _Handler(BaseHTTPRequestHandler):
    pages: dict[str, Page]
    server_version, sys_version = "occvae", ""
    timeout = 30.0  # of a client that says nothing

    def do_GET(self) -> None:
        self._answer(*self._find_page())

    def do_HEAD(self) -> None:
        self._answer(*self._find_page())

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: the terminal has the address only."""

    def _find_page(self) -> tuple[int, str]:
        host = self.headers.get("Host", "")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if name.lower() not in _HOSTS:
            return 403, "Only for requests to this machine by the name localhost or 127.0.0.1.\n"
        page = self.pages.get(self.path.partition("?")[0])
        if page is None:
            return 404, "No such page.\n"
        try:
            return 200, page()
        except (UserError, OSError) as error:  # a file that has changed or gone since
            return 500, f"{error}\n"
        except Exception as error:  # a file that says what no run of ours writes
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

"""Serves the page of `occvae app`, to this machine only unless another address is given."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from occvae.app.service import MeshService
from occvae.errors import UserError

if TYPE_CHECKING:
    import gradio as gr

LOCAL = "127.0.0.1"
MOST_BYTES = 64 << 20
"""Largest file that can be uploaded."""
# Gradio keeps the last view of each of this many visitors, about a megabyte each.
_SESSIONS = 32
# Protection from DNS rebinding: a foreign page can let its own host name resolve to 127.0.0.1. Its
# requests carry that name as Host.
_HOSTS = ("127.0.0.1", "localhost")


@contextlib.contextmanager
def serve(service: MeshService, host: str = LOCAL, port: int | None = None) -> Iterator[str]:
    """Serves the page in other threads while the context is open.

    All files of the page are in a temporary folder, which is removed at the end.

    Args:
        service: Computes what the page shows.
        host: Address to listen at.
        port: None takes a free one from 7860 on.

    Yields:
        The address of the page.

    Raises:
        UserError: gradio is not installed, or the port is in use or out of range.
    """
    if port is not None and not 1 <= port < 1 << 16:
        raise UserError(f"--port {port}: must be between 1 and 65535")
    with (
        tempfile.TemporaryDirectory(prefix="occvae-app-") as name,
        _environment(Path(name)) as uploads,
    ):
        check_gradio()
        from occvae.app.page import create_page

        page = create_page(service, uploads)
        try:
            yield _launch(page, host, port)
        finally:
            page.close(verbose=False)


def check_gradio() -> None:
    """Raises a UserError unless gradio is installed. Does not import it, see `_environment`."""
    if find_spec("gradio") is None:
        raise UserError("occvae app needs gradio: pip install 'occvae[app]'")


def _direct_hosts() -> str:
    """Returns the hosts that the user reaches without a proxy, if any."""
    return os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""


@contextlib.contextmanager
def _environment(folder: Path) -> Iterator[Path]:
    """Keeps uploads in the folder, and gradio from the network. Yields the folder of uploads.

    Gradio reads the variables when it is imported, too.
    """
    uploads = folder / "uploads"
    uploads.mkdir()
    values = {
        "GRADIO_TEMP_DIR": str(uploads),
        "GRADIO_ANALYTICS_ENABLED": "False",
        # A proxy must not get the requests with which gradio asks itself whether it has started.
        "no_proxy": ",".join(filter(None, [_direct_hosts(), *_HOSTS])),
    }
    before = {key: os.environ.get(key) for key in values}
    os.environ |= values
    try:
        yield uploads
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def _theme() -> gr.Theme:
    """Returns a theme with fonts of the system, and with more contrast than the default."""
    import gradio as gr

    theme = gr.themes.Default(
        primary_hue="blue",
        font=("system-ui", "sans-serif"),
        font_mono=("ui-monospace", "monospace"),
    )
    return theme.set(
        body_text_color_subdued="#5a6570",
        body_text_color_subdued_dark="#9aa6b1",
        block_info_text_color="*body_text_color_subdued",
        block_info_text_color_dark="*body_text_color_subdued",
        button_large_text_weight="500",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
    )


def _launch(page: gr.Blocks, host: str, port: int | None) -> str:
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from occvae.app.page import style

    guard = [Middleware(TrustedHostMiddleware, allowed_hosts=list(_HOSTS))]
    try:
        _, url, _ = page.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=MOST_BYTES,
            state_session_capacity=_SESSIONS,
            ssr_mode=False,
            footer_links=["api"],
            run_history=False,
            enable_monitoring=False,
            pwa=False,
            mcp_server=False,
            theme=_theme(),
            css=style(),
            app_kwargs={"middleware": guard} if host == LOCAL else {},
        )
    except OSError:
        where = f"--port {port}" if port is not None else f"the ports from 7860 on of {host}"
        raise UserError(f"{where}: cannot be used; choose another with --port") from None
    return url

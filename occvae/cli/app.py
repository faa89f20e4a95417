"""occvae app: a page that turns images into 3D, for this machine only unless asked."""

import argparse
import signal
import sys
import threading
from types import FrameType

from occvae.cli.shared import MODEL_HELP, add_device, load_model

_LOCAL = "127.0.0.1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help=MODEL_HELP)
    parser.add_argument(
        "--port", type=int, help="port of the server (default: the first free one from 7860 on)"
    )
    parser.add_argument(
        "--host",
        default=_LOCAL,
        help=f"address to listen at; 0.0.0.0 lets everyone on the network use the page (default: "
        f"{_LOCAL}, this machine only)",
    )
    add_device(parser)
    parser.add_argument(
        "--no-browser", action="store_true", help="print the address and open no browser"
    )


def run(options: argparse.Namespace) -> None:
    from occvae.app.server import check_gradio, serve
    from occvae.app.service import MeshService
    from occvae.cli.shared import open_browser
    from occvae.system.devices import local_device

    check_gradio()
    device = local_device(options.device)
    model, _ = load_model(options.model)
    signal.signal(signal.SIGTERM, _interrupt)
    with serve(MeshService(model, device), options.host, options.port) as url:
        print(f"{url}   (Ctrl-C to stop)", flush=True)
        if options.host != _LOCAL:
            print(
                "warning: everyone who reaches this address can use the page, without a password",
                file=sys.stderr,
            )
        if not options.no_browser:
            threading.Thread(target=open_browser, args=(url,), daemon=True).start()
        threading.Event().wait()


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Ends like Ctrl-C, so that the temporary folder is removed."""
    raise KeyboardInterrupt

"""The `occvae` command."""

import argparse
import os
import signal
import sys
from typing import Any

from occvae.cli import convert, data, evaluate, info, reconstruct, view
from occvae.errors import UserError
from occvae.system.openmp import limit_spinning
from occvae.system.terminal import escape_what_cannot_be_written, one_line

# Each with `add_arguments(parser)` and `run(options)`.
_COMMANDS = {
    "info": (info, "versions, what is built, devices, what is missing and why"),
    "data": (data, "build and verify datasets"),
    "reconstruct": (reconstruct, "images to mesh files"),
    "evaluate": (evaluate, "IoU of a model on a dataset, with controls"),
    "view": (view, "meshes, runs and reports in the browser"),
    "convert": (convert, "official checkpoints of other systems"),
}


class _Parser(argparse.ArgumentParser):
    """Its commands are parsers like it: options are as they are written, not what begins so."""

    def __init__(self, **options: Any):
        super().__init__(**options, allow_abbrev=False)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """A command refuses by itself what it does not know, and so below its own usage."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return options, unknown


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status; mistakes of the user are one line on stderr and status 2."""
    limit_spinning()  # no command imports torch before it runs
    parser = _Parser(prog="occvae", description="Images of an object into 3D.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, (command, summary) in _COMMANDS.items():
        command.add_arguments(commands.add_parser(name, help=summary))
    escape_what_cannot_be_written()
    options = parser.parse_args(arguments)
    try:
        _COMMANDS[options.command][0].run(options)
    except BrokenPipeError:  # of `occvae ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (UserError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0

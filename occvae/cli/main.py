"""The `occvae` command."""

import os
import signal
import sys

from occvae.cli import convert, data, evaluate, info, reconstruct, view
from occvae.cli.parser import Command, CommandParser
from occvae.errors import UserError
from occvae.system.openmp import limit_spinning
from occvae.system.terminal import escape_what_cannot_be_written, one_line

_COMMANDS: dict[str, tuple[Command, str]] = {
    "info": (info, "versions, what is built, devices, what is missing and why"),
    "data": (data, "build and verify datasets"),
    "reconstruct": (reconstruct, "images to mesh files"),
    "evaluate": (evaluate, "IoU of a model on a dataset, with controls"),
    "view": (view, "meshes, runs and reports in the browser"),
    "convert": (convert, "official checkpoints of other systems"),
}


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status; mistakes of the user are one line on stderr and status 2."""
    limit_spinning()  # before anything imports torch
    parser = CommandParser(prog="occvae", description="Images of an object into 3D.")
    parser.add_commands("command", _COMMANDS)
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

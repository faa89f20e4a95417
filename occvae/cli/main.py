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
    "info": (info, "print versions, devices, the built kernels and what is missing"),
    "data": (data, "build, import, inspect and verify datasets"),
    "reconstruct": (reconstruct, "turn images into mesh files"),
    "evaluate": (evaluate, "measure a model on a dataset, with controls"),
    "view": (view, "show meshes, runs and reports in the browser"),
    "convert": (convert, "convert official checkpoints of other projects"),
}


def main(arguments: list[str] | None = None) -> int:
    """Runs a command and returns the exit status.

    A mistake of the user is one line on stderr and status 2.
    """
    limit_spinning()  # before anything imports torch
    parser = CommandParser(prog="occvae", description="Turns images of an object into 3D.")
    parser.add_commands("command", _COMMANDS)
    escape_what_cannot_be_written()
    options = parser.parse_args(arguments)
    try:
        _COMMANDS[options.command][0].run(options)
    except BrokenPipeError:  # as in `occvae ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (UserError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0

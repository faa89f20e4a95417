"""The `occvae` command."""

import logging
import os
import signal
import sys
import traceback

import occvae
from occvae.cli import (
    app,
    completion,
    convert,
    data,
    evaluate,
    info,
    interpolate,
    reconstruct,
    sample,
    train,
    view,
)
from occvae.cli.parser import Command, CommandParser
from occvae.errors import UserError
from occvae.system.openmp import limit_spinning
from occvae.system.terminal import escape_what_cannot_be_written, one_line
from occvae.system.verbosity import is_verbose, set_verbosity

COMMANDS: dict[str, tuple[Command, str]] = {
    "info": (info, "print versions, devices, the built kernels and what is missing"),
    "data": (data, "build, import, inspect and verify datasets"),
    "train": (train, "train a model"),
    "reconstruct": (reconstruct, "turn images and scans into mesh files"),
    "sample": (sample, "draw new shapes from a model"),
    "interpolate": (interpolate, "write the shapes between two objects"),
    "evaluate": (evaluate, "measure a model on a dataset, with controls"),
    "view": (view, "show meshes, runs and reports in the browser"),
    "app": (app, "open a page that turns images into meshes to look at and to download"),
    "convert": (convert, "convert official checkpoints of other projects"),
    "completion": (completion, "print a script that completes commands in a shell"),
}


def create_parser() -> CommandParser:
    """Returns the parser of the command line."""
    parser = CommandParser(
        prog="occvae",
        description="Turns images of an object into 3D.",
        epilog="`occvae COMMAND --help` describes a command.",
    )
    parser.add_argument("--version", action="version", version=f"occvae {occvae.__version__}")
    parser.set_defaults(parser=parser)  # for the command `completion`
    parser.add_commands("command", COMMANDS)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Runs a command and returns the exit status.

    A mistake of the user is one line on stderr and status 2.
    """
    limit_spinning()  # before anything imports torch
    escape_what_cannot_be_written()
    options = create_parser().parse_args(arguments)
    set_verbosity(options.verbosity)
    if is_verbose():
        logging.basicConfig(level=logging.INFO)
    try:
        return COMMANDS[options.command][0].run(options) or 0
    except BrokenPipeError:  # as in `occvae ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (UserError, OSError) as error:
        if is_verbose():
            traceback.print_exception(error)
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

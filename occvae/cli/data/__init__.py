"""occvae data: makes, checks and shows datasets. Each action is one file."""

import argparse

from occvae.cli.data import build, images, import_, info, merge, split, verify
from occvae.cli.parser import Command, CommandParser

_ACTIONS: dict[str, tuple[Command, str]] = {
    "build": (build, "make the embedded dataset; continues what it left"),
    "import": (import_, "make a dataset of files; continues what it left"),
    "images": (images, "write the first images of shapes to a folder"),
    "verify": (verify, "compare every shard with its checksum"),
    "info": (info, "what a dataset holds"),
    "split": (split, "divide the shapes of a dataset anew"),
    "merge": (merge, "several datasets into one"),
}


def add_arguments(parser: CommandParser) -> None:
    parser.add_commands("action", _ACTIONS)


def run(options: argparse.Namespace) -> None:
    action, _ = _ACTIONS[options.action]
    action.run(options)

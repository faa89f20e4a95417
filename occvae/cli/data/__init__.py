"""`occvae data`: makes, checks and shows datasets. Each action is one module."""

import argparse

from occvae.cli.data import build, download, images, import_, info, merge, split, verify
from occvae.cli.parser import Command, CommandParser

_ACTIONS: dict[str, tuple[Command, str]] = {
    "build": (build, "make a dataset without input files; continues after an interruption"),
    "download": (download, "download a published dataset; continues after an interruption"),
    "import": (import_, "make a dataset from files; continues after an interruption"),
    "images": (images, "write one image per shape to a folder"),
    "verify": (verify, "compare each shard with its checksum"),
    "info": (info, "print what a dataset holds"),
    "split": (split, "divide a dataset into new splits"),
    "merge": (merge, "merge several datasets, or the parts of an import, into one"),
}


def add_arguments(parser: CommandParser) -> None:
    parser.add_commands("action", _ACTIONS)


def run(options: argparse.Namespace) -> None:
    action, _ = _ACTIONS[options.action]
    action.run(options)

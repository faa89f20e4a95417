"""Formats that datasets are made from, one a file.

A new format is a new module of this package. It defines a source (see `occvae.data.sources`) and
`FORMAT`, with which `occvae data import` offers it under the module's name. Nothing lists formats.
"""

import argparse
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

from occvae.data.sources import Source


@dataclass(frozen=True)
class Format:
    """How the command line offers a format.

    Args:
        help: one line of `occvae data import --help`.
        add_arguments: adds what the source is made from. The command adds `destination` and
            `--workers` behind it.
        make_source: makes the source from all of these arguments.
        embedded: the format needs no files, so `occvae data build` offers it instead of `import`.
    """

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    make_source: Callable[[argparse.Namespace], Source]
    embedded: bool = False


def find_formats() -> dict[str, Format]:
    """Imports every module of this package and returns their formats by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return {name: importlib.import_module(f"{__name__}.{name}").FORMAT for name in names}


def add_published_folder(parser: argparse.ArgumentParser) -> None:
    """Adds `root`, for formats that are published as files to unpack into a folder."""
    parser.add_argument("root", help="folder of the unpacked files")

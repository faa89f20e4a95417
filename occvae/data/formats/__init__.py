"""Formats that datasets are imported from, one per module.

To add a format, add a module to this package. It defines a source (see `occvae.data.sources`) and a
constant `FORMAT`. `occvae data import` then offers the format under the module's name. There is no
list of formats to extend. `docs/contributing/add_a_format.md` is a recipe.
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
        help: the line of the format in `occvae data import --help`.
        add_arguments: adds the arguments of the format. The command adds `destination` and
            `--workers` after them.
        make_source: makes the source from the parsed arguments.
        embedded: whether the format needs no files. `occvae data build` then offers it instead of
            `occvae data import`.
    """

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    make_source: Callable[[argparse.Namespace], Source]
    embedded: bool = False


def find_formats() -> dict[str, Format]:
    """Imports every module of this package, and returns the formats by name.

    The modules import torch and what needs it in functions, so `--help` is fast.
    """
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return {name: importlib.import_module(f"{__name__}.{name}").FORMAT for name in names}


def add_published_folder(parser: argparse.ArgumentParser) -> None:
    """Adds the argument `root`, for formats that are published as an archive of files."""
    parser.add_argument("root", help="folder with the unpacked files")

"""Shared code of `occvae data build` and `occvae data import`."""

import argparse
from typing import TYPE_CHECKING

from occvae.cli.data.shared import LINES, add_destination, print_manifest

if TYPE_CHECKING:
    from occvae.data.manifest import Manifest
    from occvae.data.sources import Source


def add_formats(parser: argparse.ArgumentParser, metavar: str, *, embedded: bool) -> None:
    """Adds a subcommand per format, with its arguments.

    Args:
        parser: parser of the action.
        metavar: name of the format in the usage line.
        embedded: whether to add the formats that need no files, or the others.
    """
    from occvae.data.formats import find_formats

    parsers = parser.add_subparsers(dest="format", required=True, metavar=metavar)
    for name, format in find_formats().items():
        if format.embedded == embedded:
            format_parser = parsers.add_parser(name, help=format.help)
            format.add_arguments(format_parser)
            add_destination(format_parser)


def build_from_format(options: argparse.Namespace) -> None:
    """Builds a dataset from a format and its arguments, and prints what the dataset holds."""
    from occvae.data.build import build_dataset, shards_to_try_again
    from occvae.data.formats import find_formats

    source = find_formats()[options.format].make_source(options)
    manifest = build_dataset(source, options.destination, num_workers=options.workers)
    print_manifest(manifest)
    _print_lacking_splits(source, manifest)
    again = shards_to_try_again(source, manifest)
    if again:
        print(
            "to try skipped shapes again after their files are fixed: delete their shards "
            f"({', '.join(again[:LINES])}{', ...' * (len(again) > LINES)}) and run the same "
            "command again"
        )


def _print_lacking_splits(source: "Source", manifest: "Manifest") -> None:
    from occvae.data.manifest import OWN_SPLITS

    listed = {item.split for item in source.items}
    own = manifest.splits == OWN_SPLITS
    wanted = listed | {"train", "val"} if own else listed
    for split in sorted(wanted - manifest.count_shapes().keys()):
        reason = "all were skipped" if split in listed else "there are too few shapes"
        print(
            f"warning: no {split} shapes: {reason}"
            + "; `occvae data split` makes new splits of the others" * own
        )

"""Shared code of `occvae data build` and `occvae data import`."""

import argparse
import re
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
            format_parser.add_argument(
                "--part",
                type=_part,
                metavar="K/N",
                help="build only part K of N, e.g. in a job array; `occvae data merge` joins them",
            )


def _part(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text, re.ASCII)
    if match is None:
        raise argparse.ArgumentTypeError(f"must be K/N such as 1/8, got {text}")
    number, count = int(match[1]), int(match[2])
    if not 1 <= number <= count:
        raise argparse.ArgumentTypeError(f"parts are numbered from 1 to {count}, got {text}")
    return number, count


def build_from_format(options: argparse.Namespace) -> None:
    """Builds a dataset from a format and its arguments, and prints what the dataset holds."""
    from occvae.data.build import build_dataset, shards_to_try_again
    from occvae.data.formats import find_formats
    from occvae.data.parts import SourcePart

    source = find_formats()[options.format].make_source(options)
    if options.part is not None:
        source = SourcePart(source, *options.part)
    manifest = build_dataset(source, options.destination, num_workers=options.workers)
    print_manifest(manifest)
    if options.part is None:
        _print_lacking_splits(source, manifest)
    else:
        number, count = options.part
        print(f"part {number} of {count}; join all parts with `occvae data merge`")
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

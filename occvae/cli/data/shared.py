"""What several actions of `occvae data` share: arguments, and a report of a dataset."""

import argparse
from typing import TYPE_CHECKING

from occvae.system.terminal import one_line

if TYPE_CHECKING:
    from occvae.data.manifest import Manifest

LINES = 20  # printed of notes or of skipped shapes; there may be thousands


def add_destination(parser: argparse.ArgumentParser) -> None:
    """Adds what every build takes."""
    parser.add_argument("destination", help="folder of the dataset")
    parser.add_argument("--workers", type=int, help="processes; default one a core")


def positive(text: str) -> int:
    """Parses a number of at least 1."""
    return _at_least(1, text)


def natural(text: str) -> int:
    """Parses a number of at least 0."""
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be a number of at least {least}, got {text}")
    return int(text)


def print_manifest(manifest: "Manifest") -> None:
    """Prints how many shapes a dataset has, and the first notes and skipped shapes."""
    counts = manifest.count_shapes()
    total = sum(counts.values())
    print(
        f"{total} shapes ({', '.join(f'{count} {split}' for split, count in counts.items())}) in "
        f"{len(manifest.shards)} shards, {len(manifest.skipped)} skipped"
    )
    _print_some([f"{name}: {note}" for name, note in manifest.notes.items()])
    _print_some([f"skipped {name}: {reason}" for name, reason in manifest.skipped.items()])


def _print_some(lines: list[str]) -> None:
    for line in lines[:LINES]:
        print(f"  {one_line(line)}")
    if len(lines) > LINES:
        print(f"  and {len(lines) - LINES} more, all in dataset.json")

"""Shared code of the actions of `occvae data`: arguments, and the report of a dataset."""

import argparse
from typing import TYPE_CHECKING

from occvae.system.terminal import one_line

if TYPE_CHECKING:
    from occvae.data.manifest import Manifest

LINES = 20  # largest number of printed notes, and of printed skipped shapes


def add_destination(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that all builds have."""
    parser.add_argument("destination", help="folder of the new dataset")
    parser.add_argument("--workers", type=int, help="number of processes (default one per core)")


def positive(text: str) -> int:
    """Parses an integer of at least 1."""
    return _at_least(1, text)


def natural(text: str) -> int:
    """Parses an integer of at least 0."""
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be an integer of at least {least}, got {text}")
    return int(text)


def print_manifest(manifest: "Manifest") -> None:
    """Prints the number of shapes of a dataset, and the first notes and skipped shapes."""
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
        print(f"  and {len(lines) - LINES} more; dataset.json lists all of them")

"""`occvae data merge`: merges several datasets into one."""

import argparse

from occvae.cli.data.shared import print_manifest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "roots",
        nargs="+",
        metavar="root",
        help="folders of the datasets, or of all parts of an import",
    )
    parser.add_argument("destination", help="folder of the new dataset")


def run(options: argparse.Namespace) -> None:
    from occvae.data.merging import count_linked, merge_datasets

    manifest = merge_datasets(options.roots, options.destination)
    print_manifest(manifest)
    linked = count_linked(options.destination, manifest)
    copied = len(manifest.shards) - linked
    print(f"{linked} shards are hard links that take no disk space, {copied} are copies")

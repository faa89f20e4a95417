"""occvae data merge: several datasets into one."""

import argparse

from occvae.cli.data.shared import print_manifest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("roots", nargs="+", metavar="root")
    parser.add_argument("destination")


def run(options: argparse.Namespace) -> None:
    from occvae.data.merging import merge_datasets

    print_manifest(merge_datasets(options.roots, options.destination))

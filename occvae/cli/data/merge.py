"""`occvae data merge`: merges several datasets into one."""

import argparse

from occvae.cli.data.shared import print_manifest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("roots", nargs="+", metavar="root", help="folders of the datasets")
    parser.add_argument("destination", help="folder of the new dataset")


def run(options: argparse.Namespace) -> None:
    from occvae.data.merging import merge_datasets

    print_manifest(merge_datasets(options.roots, options.destination))

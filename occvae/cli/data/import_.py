"""`occvae data import`: makes a dataset from files in any format of occvae/data/formats/."""

import argparse

from occvae.cli.data import formats


def add_arguments(parser: argparse.ArgumentParser) -> None:
    formats.add_formats(parser, "format", embedded=False)


def run(options: argparse.Namespace) -> None:
    formats.build_from_format(options)

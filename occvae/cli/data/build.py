"""`occvae data build`: makes datasets that need no input files."""

import argparse

from occvae.cli.data import formats


def add_arguments(parser: argparse.ArgumentParser) -> None:
    formats.add_formats(parser, "source", embedded=True)


def run(options: argparse.Namespace) -> None:
    formats.build_from_format(options)

"""occvae data build: the embedded datasets, which need no files."""

import argparse

from occvae.cli.data import formats


def add_arguments(parser: argparse.ArgumentParser) -> None:
    formats.add_formats(parser, "source", embedded=True)


def run(options: argparse.Namespace) -> None:
    formats.build_from_format(options)

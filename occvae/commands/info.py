"""occvae info: versions, what is built, devices, what is missing and why."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It takes none."""


def run(options: argparse.Namespace) -> None:
    from occvae.environment import describe

    print(describe())

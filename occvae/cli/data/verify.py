"""`occvae data verify`: checks that a dataset is unchanged since it was built."""

import argparse

from occvae.cli.data.shared import print_manifest
from occvae.errors import UserError
from occvae.system.terminal import one_line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", help="folder of the dataset")
    parser.add_argument("--deep", action="store_true", help="also check all images and points")


def run(options: argparse.Namespace) -> None:
    from occvae.data.build import verify_dataset

    manifest = verify_dataset(options.root)
    if options.deep:
        _inspect(options.root)
    print_manifest(manifest)
    found = "checksums agree" + ", all images and points are valid" * options.deep
    print(f"{len(manifest.shards)} shards: {found}")


def _inspect(root: str) -> None:
    """Prints the shapes with bad images or points. Raises UserError if there are any."""
    from occvae.data.inspection import inspect_dataset

    problems = inspect_dataset(root)
    for id, problem in problems.items():
        print(f"  {one_line(id)}: {one_line(problem)}")
    if problems:
        raise UserError(
            f"{root}: {len(problems)} shapes have bad images or points; fix their files and import "
            "them again"
        )

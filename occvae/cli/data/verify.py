"""`occvae data verify`: checks that a dataset is unchanged since it was built."""

import argparse
import json
from typing import TYPE_CHECKING

from occvae.cli.data.shared import print_manifest
from occvae.errors import UserError
from occvae.system.terminal import one_line

if TYPE_CHECKING:
    from occvae.data.manifest import Manifest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", help="folder of the dataset")
    parser.add_argument("--deep", action="store_true", help="also check all images and points")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> None:
    from occvae.data.build import verify_dataset
    from occvae.data.inspection import inspect_dataset

    manifest = verify_dataset(options.root)
    problems = inspect_dataset(options.root) if options.deep else {}
    if options.json:
        _print_json(manifest, problems)
    else:
        for id, problem in problems.items():
            print(f"  {one_line(id)}: {one_line(problem)}")
    if problems:
        raise UserError(
            f"{options.root}: {len(problems)} shapes have bad images or points; fix their files "
            "and import them again"
        )
    if not options.json:
        print_manifest(manifest)
        found = "checksums agree" + ", all images and points are valid" * options.deep
        print(f"{len(manifest.shards)} shards: {found}")


def _print_json(manifest: "Manifest", problems: dict[str, str]) -> None:
    summary = {
        "num_shapes": manifest.count_shapes(),
        "num_shards": len(manifest.shards),
        "skipped": manifest.skipped,
        "problems": problems,
    }
    print(json.dumps(summary, indent=1))

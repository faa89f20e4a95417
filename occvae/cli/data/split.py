"""`occvae data split`: divides the shapes of a dataset into new splits."""

import argparse

from occvae.cli.data.shared import add_destination, print_manifest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", help="folder of the dataset to divide")
    for name, default in (("--val", 0.1), ("--test", 0.2)):
        parser.add_argument(
            name, type=float, default=default, help=f"share of the shapes (default {default})"
        )
    parser.add_argument("--seed", type=int, default=0, help="seed of the division (default 0)")
    parser.add_argument(
        "--by-category", action="store_true", help="divide each category separately"
    )
    add_destination(parser)


def run(options: argparse.Namespace) -> None:
    from occvae.data.build import build_dataset
    from occvae.data.splitting import SplitSource

    source = SplitSource(
        options.root,
        val=options.val,
        test=options.test,
        seed=options.seed,
        by_category=options.by_category,
    )
    manifest = build_dataset(source, options.destination, num_workers=options.workers)
    for part in source.dropped:
        print(f"dropped {part}, which only some of the old splits have")
    print_manifest(manifest)

"""`occvae data info`: prints what a dataset holds, and draws random shapes of it."""

import argparse
import json

from occvae.cli.data.shared import natural, positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", help="folder of the dataset")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--sheet", metavar="FILE", help="write a contact sheet of random shapes")
    parser.add_argument(
        "--count", type=positive, default=12, help="shapes on the sheet (default 12)"
    )
    parser.add_argument(
        "--seed", type=natural, default=0, help="seed for the choice of shapes (default 0)"
    )


def run(options: argparse.Namespace) -> None:
    from occvae.data.summary import format_summary, summarize_dataset, write_sample_sheet

    summary = summarize_dataset(options.root)
    print(json.dumps(summary, indent=1) if options.json else format_summary(summary))
    if options.sheet:
        write_sample_sheet(options.sheet, options.root, num_shapes=options.count, seed=options.seed)

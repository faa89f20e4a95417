"""occvae data info: what a dataset holds, and how random shapes of it look."""

import argparse
import json

from occvae.cli.data.shared import natural, positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.add_argument("--sheet", metavar="FILE", help="write a contact sheet of random shapes")
    parser.add_argument(
        "--count", type=positive, default=12, help="shapes of the sheet (default 12)"
    )
    parser.add_argument("--seed", type=natural, default=0, help="which shapes (default 0)")


def run(options: argparse.Namespace) -> None:
    from occvae.data.summary import format_summary, summarize_dataset, write_sample_sheet

    summary = summarize_dataset(options.root)
    print(json.dumps(summary, indent=1) if options.json else format_summary(summary))
    if options.sheet:
        write_sample_sheet(options.sheet, options.root, num_shapes=options.count, seed=options.seed)

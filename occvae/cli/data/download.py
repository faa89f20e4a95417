"""`occvae data download`: downloads published datasets, to be imported afterwards."""

import argparse
import shlex


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from occvae.data.published import PUBLISHED

    parser.add_argument(
        "dataset",
        choices=tuple(PUBLISHED),
        help="the dataset, named like the format that imports it",
    )
    parser.add_argument("destination", help="folder for the files")
    parser.add_argument(
        "--keep-archives", action="store_true", help="keep archives after they are unpacked"
    )


def run(options: argparse.Namespace) -> None:
    from occvae.data.published import PUBLISHED, download_published
    from occvae.system.disk_room import format_bytes
    from occvae.system.verbosity import note

    dataset = PUBLISHED[options.dataset]
    note(
        f"{options.dataset}: about {format_bytes(dataset.num_bytes)} to download and "
        f"{format_bytes(dataset.unpacked_bytes)} unpacked, to {options.destination}"
    )
    root = download_published(dataset, options.destination, keep_archives=options.keep_archives)
    command = ["occvae", "data", "import", options.dataset, str(root), f"data/{options.dataset}"]
    print(f"complete; import it with: {shlex.join(command)}")

"""occvae convert: turns official checkpoints of other projects into models of this package."""

import argparse

from occvae.system.terminal import one_line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="checkpoint of occupancy_networks, Pix2Vox or Pix2Vox++")
    parser.add_argument(
        "-o", "--output", required=True, help="folder for the model; --model accepts it"
    )


def run(options: argparse.Namespace) -> None:
    from occvae.convert import convert_file

    conversion = convert_file(options.source, options.output)
    state = conversion.model.state_dict()
    lines = [
        f"{options.source} ({conversion.origin}) -> {options.output} ({conversion.model.arch}): "
        f"{len(state)} tensors, {sum(tensor.numel() for tensor in state.values()):,} numbers"
    ]
    if conversion.ignored:
        lines.append(f"left out because only training needs it: {', '.join(conversion.ignored)}")
    for line in lines:
        print(one_line(line))

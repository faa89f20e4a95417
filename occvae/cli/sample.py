"""occvae sample: draws new shapes from a model."""

import argparse
from pathlib import Path

from occvae.cli.shared import MODEL_HELP, add_device, add_precision, load_model, set_precision


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", help=MODEL_HELP)
    parser.add_argument(
        "-n", "--count", type=int, default=12, help="number of shapes (default: 12)"
    )
    add_output(parser, "samples")
    add_surface(parser)
    parser.add_argument("--seed", type=int, default=0, help="seed of the shapes (default: 0)")


def add_output(parser: argparse.ArgumentParser, folder: str) -> None:
    parser.add_argument(
        "-o",
        "--output",
        help=f"folder of the meshes and the picture (default: {folder}, where files that exist are "
        "not replaced)",
    )
    parser.add_argument(
        "--format", default="glb", help="format of the meshes: glb, obj, ply, stl or off"
    )


def add_surface(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--resolution", type=int, default=128, help="cells per axis (default: 128)")
    parser.add_argument(
        "--threshold", type=float, help="probability of the surface (default: the model's own)"
    )
    add_precision(parser)
    add_device(parser)


def run(options: argparse.Namespace) -> None:
    from occvae.reconstruction.new_shapes import write_samples
    from occvae.system.devices import local_device

    device = local_device(options.device)
    model, _ = load_model(options.model)
    set_precision(model, options.precision)
    write_samples(
        model.to(device).eval(),
        Path(options.output or "samples"),
        options.count,
        resolution=options.resolution,
        threshold=options.threshold,
        seed=options.seed,
        format=options.format,
        overwrite=options.output is not None,
    )

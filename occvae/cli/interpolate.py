"""occvae interpolate: shapes between two objects, as meshes and as an animation."""

import argparse
from pathlib import Path

from occvae.cli.sample import add_output, add_surface
from occvae.cli.shared import MODEL_HELP, load_model, set_precision


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", type=Path, help="image, point cloud or voxel grid of one object")
    parser.add_argument("second", type=Path, help="the same of another object")
    parser.add_argument("--model", help=MODEL_HELP)
    parser.add_argument(
        "--steps", type=int, default=8, help="number of meshes, both ends included (default: 8)"
    )
    add_output(parser, "interpolation")
    add_surface(parser)


def run(options: argparse.Namespace) -> None:
    from occvae.reconstruction import ReconstructionSettings
    from occvae.reconstruction.new_shapes import write_interpolation
    from occvae.system.devices import local_device

    device = local_device(options.device)
    settings = ReconstructionSettings(resolution=options.resolution, threshold=options.threshold)
    model, _ = load_model(options.model)
    set_precision(model, options.precision)
    write_interpolation(
        model.to(device).eval(),
        options.first,
        options.second,
        Path(options.output or "interpolation"),
        options.steps,
        settings=settings,
        format=options.format,
        overwrite=options.output is not None,
    )

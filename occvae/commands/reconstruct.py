"""occvae reconstruct: pictures to mesh files."""

import argparse

from occvae.commands.model import add_precision, default_device, load_model, set_precision


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", help="picture files")
    parser.add_argument(
        "-o", "--output", required=True, help="out.glb|obj|ply|stl|off, or a folder for several"
    )
    parser.add_argument("--model", help="run folder or export; default the newest run in runs/")
    parser.add_argument("--resolution", type=int, default=128, help="cells an axis (default 128)")
    parser.add_argument("--threshold", type=float, help="probability of the surface")
    add_precision(parser)
    parser.add_argument(
        "--together", action="store_true", help="all pictures are views of the same object"
    )
    parser.add_argument(
        "--blocks", action="store_true", help="a cube for each voxel (models that make voxels)"
    )


def run(options: argparse.Namespace) -> None:
    from occvae.reconstruction import output_paths, reconstruct_files

    groups = [options.images] if options.together else [[image] for image in options.images]
    outputs = output_paths([group[0] for group in groups], options.output)
    model, _ = load_model(options.model)
    set_precision(model, options.precision)
    reconstruct_files(
        model,
        groups,
        outputs,
        resolution=options.resolution,
        threshold=options.threshold,
        device=default_device(),
        blocks=options.blocks,
    )

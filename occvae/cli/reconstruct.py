"""occvae reconstruct: turns images, scans and voxel grids into mesh files."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from occvae.cli.shared import (
    MODEL_HELP,
    add_device,
    add_precision,
    load_model,
    set_precision,
)
from occvae.errors import UserError
from occvae.system.terminal import one_line

if TYPE_CHECKING:
    from occvae.models.protocol import Model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _add_images(parser)
    _add_surface(parser)
    _add_files(parser)


def run(options: argparse.Namespace) -> None:
    from occvae.reconstruction import ReconstructionSettings, output_paths, reconstruct_files
    from occvae.system.devices import local_device

    device = local_device(options.device)
    settings = ReconstructionSettings(
        **{name: getattr(options, name) for name in ReconstructionSettings.__dataclass_fields__}
    )
    _check_inputs(options)
    model, _ = load_model(options.model)
    set_precision(model, options.precision)
    files = _files(options, model)
    objects = [files] if options.together else [[file] for file in files]
    outputs = output_paths([views[0] for views in objects], options.output, options.format)
    try:
        reconstruct_files(
            model,
            objects,
            outputs,
            settings,
            device=device,
            overwrite=options.output is not None,
        )
    finally:  # at the end, because many lines may come before
        if model.image_size:
            _warn_of_left_out(options.images)


def _add_images(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images", nargs="*", help="images, point clouds, voxel grids, or folders of them"
    )
    parser.add_argument(
        "--webcam",
        type=int,
        nargs="?",
        const=0,
        metavar="NUMBER",
        help="take the image with this camera (default: 0, the first)",
    )
    parser.add_argument(
        "--together",
        action="store_true",
        help="treat all files as one object: views, a scan and a voxel grid",
    )
    parser.add_argument(
        "--background",
        default="auto",
        help="auto: cut the object out of a plain background and frame it as in training, keep "
        "other backgrounds; keep: use the image as it is; remove: like auto, but an error for "
        "other backgrounds; rembg: cut out with the rembg library (default: auto)",
    )
    parser.add_argument(
        "--box",
        type=float,
        nargs=6,
        metavar=("X0", "Y0", "Z0", "X1", "Y1", "Z1"),
        help="lower and upper corner of the whole object in a scan, which are centered and scaled "
        "as in training (default: the bounding box of the points)",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="fail for an image whose background is not removed, instead of a warning",
    )


def _add_surface(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help=MODEL_HELP)
    parser.add_argument("--resolution", type=int, default=128, help="cells per axis (default: 128)")
    parser.add_argument(
        "--threshold", type=float, help="probability of the surface (default: the model's own)"
    )
    add_precision(parser)
    add_device(parser)
    parser.add_argument(
        "--refine",
        dest="refine_vertices",
        type=int,
        nargs="?",
        const=4,
        default=0,
        metavar="STEPS",
        help="move vertices to where the field crosses the threshold (4 steps without a number)",
    )
    parser.add_argument(
        "--normals", action="store_true", help="write vertex normals of the field (glb, ply, obj)"
    )
    parser.add_argument(
        "--blocks", action="store_true", help="one cube per occupied voxel (voxel models)"
    )
    parser.add_argument(
        "--num-samples",
        type=int,
        metavar="K",
        help="number of hypotheses (variational models; default: the mean of the posterior)",
    )
    parser.add_argument(
        "--uncertainty",
        action="store_true",
        help="color vertices by how much the hypotheses differ: gray 0, orange 0.25, red 0.5 "
        "(variational models; glb, ply, obj)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="seed of the hypotheses and of the points chosen from a scan (default: 0)",
    )
    parser.add_argument(
        "--batch-size", type=int, default=8, help="objects per batch of the model (default: 8)"
    )


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o",
        "--output",
        help="out.glb|obj|ply|stl|off, or a folder for several meshes (default: the name of each "
        "image, in the working directory; files that exist are not replaced)",
    )
    parser.add_argument(
        "--format",
        help="format of the meshes in a folder: glb, obj, ply, stl or off (default: glb)",
    )
    parser.add_argument("--largest", action="store_true", help="keep only the largest component")
    parser.add_argument(
        "--smooth",
        type=int,
        default=0,
        metavar="ROUNDS",
        help="rounds of smoothing that does not shrink the mesh (default: 0)",
    )
    parser.add_argument(
        "--decimate", type=int, metavar="FACES", help="reduce the mesh to about this many faces"
    )
    parser.add_argument(
        "--turntable", help="write beside each mesh: gif, an animation; png, a strip of views"
    )


def _check_inputs(options: argparse.Namespace) -> None:
    if options.webcam is None and not options.images:
        raise UserError("no images: give files, folders or --webcam")
    if options.webcam is not None and options.images:
        raise UserError("--webcam takes the image: give no image files with it")


def _files(options: argparse.Namespace, model: "Model") -> list[Path]:
    """Returns the files to reconstruct, as the model observes them."""
    from occvae.observations.kinds import Mixture, PointCloud, VoxelGrid
    from occvae.reconstruction import find_grids, find_images, find_inputs, find_scans

    observation = model.observation
    if not isinstance(observation, PointCloud | VoxelGrid):
        if options.webcam is not None:
            return [_take_image(options)]
        if isinstance(observation, Mixture):
            return find_inputs(options.images)
        return find_images(options.images)
    for name, given in (("--webcam", options.webcam is not None), ("--together", options.together)):
        if given:
            raise UserError(
                f"{name} applies to images, but {model.arch} observes {observation.noun}s"
            )
    if isinstance(observation, VoxelGrid):
        return find_grids(options.images)
    return find_scans(options.images)


def _warn_of_left_out(inputs: list[str]) -> None:
    from occvae.reconstruction.paths import left_out_images, list_names

    if files := left_out_images(list(inputs)):
        print(
            f"warning: {len(files)} image(s) left out, because their formats are not read: "
            f"{one_line(list_names(files))}; convert them to PNG or JPEG",
            file=sys.stderr,
            flush=True,
        )


def _take_image(options: argparse.Namespace) -> Path:
    """Takes an image with the camera and saves it beside the mesh, so it can be used again."""
    from occvae.images.webcam import capture_still
    from occvae.reconstruction import output_paths
    from occvae.system.atomic_write import check_writable, write_whole

    [mesh] = output_paths(["webcam"], options.output, options.format)
    path = mesh.with_suffix(".webcam.png") if mesh.stem != "webcam" else mesh.with_suffix(".png")
    if options.output is None and path.exists():
        raise UserError(f"{path} exists; name the mesh with -o")
    check_writable(path)
    write_whole(path, capture_still(options.webcam).save)
    print(one_line(f"camera {options.webcam} -> {path}"))
    return path

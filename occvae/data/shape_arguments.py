"""Command-line arguments for formats whose points and images are made from solids."""

import argparse

from occvae.data.shapes import ShapeSettings
from occvae.errors import UserError

POINTS, SURFACE_POINTS = 100_000, 100_000


def add_shape_arguments(parser: argparse.ArgumentParser, *, near_points: int, voxels: str) -> None:
    """Adds the arguments that say how many points, voxels and images are made per shape.

    Args:
        parser: parser of the format.
        near_points: default number of points near the surface.
        voxels: default resolutions of the voxel grids, separated by commas.
    """
    for name, default, help in (
        ("--points", POINTS, "uniform points per shape, with occupancies; a multiple of 8"),
        (
            "--near-points",
            near_points,
            "points near the surface per shape, with occupancies; a multiple of 8",
        ),
        ("--surface-points", SURFACE_POINTS, "points on the surface per shape, with normals"),
        ("--views", 24, "images per shape"),
        ("--image-size", 137, "edge of the images in pixels"),
        ("--seed", 0, "seed of points, cameras and colors"),
    ):
        parser.add_argument(name, type=int, default=default, help=f"{help} (default {default})")
    parser.add_argument(
        "--voxels",
        default=voxels,
        help=f"resolutions of the voxel grids, such as 32,64,128 (default {voxels})",
    )


def add_training_surface(parser: argparse.ArgumentParser) -> None:
    """Adds the option that stores surface points of training shapes too."""
    parser.add_argument(
        "--training-surface",
        action="store_true",
        help="store surface points of training shapes too, for models of point clouds",
    )


def shape_settings(options: argparse.Namespace, *, training_surface: bool = False) -> ShapeSettings:
    """Returns the settings given by the arguments of `add_shape_arguments`.

    Args:
        options: parsed arguments.
        training_surface: whether training shapes get surface points too.

    Raises:
        UserError: --voxels is not a list of numbers, or a number is out of range.
    """
    try:
        resolutions = tuple(int(word) for word in options.voxels.split(","))
    except ValueError:
        raise UserError(
            f"--voxels {options.voxels}: expected numbers with commas between them, such as 32,64"
        ) from None
    return ShapeSettings(
        num_points=options.points,
        num_near_points=options.near_points,
        num_surface_points=options.surface_points,
        training_surface=training_surface,
        voxel_resolutions=resolutions,
        num_views=options.views,
        image_size=options.image_size,
        seed=options.seed,
    )

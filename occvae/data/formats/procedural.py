"""The default dataset: shapes made by seeded programs, with nothing to download."""

import argparse

from occvae.data.formats import Format
from occvae.data.manifest import OWN_SPLITS
from occvae.data.sample import Sample
from occvae.data.shape_arguments import add_shape_arguments, add_training_surface, shape_settings
from occvae.data.shapes import Shape, ShapeSettings, make_sample
from occvae.data.sources import Item, own_split
from occvae.errors import UserError

# 12 categories with 64 shapes each build in about a minute on two cores.
DEFAULT_SHAPES_PER_CATEGORY = 64


class ProceduralSource:
    """Seeded shapes of all categories. The first shapes are the same for any number of them.

    Args:
        shapes_per_category: number of shapes per category.
        shape_settings: what to make and store per shape. Its seed also selects the shapes.
    """

    name = "procedural"
    splits = OWN_SPLITS

    def __init__(
        self,
        shapes_per_category: int = DEFAULT_SHAPES_PER_CATEGORY,
        shape_settings: ShapeSettings = ShapeSettings(),  # noqa: B008 - immutable
    ):
        from occvae.data.procedural import CATEGORIES, GENERATOR

        if shapes_per_category < 1:
            raise UserError(f"shapes_per_category must be at least 1, got {shapes_per_category}")
        self.shape_settings = shape_settings
        self.settings = {
            "generator": GENERATOR,
            "shapes_per_category": shapes_per_category,
            **shape_settings.to_dict(),
        }
        self.skipped: dict[str, str] = {}
        # Categories alternate so that each shard holds all of them.
        self.items = [
            Item(f"{category}-{index:05d}", category, own_split(index))
            for index in range(shapes_per_category)
            for category in CATEGORIES
        ]

    def shape(self, index: int) -> Shape:
        """The solid of the item with this index."""
        from occvae.data.procedural import make_shape

        item = self.items[index]
        number = int(item.id.rsplit("-", 1)[1])
        return make_shape(item.category, self.shape_settings.seed * 1_000_003 + number)

    def sample(self, index: int) -> Sample:
        item = self.items[index]
        return make_sample(
            item.id, item.category, item.split, self.shape(index), self.shape_settings
        )


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shapes-per-category",
        type=int,
        default=DEFAULT_SHAPES_PER_CATEGORY,
        help=f"shapes per category (default {DEFAULT_SHAPES_PER_CATEGORY})",
    )
    add_shape_arguments(parser, near_points=0, voxels="32")
    add_training_surface(parser)


def _make_source(options: argparse.Namespace) -> ProceduralSource:
    settings = shape_settings(options, training_surface=options.training_surface)
    return ProceduralSource(options.shapes_per_category, settings)


FORMAT = Format(
    help="the default dataset of procedural shapes",
    add_arguments=_add_arguments,
    make_source=_make_source,
    embedded=True,
)

"""The embedded default: seeded programs in several categories, nothing to download."""

import argparse

from occvae.data import procedural
from occvae.data.formats import Format
from occvae.data.manifest import OWN_SPLITS
from occvae.data.sample import Sample
from occvae.data.shape_arguments import add_shape_arguments, shape_settings
from occvae.data.shapes import Shape, ShapeSettings, make_sample
from occvae.data.sources import Item, own_split
from occvae.errors import UserError

# 12 categories of 64 build in about a minute on two cores.
DEFAULT_SHAPES_PER_CATEGORY = 64


class ProceduralSource:
    """As many shapes of each category as wanted, in the same order for any number."""

    name = "procedural"
    splits = OWN_SPLITS

    def __init__(
        self,
        shapes_per_category: int = DEFAULT_SHAPES_PER_CATEGORY,
        shape_settings: ShapeSettings = ShapeSettings(),  # noqa: B008 - immutable
    ):
        if shapes_per_category < 1:
            raise UserError(f"shapes_per_category must be positive, got {shapes_per_category}")
        self.shape_settings = shape_settings
        self.settings = {"shapes_per_category": shapes_per_category, **shape_settings.to_dict()}
        self.skipped: dict[str, str] = {}
        # Categories alternate so that every shard, and every prefix of a build, is balanced.
        self.items = [
            Item(f"{category}-{index:05d}", category, own_split(index))
            for index in range(shapes_per_category)
            for category in procedural.CATEGORIES
        ]

    def shape(self, index: int) -> Shape:
        """The solid of an item."""
        item = self.items[index]
        number = int(item.id.rsplit("-", 1)[1])
        return procedural.make_shape(item.category, self.shape_settings.seed * 1_000_003 + number)

    def sample(self, index: int) -> Sample:
        item = self.items[index]
        return make_sample(
            item.id, item.category, item.split, self.shape(index), self.shape_settings
        )


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shapes-per-category", type=int, default=DEFAULT_SHAPES_PER_CATEGORY)
    add_shape_arguments(parser, near_points=0, voxels="32")


def _make_source(options: argparse.Namespace) -> ProceduralSource:
    return ProceduralSource(options.shapes_per_category, shape_settings(options))


FORMAT = Format(
    help="the embedded seeded shapes",
    add_arguments=_add_arguments,
    make_source=_make_source,
    embedded=True,
)

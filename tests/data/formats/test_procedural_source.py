"""The procedural source: order, reproducibility and refusals."""

import numpy as np
import pytest

from occvae.data.formats.procedural import ProceduralSource
from occvae.data.procedural import CATEGORIES
from occvae.data.shapes import ShapeSettings
from occvae.errors import UserError


def seeded(seed: int) -> ProceduralSource:
    return ProceduralSource(9, ShapeSettings(seed=seed))


def test_procedural_shapes_alternate_and_are_reproducible():
    source, again = seeded(3), seeded(3)
    assert [item.category for item in source.items[: len(CATEGORIES)]] == list(CATEGORIES)
    assert sum(item.split == "val" for item in source.items) == len(CATEGORIES)
    np.testing.assert_array_equal(source.shape(5).mesh()[0], again.shape(5).mesh()[0])
    other = seeded(4).shape(5).mesh()[0]
    assert other.shape != source.shape(5).mesh()[0].shape or not np.array_equal(
        other, source.shape(5).mesh()[0]
    )


def test_zero_shapes_per_category_are_refused():
    with pytest.raises(UserError, match="shapes_per_category must be at least 1, got 0"):
        ProceduralSource(0)

"""Tests of mise() on every field of the gallery, and of its definition under random schedules."""

import random
from functools import cache

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from occvae.ops.mise import mise
from tests.fields import lattice_hash
from tests.ops.field_gallery import GALLERY, each_exhibit
from tests.ops.mise_oracle import random_schedule_mise, voxel_list_mise
from tests.ops.test_mise import known, lattice_field


@cache
def oracle(exhibit):
    field = lattice_field(exhibit.field, exhibit.resolution)
    return voxel_list_mise(field, exhibit.resolution, exhibit.coarse_resolution, exhibit.level)


def run(exhibit, backend):
    return mise(
        exhibit.field,
        resolution=exhibit.resolution,
        coarse_resolution=exhibit.coarse_resolution,
        level=exhibit.level,
        backend=backend,
    )


def test_the_gallery_has_many_kinds_of_fields():
    assert len(GALLERY) >= 30
    assert {4, 64} <= {exhibit.coarse_resolution for exhibit in GALLERY}


@each_exhibit()
def test_the_gallery_gives_the_points_of_the_oracle(exhibit, backend):
    expected, rounds = oracle(exhibit)
    grid = run(exhibit, backend)
    assert known(grid) == expected
    assert grid.rounds == rounds  # both split in the rounds of the published code


def test_a_batch_of_the_gallery_equals_the_oracle(backend):
    """All exhibits of one size are refined together: thin, noisy, tied and smooth shapes."""
    chosen = [e for e in GALLERY if (e.coarse_resolution, e.resolution) == (4, 32)]
    assert len(chosen) >= 5

    def batch(points, shape_index):
        values = [e.field(points, shape_index).double() - e.level for e in chosen]
        return torch.stack(values).gather(0, shape_index[None])[0]

    options = {"resolution": 32, "coarse_resolution": 4, "num_shapes": len(chosen)}
    grid = mise(batch, **options, backend=backend)
    for shape, exhibit in enumerate(chosen):
        assert known(grid, shape).keys() == oracle(exhibit)[0].keys()


@each_exhibit(up_to=40, slow_above=16)  # one leaf at a time takes long
def test_the_order_of_splitting_does_not_matter(exhibit):
    field = lattice_field(exhibit.field, exhibit.resolution)
    sizes = (exhibit.resolution, exhibit.coarse_resolution)
    values = random_schedule_mise(field, *sizes, exhibit.level, random.Random(exhibit.name))
    assert values == oracle(exhibit)[0]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31),
    st.floats(0, 1),
    st.floats(0, 0.05),
    st.sampled_from([(8, 1), (8, 2), (12, 3), (16, 4), (16, 2)]),
    st.randoms(use_true_random=False),
)
def test_any_noise_in_any_order_reaches_the_same_points(seed, inside, tied, sizes, order):
    field = lattice_hash(seed, sizes[0], inside * (1 - tied), tied)
    values = random_schedule_mise(lattice_field(field, sizes[0]), *sizes, 0.0, order)
    for backend in ("auto", "reference"):
        grid = mise(field, resolution=sizes[0], coarse_resolution=sizes[1], backend=backend)
        assert known(grid) == values

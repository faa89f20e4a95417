"""Tests of both searches against all distances in float64."""

import time

import numpy as np
import pytest
import torch

from occvae.geometry import nearest_neighbors as nearest
from tests.conftest import DEVICES


def search_blocks(queries, references, device):
    return nearest._search_blocks(queries, references, torch.device(device))


SEARCHES = [
    pytest.param(nearest.nearest_neighbors, id="public"),
    pytest.param(search_blocks, id="blocks"),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_neighbors_are_the_nearest(search, device, offset, monkeypatch):
    monkeypatch.setattr(nearest, "_BLOCK_ELEMENTS", 1000)  # several blocks, the last one short
    rng = np.random.default_rng(0)
    queries, references = rng.random((501, 3)) + offset, rng.random((130, 3)) + offset
    distances, indices = search(queries, references, device)
    table = np.sqrt(((queries[:, None] - references) ** 2).sum(-1))
    assert indices.dtype == np.int64 and distances.dtype == np.float64
    np.testing.assert_array_equal(indices, table.argmin(axis=1))
    np.testing.assert_allclose(distances, table.min(axis=1), rtol=1e-12)


@pytest.mark.parametrize("search", SEARCHES)
def test_points_far_from_the_origin_keep_small_distances(search):
    """The formula |q|^2 - 2 q.r + |r|^2 in float32 would lose these distances."""
    references = np.array([[0.5, 0.5, 0.5], [0.5 + 4e-5, 0.5, 0.5], [-0.5, -0.5, -0.5]])
    queries = references[:2] + 1e-5
    distances, indices = search(queries, references, "cpu")
    assert indices.tolist() == [0, 1]
    np.testing.assert_allclose(distances, 3**0.5 * 1e-5, rtol=1e-9)


def test_the_first_of_equal_references_is_returned():
    """Without special care, so many equal references would take more than a minute."""
    rng = np.random.default_rng(0)
    places = rng.random((3, 3))
    number = rng.integers(0, 3, 100_000)
    queries = rng.random((100_000, 3))
    start = time.monotonic()
    distances, indices = nearest.nearest_neighbors(queries, places[number])
    assert time.monotonic() - start < 10.0
    expected, chosen = nearest.nearest_neighbors(queries, places)
    np.testing.assert_array_equal(distances, expected)
    firsts = np.array([np.flatnonzero(number == place)[0] for place in range(3)])
    np.testing.assert_array_equal(indices, firsts[chosen])


@pytest.mark.parametrize("search", SEARCHES)
def test_no_queries_give_no_neighbors(search):
    distances, indices = search(np.empty((0, 3)), np.zeros((1, 3)), "cpu")
    assert distances.shape == indices.shape == (0,)

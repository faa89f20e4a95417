"""Contact sheets show input, truth and prediction in rows."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from occvae.data.build import build_dataset
from occvae.data.dataset import ShapeDataset
from occvae.data.formats.procedural import ProceduralSource
from occvae.images.io import load_square_image
from occvae.train.contact_sheet import HEADINGS, TILE, write_contact_sheet
from occvae.visualize.rendering import render_views
from tests.fakes import ball_model
from tests.tiny import SETTINGS


def tiles(path) -> np.ndarray:
    """Returns the tiles (rows, columns, TILE, TILE, 3) of a sheet, without its headings."""
    sheet = np.asarray(Image.open(path))
    rows, columns = sheet.shape[0] // TILE, sheet.shape[1] // TILE
    return sheet[-rows * TILE :].reshape(rows, TILE, columns, TILE, 3).swapaxes(1, 2)


@pytest.fixture
def dataset(tiny_dataset) -> ShapeDataset:
    return ShapeDataset(tiny_dataset, "val", image_size=8)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_sheet_has_one_row_per_shape(dataset, tmp_path, rows):
    path = tmp_path / "deep" / "sheet.png"
    write_contact_sheet(path, ball_model(), dataset, torch.device("cpu"), rows)
    found = tiles(path)
    assert found.shape[:2] == (rows, len(HEADINGS))
    assert all((tile < 255).any() for tile in found.reshape(-1, TILE * TILE * 3))
    shard, local = dataset.locate(0)
    np.testing.assert_array_equal(found[0, 0], load_square_image(shard.image(local, 0), TILE))


def test_the_true_shape_covers_the_same_pixels_as_the_input(dataset, tmp_path):
    path = tmp_path / "sheet.png"
    write_contact_sheet(path, ball_model(), dataset, torch.device("cpu"), 4)
    for row in tiles(path):
        seen, truth = ((tile < 220).any(axis=-1) for tile in row[:2])
        assert (seen & truth).sum() / (seen | truth).sum() > 0.9


def test_an_empty_prediction_is_white(dataset, tmp_path):
    path = tmp_path / "sheet.png"
    write_contact_sheet(path, ball_model(radius=-3.0), dataset, torch.device("cpu"), 1)
    row = tiles(path)[0]
    assert (row[2] == 255).all() and (row[4] == 255).all() and (row[1] < 255).any()


def test_the_sheet_shows_the_stored_mesh_as_truth(tmp_path):
    settings = dataclasses.replace(SETTINGS, voxel_resolutions=(8,))
    build_dataset(ProceduralSource(2, settings), tmp_path / "data", num_workers=1)
    dataset = ShapeDataset(tmp_path / "data", "train", image_size=8)
    write_contact_sheet(tmp_path / "sheet.png", ball_model(), dataset, torch.device("cpu"), 2)
    shard, local = dataset.locate(0)
    [expected] = render_views(*shard.mesh(local), shard.extrinsics(local, 0)[None], TILE)
    np.testing.assert_array_equal(tiles(tmp_path / "sheet.png")[0, 1], expected)

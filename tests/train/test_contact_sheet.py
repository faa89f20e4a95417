"""Contact sheets show input, truth and prediction in rows."""

import dataclasses

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from occvae.data.build import build_dataset
from occvae.data.dataset import ShapeDataset
from occvae.data.formats.procedural import ProceduralSource
from occvae.errors import UserError
from occvae.images.io import load_square_image
from occvae.train.contact_sheet import HEADINGS, TILE, choose_rows, write_contact_sheet
from occvae.visualize.rendering import PREDICTION_ALBEDO, render_views
from tests.fakes import CENTER, ball_model
from tests.tiny import SETTINGS


def tiles(path) -> np.ndarray:
    """Returns the tiles (rows, columns, TILE, TILE, 3) of a sheet, without headings and labels."""
    sheet, columns = np.asarray(Image.open(path)), len(HEADINGS)
    rows = sheet.shape[0] // TILE
    parts = sheet[-rows * TILE :, -columns * TILE :]
    return parts.reshape(rows, TILE, columns, TILE, 3).swapaxes(1, 2)


def write(path, dataset, rows, **ball) -> np.ndarray:
    """Writes a sheet of the shapes with these numbers. Returns its tiles."""
    labels = {number: f"shape {number}" for number in rows}
    write_contact_sheet(path, ball_model(**ball), dataset, torch.device("cpu"), labels)
    return tiles(path)


@pytest.fixture
def dataset(tiny_dataset) -> ShapeDataset:
    return ShapeDataset(tiny_dataset, "val", image_size=8)


def test_a_sheet_has_one_row_per_shape(dataset, tmp_path):
    found = write(tmp_path / "deep" / "sheet.png", dataset, [5, 0, 2])
    assert found.shape[:2] == (3, len(HEADINGS))
    assert all((tile < 255).any() for tile in found.reshape(-1, TILE * TILE * 3))
    for row, number in zip(found, [5, 0, 2], strict=True):
        shard, local = dataset.locate(number)
        np.testing.assert_array_equal(row[0], load_square_image(shard.image(local, 0), TILE))


def test_the_true_shape_covers_the_same_pixels_as_the_input(dataset, tmp_path):
    for row in write(tmp_path / "sheet.png", dataset, [0, 10, 20, 31]):
        seen, truth = ((tile < 220).any(axis=-1) for tile in row[:2])
        assert (seen & truth).sum() / (seen | truth).sum() > 0.9


def test_the_prediction_is_the_smooth_surface_of_the_model(dataset, tmp_path):
    """A ball of known size: its tile equals that of an exact sphere up to its outline."""
    [row] = write(tmp_path / "sheet.png", dataset, [0], radius=-0.7)
    image = dataset[0]["images"][0, 0].float().mean() / 255.0
    sphere = trimesh.creation.icosphere(4, float(image) - 0.7).apply_translation(CENTER)
    shard, local = dataset.locate(0)
    camera = shard.extrinsics(local, 0)[None]
    [expected] = render_views(sphere.vertices, sphere.faces, camera, TILE, PREDICTION_ALBEDO)
    difference = np.abs(row[2].astype(int) - expected).max(axis=-1)
    assert (expected < 255).any() and (difference > 25).mean() < 0.01


def test_an_empty_prediction_is_white(dataset, tmp_path):
    [row] = write(tmp_path / "sheet.png", dataset, [0], radius=-3.0)
    assert (row[2] == 255).all() and (row[4] == 255).all() and (row[1] < 255).any()


def test_a_prediction_that_is_not_finite_is_one_error(dataset, tmp_path):
    with pytest.raises(UserError, match=r"predictions cannot be drawn .*NaN.*lower optim\.lr"):
        write(tmp_path / "sheet.png", dataset, [0], radius=float("nan"))


def test_the_sheet_shows_the_stored_mesh_as_truth(tmp_path):
    settings = dataclasses.replace(SETTINGS, voxel_resolutions=(8,))
    build_dataset(ProceduralSource(2, settings), tmp_path / "data", num_workers=1)
    dataset = ShapeDataset(tmp_path / "data", "train", image_size=8)
    found = write(tmp_path / "sheet.png", dataset, [0])
    shard, local = dataset.locate(0)
    [expected] = render_views(*shard.mesh(local), shard.extrinsics(local, 0)[None], TILE)
    np.testing.assert_array_equal(found[0, 1], expected)


@pytest.mark.parametrize(
    ("categories", "expected"),
    [
        ("ba" * 10, [3, 11, 17, 2, 10, 16]),  # three of each, ordered by category
        ("abcabcabc" + "a" * 20, [11, 23, 1, 7, 2, 8]),
        ("a" * 12, [1, 3, 5, 7, 9, 11]),
        ("ab", [0, 1]),
        ("abcdefghijkl" * 3, range(12, 24)),  # the middle one of each
        ([f"{number:02}" for number in range(32)], range(1, 32, 2)),
    ],
)
def test_every_category_has_a_row(categories, expected):
    assert choose_rows(list(categories)) == list(expected)

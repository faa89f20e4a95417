"""Sheets: the place of each tile and heading."""

import numpy as np

from occvae.visualize.sheet import make_sheet


def test_tiles_are_placed_row_by_row_and_the_rest_is_white():
    tiles = [np.full((2, 3, 3), value, np.uint8) for value in (10, 20, 30)]
    sheet = np.asarray(make_sheet(tiles, 2))
    assert sheet.shape == (4, 6, 3)
    assert sheet[::2, ::3, 0].tolist() == [[10, 20], [30, 255]]


def test_headings_are_above_their_columns():
    tiles = [np.full((40, 60, 3), 10, np.uint8)] * 4
    plain, headed = (np.asarray(make_sheet(tiles, 2, h)) for h in ((), ("", "seen")))
    top = len(headed) - len(plain)
    assert top > 0 and np.array_equal(headed[top:], plain)
    assert (headed[:top, :60] == 255).all() and (headed[:top, 60:] < 255).any()


def test_labels_are_left_of_their_rows():
    tiles = [np.full((40, 60, 3), 10, np.uint8)] * 4
    plain = np.asarray(make_sheet(tiles, 2, ("a", "b")))
    labeled = np.asarray(make_sheet(tiles, 2, ("a", "b"), ("", "second\nrow")))
    left, top = labeled.shape[1] - plain.shape[1], len(plain) - 80
    assert 20 < left < 100 and np.array_equal(labeled[:, left:], plain)
    assert (labeled[: top + 40, :left] == 255).all() and (labeled[top + 40 :, :left] < 255).any()


def test_a_long_label_ends_at_the_tiles():
    tiles = [np.full((40, 60, 3), 10, np.uint8)]
    sheet = np.asarray(make_sheet(tiles, 1, (), ("word " * 100,)))
    assert sheet.shape[1] < 300 and (sheet[:, -60:] == 10).all()

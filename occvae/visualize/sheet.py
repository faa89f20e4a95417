"""Sheets: images of one size in rows and columns."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

_HEADING_HEIGHT = 18


def make_sheet(
    tiles: Sequence[np.ndarray], columns: int, headings: Sequence[str] = ()
) -> Image.Image:
    """Arranges tiles in rows from left to right. Unused places in the last row stay white.

    Args:
        tiles: (H, W, 3) uint8 each.
        columns: tiles per row.
        headings: texts above the columns.
    """
    height, width, _ = tiles[0].shape
    top = _HEADING_HEIGHT if headings else 0
    num_rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * width, top + num_rows * height), "white")
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        sheet.paste(Image.fromarray(tile), (column * width, top + row * height))
    draw = ImageDraw.Draw(sheet)
    for column, heading in enumerate(headings):
        draw.text((column * width + 6, 3), heading, fill="black")
    return sheet

"""Sheets: images of one size in rows and columns."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

_HEADING_HEIGHT = 20
_FONT_SIZE = 13
_MARGIN, _MAX_LABEL_WIDTH = 8, 180


def make_sheet(
    tiles: Sequence[np.ndarray],
    columns: int,
    headings: Sequence[str] = (),
    labels: Sequence[str] = (),
) -> Image.Image:
    """Arranges tiles in rows from left to right. Unused places in the last row stay white.

    Args:
        tiles: (H, W, 3) uint8 each.
        columns: tiles per row.
        headings: texts above the columns.
        labels: texts to the left of the rows, each of one or more lines.
    """
    height, width, _ = tiles[0].shape
    left, top = _label_width(labels), _HEADING_HEIGHT if headings else 0
    num_rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (left + columns * width, top + num_rows * height), "white")
    draw = ImageDraw.Draw(sheet)
    for row, label in enumerate(labels):
        middle = top + row * height + height // 2
        draw.text((_MARGIN, middle), label, fill="black", anchor="lm", font_size=_FONT_SIZE)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        place = left + column * width, top + row * height
        sheet.paste(Image.fromarray(tile), place)  # covers the end of a label that is too long
    for column, heading in enumerate(headings):
        draw.text((left + column * width + 6, 3), heading, fill="black", font_size=_FONT_SIZE)
    return sheet


def _label_width(labels: Sequence[str]) -> int:
    """Returns the width in pixels of the place left of the tiles."""
    if not labels:
        return 0
    draw = ImageDraw.Draw(Image.new("L", (1, 1)))
    widest = max(draw.textbbox((0, 0), label, font_size=_FONT_SIZE)[2] for label in labels)
    return min(round(widest) + 2 * _MARGIN, _MAX_LABEL_WIDTH)

"""Images for the notebooks beside this file. The package does not need it."""

from collections.abc import Mapping, Sequence

import numpy as np
import trimesh
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont

from occvae.visualize.rendering import PREDICTION_ALBEDO, orbit_extrinsics, render_views

GRAY = (0.65, 0.67, 0.72)
BLUE = PREDICTION_ALBEDO
COLORS = ("#2f6db3", "#c8552b", "#3f8f4e", "#8a5fb0", "#b8860b", "#5a6570")
_WHITE, _DARK_BLUE, _ORANGE = (255, 255, 255), (24, 72, 138), (224, 122, 46)


def render(
    mesh: trimesh.Trimesh,
    *,
    azimuth: float = 35.0,
    elevation: float = 25.0,
    distance: float = 1.6,
    size: int = 180,
    albedo: Sequence[float] = BLUE,
) -> np.ndarray:
    """Renders one image (size, size, 3) uint8 of a mesh. Angles are in degrees."""
    camera = orbit_extrinsics([azimuth], [elevation], [distance])
    return render_views(mesh.vertices, mesh.faces, camera, size, albedo, supersample=3)[0]


def heat_map(values: ArrayLike, size: int = 180) -> np.ndarray:
    """Colors values: white is 0, blue 1, orange -1. Returns (size, size, 3) uint8.

    Args:
        values: (W, H), indexed [horizontal axis, vertical axis upwards].
        size: edge of the image in pixels. Values are repeated, not interpolated.
    """
    clipped = np.clip(np.asarray(values, np.float64), -1.0, 1.0).T[::-1, :, None]
    ends = np.where(clipped < 0, _ORANGE, _DARK_BLUE)
    colors = (_WHITE + np.abs(clipped) * (ends - np.array(_WHITE))).astype(np.uint8)
    return resize(colors, size)


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Resizes a square image (H, H, 3) uint8 by repeating pixels."""
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.NEAREST))


def plot(
    series: Mapping[str, tuple[ArrayLike, ArrayLike]],
    x_label: str,
    *,
    lines: bool = True,
    width: int = 440,
    height: int = 220,
) -> Image.Image:
    """Draws series of (x, y) values as lines, or as dots, with axes and a legend.

    Args:
        series: name to x and y values of equal length.
        x_label: text below the horizontal axis.
        lines: False for dots.
        width: of the image in pixels.
        height: of the image in pixels.
    """
    scale = 3  # drawn larger and reduced, because lines of PIL are not smoothed
    image = Image.new("RGB", (scale * width, scale * height), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(11 * scale)
    data = {name: (np.asarray(x, float), np.asarray(y, float)) for name, (x, y) in series.items()}
    ranges = [_padded(np.concatenate(axis)) for axis in zip(*data.values(), strict=True)]
    left, right, top, bottom = (scale * pixels for pixels in (52, width - 14, 28, height - 40))

    def place(x: float, y: float) -> tuple[float, float]:
        shares = [(v - low) / (high - low) for v, (low, high) in zip((x, y), ranges, strict=True)]
        return left + shares[0] * (right - left), bottom - shares[1] * (bottom - top)

    for value in _ticks(*ranges[1]):
        _, y = place(0.0, value)
        draw.line((left, y, right, y), "#d5dbe0", scale)
        draw.text((left - 6 * scale, y), f"{value:.4g}", "#5a6570", font, anchor="rm")
    for value in _ticks(*ranges[0]):
        x, _ = place(value, 0.0)
        draw.text((x, bottom + 5 * scale), f"{value:.6g}", "#5a6570", font, anchor="mt")
    draw.line((left, bottom, right, bottom), "#5a6570", scale)
    draw.text(((left + right) / 2, scale * height - 6), x_label, "#5a6570", font, anchor="mb")
    x_legend = left
    for number, (name, (xs, ys)) in enumerate(data.items()):
        color = COLORS[number % len(COLORS)]
        places = [place(x, y) for x, y in zip(xs, ys, strict=True)]
        if lines:
            draw.line(places, color, 2 * scale, joint="curve")
        for x, y in places if not lines or len(places) < 30 else ():
            radius = 2.5 * scale
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), color)
        draw.text((x_legend, 8 * scale), name, color, font)
        x_legend += draw.textlength(name, font) + 16 * scale
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _padded(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    margin = 0.04 * (high - low) or 0.5
    return low - margin, high + margin


def _ticks(low: float, high: float) -> np.ndarray:
    """Returns three to six round values within a range."""
    raw = (high - low) / 4
    unit = 10.0 ** np.floor(np.log10(raw))
    step = unit * min((1, 2, 5, 10), key=lambda factor: abs(np.log(factor * unit / raw)))
    first, last = np.ceil(low / step), np.floor(high / step)
    return step * np.arange(first, last + 1) + 0.0

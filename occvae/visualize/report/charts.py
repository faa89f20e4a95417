"""Charts as inline SVG, so that a page needs no script for them."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from occvae.visualize.report.metric_names import decimal, label, number

_SIZE, _WIDE_SIZE, _SMALL_SIZE = (360, 200), (540, 250), (220, 110)
_RIGHT, _TOP = 20, 10
# Left of and below the axes: room for the numbers, and for the name of the axis if it has one.
_NUMBERS, _NAME = (38, 26), 16
_MAX_POINTS = 300
_NUM_BINS = 20
# Values whose relative difference is smaller differ only by rounding.
_LEAST_SPREAD = 1e-9


def histogram(name: str, values: Sequence[float]) -> str:
    """Returns a histogram of one metric over shapes, with its median marked."""
    finite = np.asarray(values, np.float64)
    finite = finite[np.isfinite(finite)]
    if not len(finite):
        return ""
    low, high = _widened(finite.min(), finite.max())
    counts, edges = np.histogram(finite, _NUM_BINS, (low, high))
    frame = _Frame((low, high), (0, max(1, int(counts.max()))), names=(label(name), "shapes"))
    bars = "".join(
        f'<rect class="bar" x="{frame.x(a):.1f}" y="{frame.y(count):.1f}" '
        f'width="{frame.x(b) - frame.x(a) - 1:.1f}" height="{frame.y(0) - frame.y(count):.1f}">'
        f"<title>{number(float(a))} to {number(float(b))}: {count} shapes</title></rect>"
        for a, b, count in zip(edges[:-1], edges[1:], counts, strict=True)
        if count
    )
    median = float(np.median(finite))
    line = (
        f'<line class="median" x1="{frame.x(median):.1f}" x2="{frame.x(median):.1f}" '
        f'y1="{_TOP}" y2="{frame.y(0):.1f}"/>'
    )
    caption = f"{label(name)}: median {number(median)} of {len(finite)} shapes"
    return _figure(frame, bars + line, caption)


def curves(
    name: str, series: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, wide: bool = False
) -> str:
    """Returns a chart with one line per series over steps.

    A series of more than 300 values is drawn as the means of 300 intervals.

    Args:
        name: name of the metric.
        series: (steps, values) of each line by its name.
        wide: whether the chart is for a column of half the page instead of a third.
    """
    series = {key: xy for key, xy in series.items() if len(xy[0])}
    if not series:
        return ""
    thinned = [_thinned(*xy) for xy in series.values()]
    x, y = (np.concatenate(axis) for axis in zip(*thinned, strict=True))
    ranges = _widened(x.min(), x.max()), _widened(y.min(), y.max())
    frame = _Frame(*ranges, names=("step", label(name)), size=_WIDE_SIZE if wide else _SIZE)
    lines = [_line(frame, xs, ys, index % 4) for index, (xs, ys) in enumerate(thinned)]
    last = {key: number(float(values[-1])) for key, (_, values) in series.items()}
    spoken = ", ".join(f"{key} {value}" for key, value in last.items())
    keys = ", ".join(
        f'<span class="key line{index % 4}">{escape(key)}</span> {value}'
        for index, (key, value) in enumerate(last.items())
    )
    heading = f"{label(name)} over steps, last: "
    return _figure(frame, "".join(lines), heading + spoken, escape(heading) + keys)


def small_curves(series: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> str:
    """Returns a small chart per series over steps. All have the same axes, so they compare.

    Args:
        series: (steps, values) by name, without empty ones. The axis of the values begins at 0.
    """
    thinned = {name: _thinned(*xy) for name, xy in series.items()}
    x, y = (np.concatenate(axis) for axis in zip(*thinned.values(), strict=True))
    ranges = _widened(min(0.0, x.min()), x.max()), _widened(0.0, y.max())
    charts = []
    for name, (xs, ys) in thinned.items():
        last = decimal(float(series[name][1][-1]))
        caption = f"<b>{escape(name)}</b> {last}"
        frame = _Frame(*ranges, size=_SMALL_SIZE)
        charts.append(_figure(frame, _line(frame, xs, ys, 1), f"{name} {last}", caption))
    return "".join(charts)


def _line(frame: "_Frame", xs: np.ndarray, ys: np.ndarray, style: int) -> str:
    places = [f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in zip(xs, ys, strict=True)]
    line = f'<polyline class="line line{style}" points="{" ".join(places)}"/>'
    if len(xs) < 30:  # few enough that dots do not overlap
        for place, x, y in zip(places, xs, ys, strict=True):
            cx, cy = place.split(",")
            line += (
                f'<circle class="dot line{style}" r="2.5" cx="{cx}" cy="{cy}">'
                f"<title>step {x:.0f}: {number(float(y))}</title></circle>"
            )
    return line


class _Frame:
    """Maps data coordinates to image coordinates and draws the axes.

    Args:
        x_range: smallest and largest x.
        y_range: smallest and largest y.
        names: names of the x and the y axis. Without them, the axes have only numbers.
        size: width and height of the image.
    """

    def __init__(
        self,
        x_range: tuple[float, float],
        y_range: tuple[float, float],
        *,
        names: tuple[str, str] | None = None,
        size: tuple[int, int] = _SIZE,
    ):
        self._x, self._y, self._names, self.size = x_range, y_range, names, size
        room = _NAME if names else 0
        self._left, self._right = _NUMBERS[0] + room, size[0] - _RIGHT
        self._bottom = size[1] - _NUMBERS[1] - room

    def x(self, value: float) -> float:
        low, high = self._x
        return self._left + (value - low) / (high - low) * (self._right - self._left)

    def y(self, value: float) -> float:
        low, high = self._y
        return self._bottom - (value - low) / (high - low) * (self._bottom - _TOP)

    def axes(self) -> str:
        left, right, bottom = self._left, self._right, self._bottom
        parts = []
        for value in _ticks(*self._y):
            y = f"{self.y(value):.1f}"
            parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>')
            parts.append(
                f'<text x="{left - 6}" y="{y}" dy="4" text-anchor="end">{value:.4g}</text>'
            )
        for value in _ticks(*self._x):
            x = f"{self.x(value):.1f}"
            parts.append(f'<text x="{x}" y="{bottom + 16}" text-anchor="middle">{value:.6g}</text>')
        parts.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
        if self._names:
            x_name, y_name = map(escape, self._names)
            parts.append(
                f'<text x="{(left + right) / 2:.0f}" y="{bottom + 33}" text-anchor="middle">'
                f"{x_name}</text>"
                f'<text transform="translate(12 {(_TOP + bottom) / 2:.0f}) rotate(-90)" '
                f'text-anchor="middle">{y_name}</text>'
            )
        return "".join(parts)


def _ticks(low: float, high: float) -> list[float]:
    """Returns three to six round values between two values."""
    raw = (high - low) / 4
    unit = 10.0 ** np.floor(np.log10(raw))
    step = unit * min((1, 2, 5, 10), key=lambda factor: abs(np.log(factor * unit / raw)))
    first = np.ceil(low / step - 1e-9)
    return [float(k * step) + 0.0 for k in np.arange(first, np.floor(high / step + 1e-9) + 1)]


def _widened(low: float, high: float) -> tuple[float, float]:
    """Returns the range, widened if both ends differ only by rounding."""
    low, high = float(low), float(high)
    size = max(abs(low), abs(high))
    if high - low > _LEAST_SPREAD * size:
        return low, high
    margin = max(0.5, 0.5 * size)
    return low - margin, high + margin


def _thinned(x: Sequence[float], y: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    xs, ys = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if len(xs) <= _MAX_POINTS:
        return xs, ys
    x_means, y_means = (
        np.array([group.mean() for group in np.array_split(axis, _MAX_POINTS)]) for axis in (xs, ys)
    )
    return x_means, y_means


def _figure(frame: _Frame, content: str, spoken: str, caption: str | None = None) -> str:
    width, height = frame.size
    return (
        f'<figure class="chart"><svg viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(spoken)}">{frame.axes()}{content}</svg>'
        f"<figcaption>{caption or escape(spoken)}</figcaption></figure>"
    )

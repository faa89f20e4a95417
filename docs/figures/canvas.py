"""Shared style of the figures, and a small drawing board for block diagrams."""

import io
import logging
import re
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("svg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Polygon

FOLDER = Path(__file__).parent
INK, MUTED, LINE = "#22303c", "#5d6b78", "#8a97a3"
BLUE, ORANGE, GREEN, PURPLE, RED = "#3b75af", "#d9822b", "#3c8d5a", "#8259a6", "#c0483c"
# Fill and border of each kind of box.
KINDS = {
    "data": ("#eef1f4", LINE),
    "layer": ("#dbe8f5", BLUE),
    "norm": ("#fbe6d0", ORANGE),
    "activation": ("#dff0e4", GREEN),
    "special": ("#ebe1f3", PURPLE),
}
# Browsers choose the first font that they have. DejaVu Sans is the widest of them, and the one that
# the layout is checked with.
FONTS = ["Helvetica", "Arial", "DejaVu Sans"]

plt.rcParams.update(
    {
        "font.sans-serif": FONTS,
        "font.size": 9,
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": "occvae",  # the same file from the same figure
        "path.simplify": False,
        "text.color": INK,
        "axes.edgecolor": LINE,
        "axes.labelcolor": INK,
        "axes.titlesize": 9.5,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "lines.linewidth": 1.5,
        "legend.frameon": False,
    }
)
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # fonts that are not installed


def new_figure(width: float, height: float) -> Figure:
    """A figure of a size in inches on a white card, so that it is readable on dark pages too."""
    figure = plt.figure(figsize=(width, height))
    figure.patch.set_alpha(0.0)
    card = FancyBboxPatch(
        (0.0, 0.0),
        width,
        height,
        boxstyle="round,pad=0,rounding_size=0.12",
        transform=figure.dpi_scale_trans,
        facecolor="white",
        edgecolor="none",
        zorder=-10,
    )
    figure.add_artist(card)
    return figure


def save(figure: Figure, name: str, png_folder: Path | None = None) -> None:
    """Writes NAME.svg beside this file, and NAME.png into a folder to look at."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    (FOLDER / f"{name}.svg").write_text(_shorten(buffer.getvalue()))
    if png_folder is not None:
        figure.savefig(png_folder / f"{name}.png", dpi=130)
    plt.close(figure)


def _shorten(svg: str) -> str:
    """Shortens paths: coordinates to a tenth of a point, and lines along an axis to one number."""

    def path(match: re.Match[str]) -> str:
        numbers = re.sub(r"-?\d+\.\d+", lambda n: f"{float(n[0]):.1f}".removesuffix(".0"), match[1])
        numbers = " ".join(numbers.split())
        numbers = re.sub(r"M (\S+) (\S+) L \1 \2(?= M|$)", r"M \1 \2h0", numbers)
        numbers = re.sub(r"M (\S+) (\S+) L \1 (\S+)(?= M|$)", r"M \1 \2V\3", numbers)
        numbers = re.sub(r"M (\S+) (\S+) L (\S+) \2(?= M|$)", r"M \1 \2H\3", numbers)
        numbers = re.sub(r" ?([A-Z]) ?", r"\1", numbers)
        return f' d="{numbers}"'

    svg = re.sub(r'\sd="([^"]*)"', path, svg)
    return "".join(f"{line.rstrip()}\n" for line in svg.splitlines())


@dataclass
class Box:
    """A box by its center and size, in inches."""

    x: float
    y: float
    width: float
    height: float

    @property
    def left(self) -> tuple[float, float]:
        return self.x - self.width / 2, self.y

    @property
    def right(self) -> tuple[float, float]:
        return self.x + self.width / 2, self.y

    @property
    def top(self) -> tuple[float, float]:
        return self.x, self.y + self.height / 2

    @property
    def bottom(self) -> tuple[float, float]:
        return self.x, self.y - self.height / 2


class Diagram:
    """A drawing area. Coordinates are in inches from the lower left corner."""

    def __init__(self, width: float, height: float):
        self.width = width
        self.figure = new_figure(width, height)
        self.axes: Axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(0, height))
        self.axes.axis("off")

    def text(self, x: float, y: float, text: str, *, size: float = 9, **options) -> None:
        """Writes each line as a text of its own, because browsers center only single lines."""
        options = {"ha": "center", "va": "center"} | options
        lines = text.split("\n")
        for number, line in enumerate(lines):
            shift = 1.35 * size / 72 * ((len(lines) - 1) / 2 - number)
            self.axes.text(x, y + shift, line, fontsize=size, **options)

    def box(
        self,
        x: float,
        y: float,
        width: float,
        text: str,
        kind: str = "layer",
        *,
        height: float = 0.5,
        size: float = 9,
    ) -> Box:
        """A box around (x, y)."""
        fill, edge = KINDS[kind]
        assert 0.1 < x - width / 2 and x + width / 2 < self.width - 0.1, f"{text!r} leaves the card"
        patch = FancyBboxPatch(
            (x - width / 2, y - height / 2),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.06",
            facecolor=fill,
            edgecolor=edge,
            linewidth=1.1,
        )
        self.axes.add_patch(patch)
        self.text(x, y, text, size=size)
        return Box(x, y, width, height)

    def frame(self, x: float, y: float, width: float, height: float, title: str) -> None:
        """A dashed frame with its lower left corner at (x, y), and a title inside its top edge."""
        patch = FancyBboxPatch(
            (x, y),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.08",
            facecolor="none",
            edgecolor=LINE,
            linestyle=(0, (4, 3)),
            linewidth=0.9,
        )
        self.axes.add_patch(patch)
        self.text(x + 0.12, y + height - 0.15, title, ha="left", color=MUTED)

    def arrow(self, *points: tuple[float, float], head: bool = True, color: str = INK) -> None:
        """A line through points, with a head at its end."""
        xs, ys = zip(*points, strict=True)
        if len(points) > 2 or not head:
            self.axes.plot(xs, ys, color=color, linewidth=1.1, solid_joinstyle="round")
        if head:
            style = {"arrowstyle": "-|>", "color": color, "linewidth": 1.1, "shrinkA": 0}
            style |= {"shrinkB": 0, "mutation_scale": 9}
            self.axes.annotate("", points[-1], points[-2], arrowprops=style)

    def row(self, x: float, y: float, gap: float, *items: tuple, **options) -> list[Box]:
        """Draws boxes (width, text, kind) from x to the right, with arrows between them."""
        boxes: list[Box] = []
        for width, *rest in items:
            boxes.append(self.box(x + width / 2, y, width, *rest, **options))
            if len(boxes) > 1:
                self.arrow(boxes[-2].right, boxes[-1].left)
            x += width + gap
        return boxes

    def cube(self, x: float, y: float, edge: float, kind: str = "layer") -> Box:
        """A cube in oblique projection whose front is centered at (x, y)."""
        fill, line = KINDS[kind]
        left, low, depth = x - edge / 2, y - edge / 2, 0.35 * edge
        right, high = left + edge, low + edge
        faces = (
            [(left, low), (right, low), (right, high), (left, high)],
            [
                (left, high),
                (right, high),
                (right + depth, high + depth),
                (left + depth, high + depth),
            ],
            [
                (right, low),
                (right + depth, low + depth),
                (right + depth, high + depth),
                (right, high),
            ],
        )
        for face in faces:
            patch = Polygon(face, closed=True, facecolor=fill, edgecolor=line, linewidth=1.0)
            self.axes.add_patch(patch)
        return Box(x + depth / 2, y + depth / 2, edge + depth, edge + depth)

"""Figures of something computed: fields, rounds of MISE, Gaussians, positional encodings."""

import math

import numpy as np
import torch
from canvas import BLUE, GREEN, INK, LINE, MUTED, ORANGE, PURPLE, RED, new_figure
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from torch import Tensor

import occvae
from occvae.models.decoders import CbnDecoder
from occvae.models.posterior import mean_of_views, product_of_experts

INSIDE, OUTSIDE = ORANGE, BLUE
# Of a field, from far outside to far inside.
_SHADES = ["#a9c8e6", "#c1d8ee", "#d9e7f5", "#edf3fa", "#fbe3c8", "#f2c08a"]


def _panel(axes: Axes, title: str, low: float, high: float) -> None:
    axes.set_title(title)
    axes.set(xlim=(low, high), ylim=(low, high), xticks=[], yticks=[], aspect="equal")


def _dots(axes: Axes, points: np.ndarray, color: str, size: float) -> None:
    """Points (N, 2) as one path of round caps, much smaller in a file than N markers."""
    codes = np.tile([Path.MOVETO, Path.LINETO], len(points))
    path = Path(np.repeat(points, 2, axis=0), codes)
    patch = PathPatch(path, facecolor="none", edgecolor=color, linewidth=size, capstyle="round")
    axes.add_patch(patch)


def _squares(axes: Axes, lower: np.ndarray, edges: np.ndarray, **options) -> None:
    """Squares with lower left corners (N, 2) and edges (N,) as one path."""
    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)])
    vertices = lower[:, None] + edges[:, None, None] * corners
    codes = np.tile([Path.MOVETO, *[Path.LINETO] * 3, Path.CLOSEPOLY], len(lower))
    axes.add_patch(PathPatch(Path(vertices.reshape(-1, 2), codes), **options))


def _armchair(x: Tensor, y: Tensor) -> Tensor:
    """The signed distance, inside positive, to a seat, a back and two legs from the side."""

    def bar(cx: float, cy: float, half_x: float, half_y: float) -> Tensor:
        dx, dy = (x - cx).abs() - half_x, (y - cy).abs() - half_y
        outside = torch.hypot(dx.clamp(min=0), dy.clamp(min=0))
        return 0.03 - (outside + torch.maximum(dx, dy).clamp(max=0))

    parts = bar(0, -0.02, 0.24, 0.03), bar(-0.23, 0.2, 0.02, 0.22)
    legs = bar(-0.23, -0.22, 0.02, 0.2), bar(0.22, -0.22, 0.02, 0.2)
    return torch.stack([*parts, *legs]).amax(0)


def _grid(count: int, extent: float = 0.55) -> tuple[Tensor, Tensor]:
    axis = torch.linspace(-extent, extent, count)
    return torch.meshgrid(axis, axis, indexing="xy")


def occupancy_field() -> Figure:
    figure = new_figure(7.5, 2.85)
    first, second, third = figure.subplots(1, 3)
    figure.subplots_adjust(left=0.02, right=0.98, bottom=0.12, top=0.88, wspace=0.06)
    x, y = _grid(56)
    logits = 40 * _armchair(x, y)
    levels = [-99, -12, -8, -4, 0, 0.8, 99]
    first.contourf(x, y, logits, levels, colors=_SHADES)
    first.contour(x, y, logits, [0.0], colors=INK, linewidths=1.4)
    _panel(first, "the field: a logit at every point", -0.55, 0.55)

    points = 1.1 * torch.rand(500, 2, generator=torch.Generator().manual_seed(3)) - 0.55
    inside = _armchair(*points.unbind(1)) >= 0
    _dots(second, points[~inside].numpy(), OUTSIDE, 2.4)
    _dots(second, points[inside].numpy(), INSIDE, 4.0)
    _panel(second, "training: random points with labels", -0.55, 0.55)

    x, y = _grid(23)
    values = _armchair(x, y)
    lattice = torch.stack([x, y], -1)
    _dots(third, lattice[values < 0].numpy(), OUTSIDE, 1.6)
    _dots(third, lattice[values >= 0].numpy(), INSIDE, 3.0)
    third.contour(x, y, values, [0.0], colors=INK, linewidths=1.4)
    _panel(third, "extraction: the level set on a lattice", -0.55, 0.55)
    for x, text in ((0.18, "color: logit; line: level 0"), (0.82, "linear between lattice points")):
        figure.text(x, 0.05, text, ha="center", color=MUTED, fontsize=8.5)
    figure.text(0.46, 0.05, "● inside", ha="center", color=INSIDE, fontsize=8.5)
    figure.text(0.55, 0.05, "● outside", ha="center", color=OUTSIDE, fontsize=8.5)
    return figure


RESOLUTION, COARSE = 24, 6
_BODY, _BAR = (3.3, 9.3, 6.7, 21.3), (9.3, 21.6, 9.3, 10.7)  # x and y from, to


def _lattice_field(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A body and a bar thinner than a coarse cell, in lattice coordinates. Positive inside."""

    def box(left: float, right: float, low: float, high: float) -> np.ndarray:
        return np.minimum(np.minimum(x - left, right - x), np.minimum(y - low, high - y))

    return np.maximum(box(*_BODY), box(*_BAR))


def _rounds_of_mise() -> list[np.ndarray]:
    """The lattice points (N, 2) that each round of occvae.mise adds to the plane z = 0.

    The field does not depend on z, so every plane of lattice points is refined like the drawn one.
    """
    asked: list[np.ndarray] = []

    def field(points: Tensor, shape_index: Tensor) -> Tensor:
        lattice = ((points.double() / 1.1 + 0.5) * RESOLUTION).numpy()
        asked.append(lattice.round().astype(int))
        return torch.from_numpy(_lattice_field(lattice[:, 0], lattice[:, 1]))

    grid = occvae.mise(field, resolution=RESOLUTION, coarse_resolution=COARSE)
    assert [len(points) for points in asked] == grid.rounds
    return [points[points[:, 2] == RESOLUTION // 2, :2] for points in asked]


def _cell_lines(known: set[tuple[int, int]]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """The lines between leaves: a cell was split where its center is known."""
    step = RESOLUTION // COARSE
    axis = range(0, RESOLUTION + 1, step)
    lines = [((x, 0), (x, RESOLUTION)) for x in axis] + [((0, y), (RESOLUTION, y)) for y in axis]
    stack = [(x, y, step) for x in axis[:-1] for y in axis[:-1]]
    while stack:
        x, y, edge = stack.pop()
        half = edge // 2
        if edge > 1 and (x + half, y + half) in known:
            lines += [((x + half, y), (x + half, y + edge)), ((x, y + half), (x + edge, y + half))]
            stack += [(x + i, y + j, half) for i in (0, half) for j in (0, half)]
    return lines


def _corner_only() -> set[tuple[int, int]]:
    """The lattice points known when cells are split for their corners' sake alone."""
    edge = RESOLUTION // COARSE
    cells = [(x, y) for x in range(0, RESOLUTION, edge) for y in range(0, RESOLUTION, edge)]
    known = {(x, y) for x in range(0, RESOLUTION + 1, edge) for y in range(0, RESOLUTION + 1, edge)}
    while edge > 1:
        half, split = edge // 2, []
        for x, y in cells:
            corners = [(x + i, y + j) for i in (0, edge) for j in (0, edge)]
            if len({_is_inside(point) for point in corners}) == 2:
                split.append((x, y))
        for x, y in split:
            known |= {(x + i, y + j) for i in (0, half, edge) for j in (0, half, edge)}
        cells = [(x + i, y + j) for x, y in split for i in (0, half) for j in (0, half)]
        edge = half
    return known


def _is_inside(point: tuple[int, int]) -> bool:
    return bool(_lattice_field(*np.array(point, float)) >= 0)


def _draw_mise(axes: Axes, known: set[tuple[int, int]], new: np.ndarray, title: str) -> None:
    lines = np.array(_cell_lines(known), float).reshape(-1, 2)
    codes = np.tile([Path.MOVETO, Path.LINETO], len(lines) // 2)
    axes.add_patch(PathPatch(Path(lines, codes), facecolor="none", edgecolor=LINE, linewidth=0.5))
    for left, right, low, high in (_BODY, _BAR):
        axes.fill([left, right, right, left], [low, low, high, high], color="#f6e3cd", zorder=-1)
    fresh = {tuple(point) for point in new.tolist()}
    for points, size in ((sorted(known - fresh), 2.2), (sorted(fresh), 4.2)):
        inside = np.array([_is_inside(point) for point in points], bool)
        array = np.array(points, float).reshape(-1, 2)
        _dots(axes, array[~inside], OUTSIDE, size)
        _dots(axes, array[inside], INSIDE, size)
    _panel(axes, title, -0.8, RESOLUTION + 0.8)
    axes.axis("off")


def mise_rounds() -> Figure:
    rounds = _rounds_of_mise()
    figure = new_figure(7.5, 5.75)
    panels = figure.subplots(2, 3).ravel()
    figure.subplots_adjust(
        left=0.015, right=0.985, bottom=0.075, top=0.95, wspace=0.04, hspace=0.14
    )
    known: set[tuple[int, int]] = set()
    shown = {0: panels[0], 1: panels[1], 2: panels[2], 3: panels[3], len(rounds) - 1: panels[4]}
    for number, new in enumerate(rounds):
        known |= {tuple(point) for point in new.tolist()}
        if number in shown:
            last = " (the last): the whole bar" if number == len(rounds) - 1 else ""
            name = ": the coarse lattice" if number == 0 else last
            _draw_mise(shown[number], known, new, f"round {number}{name}")
    nodes = {1: ((12, 10), (16, 5.2)), 2: ((16, 10), (18, 5.2))}
    for number, (node, place) in nodes.items():
        axes = panels[number]
        axes.plot(*node, "o", color=RED, markersize=9, markerfacecolor="none", markeredgewidth=1.6)
        axes.annotate(
            "hanging node",
            node,
            place,
            color=RED,
            ha="center",
            fontsize=9,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
            arrowprops={"arrowstyle": "-", "color": RED, "shrinkB": 6},
        )
        cell = np.array([[node[0], 8]])
        _squares(axes, cell, np.array([4]), facecolor="#f3d4d0", edgecolor=RED, zorder=-2)
    corners = _corner_only()
    _draw_mise(panels[5], corners, np.zeros((0, 2), int), "corners only: the bar is cut off")
    panels[5].plot([12, 12], [8.6, 11.4], color=RED, linewidth=2)
    figure.text(0.03, 0.025, "● inside", color=INSIDE)
    figure.text(0.13, 0.025, "● outside", color=OUTSIDE)
    figure.text(0.25, 0.025, "large: new in this round", color=MUTED)
    figure.text(0.51, 0.025, "red cell: four corners outside, and split all the same", color=RED)
    assert len(known) > len(corners)
    return figure


def product_of_two() -> Figure:
    """Two views of one latent dimension, fused by the functions of the package."""
    means, variances = torch.tensor([[-1.1], [1.3]]), torch.tensor([[1.0], [0.16]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    product = product_of_experts(means, variances.log(), mask)
    average = mean_of_views(means, variances.log(), mask)
    figure = new_figure(7.5, 2.9)
    axes = figure.subplots()
    figure.subplots_adjust(left=0.03, right=0.97, bottom=0.16, top=0.96)
    z = np.linspace(-4, 4, 241)

    def draw(mean: float, variance: float, color: str, style: str, name: str) -> None:
        density = np.exp(-((z - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)
        label = f"{name}: μ = {mean:.2f}, σ = {math.sqrt(variance):.2f}".replace("-", "−")
        axes.plot(z, density, style, color=color, label=label)

    draw(0.0, 1.0, LINE, ":", "prior N(0, 1)")
    draw(means[0].item(), variances[0].item(), BLUE, "-", "view 1, unsure")
    draw(means[1].item(), variances[1].item(), GREEN, "-", "view 2, sure")
    draw(product[0].item(), product[1].exp().item(), RED, "-", "product of experts")
    draw(average[0].item(), average[1].exp().item(), PURPLE, "--", "mean fusion")
    axes.lines[3].set_linewidth(2.4)
    axes.set(xlim=(-4, 4), ylim=(0, None), yticks=[], xlabel="one dimension of z")
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.legend(loc="upper left", fontsize=8.5)
    return figure


def _sinusoids(positions: Tensor, size: int) -> Tensor:
    """(N,) positions to (N, size) sines and cosines (Vaswani et al. 2017)."""
    frequency = 10_000.0 ** (-torch.arange(0, size, 2) / size)
    angles = positions[:, None].float() * frequency
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)


def position_similarity() -> Figure:
    import timm

    rows, columns = torch.meshgrid(torch.arange(14), torch.arange(14), indexing="ij")
    in_line = _sinusoids(torch.arange(28 * 28), 64)
    in_plane = torch.cat([_sinusoids(part.flatten(), 192) for part in (rows, columns)], dim=1)
    torch.manual_seed(0)
    learned = timm.create_model("vit_small_patch16_224").pos_embed.detach()[0, 1:]
    panels = (
        ("sinusoids, token number\n(28 × 28 tokens of 64)", in_line, 28),
        ("sinusoids, row and column\n(14 × 14 tokens of 384)", in_plane, 14),
        ("learned, before training\n(14 × 14 tokens of 384)", learned, 14),
        ("none\n(all tokens alike)", torch.ones(196, 1), 14),
    )
    figure = new_figure(7.5, 2.3)
    figure.subplots_adjust(left=0.015, right=0.92, bottom=0.04, top=0.8, wspace=0.08)
    for number, (title, code, edge) in enumerate(panels):
        axes = figure.add_subplot(1, 4, number + 1)
        row, column = edge * 5 // 14, edge * 4 // 14
        unit = code / code.norm(dim=1, keepdim=True)
        similarity = (unit @ unit[row * edge + column]).view(edge, edge)
        image = axes.imshow(similarity, cmap="viridis", vmin=0, vmax=1, interpolation="none")
        axes.plot(column, row, "s", color=RED, markersize=6 * 14 / edge, markerfacecolor="none")
        name, size = title.split("\n")
        axes.text(0.5, 1.16, name, fontsize=8.5, ha="center", transform=axes.transAxes)
        axes.text(0.5, 1.05, size, fontsize=8.5, ha="center", color=MUTED, transform=axes.transAxes)
        axes.set(xticks=[], yticks=[])
    bar = figure.colorbar(image, cax=figure.add_axes((0.935, 0.09, 0.012, 0.64)), ticks=[0, 1])
    bar.outline.set_visible(False)
    return figure


def fourier_kernel() -> Figure:
    """How alike the codes of two coordinates are, by their distance."""
    figure = new_figure(7.5, 2.6)
    axes = figure.subplots()
    figure.subplots_adjust(left=0.1, right=0.97, bottom=0.18, top=0.95)
    distance = torch.linspace(0, 1, 251)
    for octaves, color in ((1, BLUE), (3, GREEN), (5, ORANGE)):
        waves = 2.0 ** torch.arange(octaves) * math.pi
        kernel = (distance[:, None] * waves).cos().mean(1)
        name = "1 octave" if octaves == 1 else f"{octaves} octaves"
        axes.plot(distance, kernel, color=color, label=name)
    axes.axhline(0, color=LINE, linewidth=0.8)
    axes.set(xlim=(0, 1), xlabel="distance of two coordinates", ylabel="similarity of codes")
    axes.spines[["right", "top"]].set_visible(False)
    axes.legend(ncols=3, loc="upper right", fontsize=8.5)
    return figure


def one_decoder_many_shapes() -> Figure:
    """A decoder with one free conditioning vector for each of three shapes, trained here."""
    torch.manual_seed(0)
    decoder, codes = CbnDecoder(8, 64, 2), torch.nn.Parameter(0.5 * torch.randn(3, 8))
    optimizer = torch.optim.Adam([*decoder.parameters(), codes], 3e-3)

    def truth(x: Tensor, y: Tensor) -> Tensor:
        ring = 0.1 - (torch.hypot(x, y) - 0.3).abs()
        cross = 0.3 - torch.minimum(x.abs(), y.abs()) * 3 - torch.maximum(x.abs(), y.abs()) * 0.6
        return torch.stack([_armchair(x, y), ring, cross]) >= 0

    for _ in range(1500):
        points = 1.1 * torch.rand(512, 2) - 0.55
        flat = torch.cat([points, torch.zeros(512, 1)], dim=1).expand(3, -1, -1)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            decoder(flat, codes), truth(*points.unbind(1)).float()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    decoder.eval()
    first, second, third = codes.detach()
    between = [torch.lerp(second, third, weight) for weight in (1 / 3, 2 / 3)]
    shown = {"code 1": first, "code 2": second, "⅔ code 2, ⅓ code 3": between[0]}
    shown |= {"⅓ code 2, ⅔ code 3": between[1], "code 3": third}
    x, y = _grid(56)
    points = torch.stack([x, y, torch.zeros_like(x)], -1).view(1, -1, 3)
    figure = new_figure(7.5, 1.85)
    figure.subplots_adjust(left=0.015, right=0.985, bottom=0.04, top=0.84, wspace=0.06)
    for number, (title, code) in enumerate(shown.items()):
        axes = figure.add_subplot(1, 5, number + 1)
        with torch.no_grad():
            logits = decoder(points, code[None]).view(56, 56)
        axes.contourf(x, y, logits, [0, 1e9], colors=["#f6d9b8"])
        axes.contour(x, y, logits, [0], colors=[INSIDE], linewidths=1.3)
        _panel(axes, title, -0.55, 0.55)
        axes.title.set_fontsize(8.5)
    return figure


def representations() -> Figure:
    figure = new_figure(7.5, 2.45)
    panels = figure.subplots(1, 4)
    figure.subplots_adjust(left=0.015, right=0.985, bottom=0.13, top=0.88, wspace=0.06)
    centers = (torch.arange(16) + 0.5) / 16 - 0.5
    x, y = torch.meshgrid(centers, centers, indexing="xy")
    full = torch.stack([x, y], -1)[_armchair(x, y) >= 0].numpy() - 1 / 32
    edges = np.full(len(full), 1 / 16)
    _squares(panels[0], full, edges, facecolor="#f6d9b8", edgecolor=ORANGE, linewidth=0.8)

    x, y = _grid(71)
    values = _armchair(x, y)
    contours = panels[2].contour(x, y, values, [0.0], linewidths=0)
    lines = [line for line in contours.allsegs[0] if len(line) > 8]
    contours.remove()
    for line in lines:
        length = np.r_[0, np.hypot(*np.diff(line, axis=0).T).cumsum()]
        for axes, count in ((panels[1], 110), (panels[2], 44)):
            at = np.linspace(0, length[-1], count, endpoint=axes is panels[2])
            polygon = np.stack([np.interp(at, length, part) for part in line.T], 1)
            if axes is panels[1]:
                _dots(axes, polygon, ORANGE, 2.6)
            else:
                axes.plot(*polygon.T, "-o", color=ORANGE, linewidth=1.2, markersize=2.4)
    levels = [-9, -0.3, -0.2, -0.1, 0, 0.02, 9]
    panels[3].contourf(x, y, values, levels, colors=_SHADES)
    panels[3].contour(x, y, values, [0.0], colors=INK, linewidths=1.3)
    names = ("voxels", "points", "mesh", "implicit field")
    for axes, name in zip(panels, names, strict=True):
        _panel(axes, name, -0.55, 0.55)
    notes = (
        "16² cells, full or empty",
        "110 points, no surface",
        "44 vertices and edges",
        "a value at any point",
    )
    for number, note in enumerate(notes):
        figure.text(0.135 + 0.245 * number, 0.05, note, ha="center", color=MUTED, fontsize=8.5)
    return figure

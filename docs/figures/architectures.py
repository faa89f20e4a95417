"""Block diagrams of the decoders: occvae/models/decoders.py and occvae/models/pix2vox."""

from canvas import BLUE, KINDS, MUTED, Diagram
from matplotlib.figure import Figure
from matplotlib.patches import Polygon


def conditional_batch_norm() -> Figure:
    d = Diagram(7.5, 2.35)
    y = 0.85
    _, norm = d.row(
        0.15,
        1.8,
        0.35,
        (1.1, "features x\n(B, N, C)", "data"),
        (1.75, "batch norm of C channels\nover B, N and all ranks", "norm"),
    )
    scale, shift = (
        d.box(4.15, 1.8, 0.9, "× γ(c)", "special"),
        d.box(5.6, 1.8, 0.9, "+ β(c)", "special"),
    )
    out = d.box(6.82, 1.8, 1.0, "output\n(B, N, C)", "data")
    for left, right in ((norm, scale), (scale, shift), (shift, out)):
        d.arrow(left.right, right.left)
    c = d.box(0.88, y, 1.4, "conditioning c\n(B, E)", "data")
    gamma = d.box(scale.x, y, 1.3, "γ: Linear E → C\nstarts at 1")
    beta = d.box(shift.x, y, 1.3, "β: Linear E → C\nstarts at 0")
    d.arrow(gamma.top, scale.bottom)
    d.arrow(beta.top, shift.bottom)
    d.arrow(c.right, gamma.left)
    d.arrow((2.4, y), (2.4, 0.3), (beta.x, 0.3), beta.bottom)
    return d.figure


def cbn_decoder() -> Figure:
    d = Diagram(7.5, 4.25)
    points, _, blocks, norm, *_ = d.row(
        0.15,
        3.7,
        0.24,
        (0.85, "points\n(B, N, 3)", "data"),
        (0.8, "Linear\n3 → 256", "layer"),
        (1.25, "5 × CBN block\n256 → 256", "special"),
        (0.55, "CBN", "norm"),
        (0.6, "ReLU", "activation"),
        (0.85, "Linear\n256 → 1", "layer"),
        (0.75, "logits\n(B, N)", "data"),
    )
    c = d.box(0.9, 2.65, 1.45, "conditioning c\n(B, E = 256)", "data")
    d.arrow(c.right, (blocks.x, 2.65), blocks.bottom)
    d.arrow((blocks.x, 2.65), (norm.x, 2.65), norm.bottom)
    d.text(norm.x + 0.15, 2.65, "into the γ and β of all 11 CBN", ha="left", color=MUTED)

    d.frame(0.15, 0.15, 7.2, 1.85, "CBN block")
    first, *_, last = d.row(
        0.75,
        0.62,
        0.17,
        (0.62, "CBN", "norm"),
        (0.66, "ReLU", "activation"),
        (1.05, "Linear\n256 → 256", "layer"),
        (0.62, "CBN", "norm"),
        (0.66, "ReLU", "activation"),
        (1.15, "Linear\nstarts at 0", "layer"),
    )
    d.text(0.33, 0.62, "x", size=10)
    d.arrow((0.42, 0.62), first.left)
    plus = d.box(6.62, 0.62, 0.3, "+", "data", height=0.3, size=11)
    d.arrow(last.right, plus.left)
    d.arrow((0.58, 0.62), (0.58, 1.35), (plus.x, 1.35), plus.top)
    d.text(3.6, 1.5, "skip connection: the block starts as an identity", color=MUTED)
    d.arrow(plus.right, (7.2, 0.62))
    return d.figure


def cnn_decoder() -> Figure:
    d = Diagram(7.5, 3.15)
    points, linear, norm, relu = d.row(
        0.12,
        1.95,
        0.18,
        (0.8, "points\n(B, N, 3)", "data"),
        (0.75, "Linear\n3 → 256", "layer"),
        (0.5, "CBN", "norm"),
        (0.55, "ReLU", "activation"),
    )
    c = d.box(0.87, 0.75, 1.4, "conditioning c\n(B, E)", "data")
    d.arrow(c.right, (norm.x, 0.75), norm.bottom)
    d.text(norm.x + 0.12, 0.75, "once", ha="left", color=MUTED)
    x = relu.right[0]
    fill, line = KINDS["layer"]
    widths = (256, 128, 64, 32, 16, 4)
    edge = [1.6 * (width / 256) ** 0.5 for width in widths]
    for number, (before, after) in enumerate(zip(edge[:-1], edge[1:], strict=True)):
        left, right = x + 0.18, x + 0.45
        corners = [(left, -before), (right, -after), (right, after), (left, before)]
        shape = [(a, 1.95 + b / 2) for a, b in corners]
        d.axes.add_patch(Polygon(shape, closed=True, facecolor=fill, edgecolor=line))
        d.arrow((x, 1.95), (left, 1.95))
        d.text((left + right) / 2, 0.98, f"{widths[number]}\n→ {widths[number + 1]}", size=8.5)
        x = right
    d.text(4.4, 0.5, "5 × (Linear, batch norm, LeakyReLU 0.2)", color=MUTED)
    last, logits = d.row(
        x + 0.18, 1.95, 0.18, (0.7, "Linear\n4 → 1", "layer"), (0.65, "logits\n(B, N)", "data")
    )
    d.arrow((x, 1.95), last.left)
    return d.figure


def pix2vox_decoder() -> Figure:
    d = Diagram(7.5, 3.6)
    image, features = d.row(
        0.12,
        3.1,
        1.75,
        (1.25, "view\n(M, 3, 224, 224)", "data"),
        (1.4, "features\n(M, F = 16,384)", "data"),
        size=8.5,
    )
    d.text(
        (image.right[0] + features.left[0]) / 2, 3.29, "VGG-16 to stride 8,", size=8.5, color=MUTED
    )
    d.text((image.right[0] + features.left[0]) / 2, 2.94, "3 convolutions", size=8.5, color=MUTED)
    names = ("2,048 × 2³", "512 × 4³", "128 × 8³", "32 × 16³", "map 8 × 32³")
    edges = (0.16, 0.24, 0.36, 0.54, 0.78)
    centers = (0.5, 1.45, 2.48, 3.62, 4.9)
    y, previous = 1.4, None
    for name, edge, x in zip(names, edges, centers, strict=True):
        cube = d.cube(x, y, edge)
        d.text(x + 0.08, 0.63, name, size=8.5)
        if previous is not None:
            d.arrow((previous[0] + 0.06, y), (x - edge / 2 - 0.05, y))
        previous = cube.right
    d.arrow(features.bottom, (features.x, 2.45), (0.53, 2.45), (0.53, 1.6))
    d.text(2.1, 2.27, "read as a cube of 2³", size=8.5, color=MUTED)
    d.text(
        2.55,
        0.25,
        "4 × (ConvTranspose3d kernel 4, stride 2; batch norm; ReLU)",
        size=8.5,
        color=MUTED,
    )
    volume = d.cube(6.45, 1.4, 0.78, "special")
    d.arrow((previous[0] + 0.06, y), (6.02, y))
    d.text(6.53, 0.63, "volume 1 × 32³", size=8.5)
    d.text(6.15, 0.25, "ConvTranspose3d 8 → 1, sigmoid", size=8.5, color=MUTED)
    raw = d.box(6.0, 3.1, 2.5, "raw features of the view (M, 9, 32³)", "data", height=0.4, size=8.5)
    for x in (5.05, volume.x):
        d.arrow((x, 2.14), (x, raw.bottom[1]))
    d.text(5.83, 2.5, "map and volume", size=8.5, color=MUTED)
    return d.figure


def _views(d: Diagram, scorer: list[tuple], y: float) -> None:
    """Raw features of views on the left, through a scorer, to the merged volume on the right."""
    raw, *_, scores = d.row(
        0.4,
        y,
        0.22,
        (1.2, "raw features\n(M, 9, 32³)", "data"),
        *scorer,
        (1.05, "scores\n(M, 1, 32³)", "data"),
    )
    softmax = d.box(
        scores.right[0] + 0.97, y, 1.45, "softmax over the\nviews of an item", "special"
    )
    d.arrow(scores.right, softmax.left)
    times = d.box(softmax.x, y - 0.95, 1.45, "Σ weight × volume", "special", height=0.4)
    d.arrow(softmax.bottom, times.top)
    merged = d.box(softmax.x, y - 1.75, 1.45, "merged volume\n(B, 32³)", "data")
    d.arrow(times.bottom, merged.top)
    volumes = d.box(raw.x, y - 0.95, 1.2, "volumes\n(M, 32³)", "data")
    d.arrow(volumes.right, times.left)
    d.text(
        (volumes.right[0] + times.left[0]) / 2, y - 0.8, "the views' own probabilities", color=MUTED
    )


def pix2vox_merger() -> Figure:
    d = Diagram(7.5, 3.05)
    layers = (2.1, "5 × (Conv3d 3³, batch norm,\nLeakyReLU 0.2)", "layer")
    _views(d, [layers], 2.4)
    d.text(2.87, 2.88, "channels 9 → 16 → 8 → 4 → 2 → 1", color=MUTED, size=8.5)
    d.text(
        2.75,
        0.5,
        "Each voxel of a view gets a score from its 11³ neighborhood\n"
        "in that view. The weights of a voxel add up to 1 over the views.",
        color=MUTED,
        size=8.5,
    )
    return d.figure


def pix2voxpp_merger() -> Figure:
    d = Diagram(7.5, 4.15)
    y = 3.5
    raw = d.box(0.72, y, 1.15, "raw features\n(M, 9, 32³)", "data")
    names = [f"scale {n}\n9 → 9" for n in range(1, 5)]
    scales = d.row(1.6, y, 0.27, *[(0.85, name, "layer") for name in names])
    d.arrow(raw.right, scales[0].left)
    concat = d.box(
        3.87, 2.6, 3.6, "concatenate the four contexts: (M, 36, 32³)", "data", height=0.36
    )
    for scale in scales:
        x = min(max(scale.x, concat.left[0] + 0.08), concat.right[0] - 0.08)
        d.arrow(scale.bottom, (x, concat.top[1]))
    d.text(6.85, y, "each: Conv3d 3³,\nbatch norm,\nLeakyReLU 0.2", color=MUTED, size=8.5)
    combine, scores = d.row(
        2.07,
        1.75,
        0.3,
        (1.9, "combine: 36 → 9 → 1\n(two such layers)", "layer"),
        (1.05, "scores\n(M, 1, 32³)", "data"),
    )
    d.arrow((combine.x, concat.bottom[1]), combine.top)
    softmax = d.box(6.4, 1.75, 1.45, "softmax over the\nviews of an item", "special")
    d.arrow(scores.right, softmax.left)
    times = d.box(6.4, 0.95, 1.5, "Σ weight × volume", "special", height=0.4)
    d.arrow(softmax.bottom, times.top)
    merged = d.box(6.4, 0.3, 1.5, "merged (B, 32³)", "data", height=0.36)
    d.arrow(times.bottom, merged.top)
    volumes = d.box(0.72, 0.95, 1.15, "volumes\n(M, 32³)", "data")
    d.arrow(volumes.right, times.left)
    d.text(3.4, 1.1, "the views' own probabilities", color=MUTED, size=8.5)
    d.text(
        3.0,
        0.45,
        "Contexts of 3³, 5³, 7³ and 9³ voxels judge a voxel together.",
        color=MUTED,
        size=8.5,
    )
    return d.figure


def pix2vox_refiner() -> Figure:
    d = Diagram(7.5, 4.0)
    down = [(1.35, "1 × 32³", 3.45), (1.35, "32 × 16³", 2.65), (1.35, "64 × 8³", 1.85)]
    down.append((1.35, "128 × 4³", 1.05))
    lefts, rights = [], []
    for number, (width, text, y) in enumerate(down):
        name = "merged volume\n" + text if number == 0 else text
        kind = "data" if number == 0 else "layer"
        lefts.append(d.box(1.0 + 0.28 * number, y, width, name, kind, height=0.46))
    up = [
        ("refined volume\n1 × 32³", 3.45),
        ("32 × 16³", 2.65),
        ("64 × 8³", 1.85),
        ("128 × 4³", 1.05),
    ]
    for number, (text, y) in enumerate(up):
        kind = "data" if number == 0 else "layer"
        rights.append(d.box(5.05 - 0.28 * number, y, 1.35, text, kind, height=0.46))
    for a, b in zip(lefts[:-1], lefts[1:], strict=True):
        d.arrow((a.x + 0.14, a.bottom[1]), (a.x + 0.14, b.top[1]))
    for a, b in zip(rights[:-1], rights[1:], strict=True):
        d.arrow((b.x + 0.14, b.top[1]), (b.x + 0.14, a.bottom[1]))
    for a, b in zip(lefts[1:], rights[1:], strict=True):
        d.arrow(a.right, b.left)
        d.text(3.02, a.y + 0.13, "add", color=MUTED, size=8.5)
    bottom = d.box(3.02, 0.36, 2.75, "Linear 8,192 → 2,048 → 8,192", "special", height=0.38)
    d.arrow(lefts[3].bottom, (lefts[3].x, bottom.top[1]))
    d.arrow((rights[3].x, bottom.top[1]), rights[3].bottom)
    out = d.box(6.68, 3.45, 1.2, "mean of both\n(B, 32³)", "data", height=0.46)
    d.arrow(rights[0].right, out.left)
    d.arrow(lefts[0].top, (lefts[0].x, 3.84), (out.x, 3.84), out.top)
    d.text(
        6.4,
        1.75,
        "down: Conv3d 4³,\nbatch norm,\nLeakyReLU 0.2, pool 2\n\n"
        "up: ConvTranspose3d 4³,\nstride 2, batch norm, ReLU;\nthe last one: sigmoid",
        color=MUTED,
        size=8.5,
    )
    return d.figure


def vae_head() -> Figure:
    d = Diagram(7.5, 4.0)
    fuse_y = 2.7
    for number, y in enumerate((3.45, 2.7, 1.95)):
        name = f"features of view {number + 1}\n(F = 16,384)"
        view, head = d.row(
            0.12,
            y,
            0.22,
            (1.4, name, "data"),
            (1.45, "Linear → μ\nLinear → log σ²", "layer"),
            size=8.5,
        )
        d.arrow(head.right, (3.85, fuse_y + 0.22 * (1 - number)))
    prior = d.box(2.52, 1.2, 1.45, "prior N(0, 1)", "data", height=0.36, size=8.5)
    d.arrow(prior.right, (4.2, 1.2), (4.2, fuse_y - 0.55))
    fuse = d.box(4.6, fuse_y, 1.5, "product of experts:\nadd the precisions", "special", height=1.1)
    posterior = d.box(
        6.55, fuse_y, 1.6, "posterior q(z | views)\nμ, log σ² (B, D = 64)", "data", size=8.5
    )
    d.arrow(fuse.right, posterior.left)
    sample = d.box(6.55, 1.65, 1.6, "z = μ + σ ε\n(prediction: z = μ)", "special", size=8.5)
    d.arrow(posterior.bottom, sample.top)
    from_latent = d.box(6.55, 0.6, 1.6, "Linear\n64 → 16,384", "layer", size=8.5)
    d.arrow(sample.bottom, from_latent.top)
    decoder = d.box(
        4.45, 0.6, 1.7, "decoder of Pix2Vox-A\n2³ → 32³, once per item", "layer", size=8.5
    )
    refiner = d.box(2.4, 0.6, 1.2, "refiner", "layer")
    volume = d.box(0.75, 0.6, 1.2, "volume\n(B, 32³)", "data")
    d.arrow(from_latent.left, decoder.right)
    d.arrow(decoder.left, refiner.right)
    d.arrow(refiner.left, volume.right)
    d.text(6.55, fuse_y + 0.55, "KL(q ‖ N(0, 1)) in the loss", color=BLUE, size=8.5)
    return d.figure

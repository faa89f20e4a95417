"""Summarizes a dataset: counts, sizes, and a contact sheet of random shapes."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ImageDraw

from occvae.data.manifest import Manifest
from occvae.data.shards import Shard
from occvae.data.truth import true_mesh
from occvae.errors import UserError
from occvae.images.io import load_square_image
from occvae.system.terminal import one_line
from occvae.visualize.rendering import orbit_extrinsics, render_views
from occvae.visualize.sheet import make_sheet

TILE = 160
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
# Largest number of shapes per category that the mean occupancy is computed from.
SHAPES_PER_MEAN = 32
_SHAPES_PER_ROW = 2
_MAX_REASONS = 20  # printed, the most frequent ones first


def open_shards(root: str | Path, manifest: Manifest) -> list[tuple[str, Shard]]:
    """All shards of a dataset, each with its split."""
    return [(entry.split, Shard(Path(root), entry)) for entry in manifest.shards]


def summarize_dataset(root: str | Path) -> dict[str, Any]:
    """Summarizes a dataset as JSON values.

    `categories` holds the number of shapes per split and the `mean_occupancy` of each category. The
    latter is the share of stored points that are inside, or of the coarsest voxels if there are no
    points. It is computed from at most 32 evenly spaced shapes.
    """
    manifest = Manifest.load(root)
    shards = open_shards(root, manifest)
    members: dict[str, list[tuple[str, Shard, int]]] = {name: [] for name in manifest.categories}
    for split, shard in shards:
        for local, category in enumerate(shard.categories):
            members.setdefault(category, []).append((split, shard, local))
    return {
        "root": str(root),
        "source": manifest.source,
        "splits": manifest.splits,
        "complete": manifest.complete,
        "shapes": manifest.count_shapes(),
        "shards": len(manifest.shards),
        "bytes": sum(entry.num_bytes for entry in manifest.shards),
        "layouts": manifest.layouts,
        "categories": {
            category: {
                "shapes": dict(Counter(split for split, _, _ in shapes)),
                "mean_occupancy": _mean_occupancy(shapes),
            }
            for category, shapes in sorted(members.items())
        },
        "settings": manifest.settings,
        "meshes": sum(shard.num_meshes for _, shard in shards),
        "notes": len(manifest.notes),
        "skipped": dict(Counter(manifest.skipped.values()).most_common()),
    }


def _mean_occupancy(shapes: list[tuple[str, Shard, int]]) -> float | None:
    if not shapes:
        return None
    count = min(len(shapes), SHAPES_PER_MEAN)
    chosen = np.linspace(0, len(shapes) - 1, count).round().astype(int)
    means = [_occupancy(*shapes[number][1:]) for number in chosen]
    return float(np.mean(means))


def _occupancy(shard: Shard, local: int) -> float:
    if shard.num_points:
        return float(shard.points(local, 0, shard.num_points)[1].mean())
    return float(shard.voxels(local).mean())


def format_summary(summary: dict[str, Any]) -> str:
    """Formats the result of `summarize_dataset` as text."""
    splits = list(summary["shapes"])
    state = "" if summary["complete"] else ", INCOMPLETE: run the command that builds it again"
    lines = [
        f"{summary['root']}: from {summary['source']}, splits {summary['splits']!r}{state}",
        f"{sum(summary['shapes'].values())} shapes, {summary['shards']} shards, "
        f"{summary['bytes'] / 1e6:.1f} MB",
    ]
    lines += [f"  {split}: {_describe(summary['layouts'][split])}" for split in splits]
    width = max(map(len, ["category", *summary["categories"]]))
    headings = [f"{name:>8}" for name in [*splits, "inside"]]
    lines.append("".join([f"{'category':<{width}}", *headings]))
    for category, figures in summary["categories"].items():
        counts = "".join(f"{figures['shapes'].get(split, 0):>8}" for split in splits)
        mean = figures["mean_occupancy"]
        lines.append(f"{category:<{width}}{counts}{'' if mean is None else f'{mean:>8.3f}'}")
    lines += [f"setting {name}: {value}" for name, value in summary["settings"].items()]
    if summary["meshes"]:
        lines.append(
            f"{summary['meshes']} shapes have a mesh, which contact sheets and reports draw"
        )
    if summary["notes"]:
        lines.append(f"{summary['notes']} shapes have notes; `occvae data verify` prints them")
    reasons = [f"{count} skipped: {reason}" for reason, count in summary["skipped"].items()]
    lines += reasons[:_MAX_REASONS]
    if len(reasons) > _MAX_REASONS:
        lines.append(
            f"and {len(reasons) - _MAX_REASONS} more reasons; dataset.json lists all of them"
        )
    return "\n".join(map(one_line, lines))


def _describe(layout: dict[str, Any]) -> str:
    parts = [f"{layout['views']} views{' with cameras' if layout['cameras'] else ''}"]
    for name in ("points", "near_points", "surface_points"):
        if layout[name]:
            count, dtype = layout[name]
            parts.append(f"{count} {name.replace('_', ' ')} ({dtype})")
    if layout["voxels"]:
        parts.append("voxels " + ", ".join(f"{edge}^3" for edge in layout["voxels"]))
    return ", ".join(parts)


def write_sample_sheet(
    path: str | Path, root: str | Path, *, num_shapes: int = 12, seed: int = 0
) -> None:
    """Writes a contact sheet of random shapes.

    It shows three images per shape: a stored image, the true surface seen from the same camera, and
    the true surface seen from behind.

    Args:
        path: file to write, .png, .jpg, .jpeg or .webp. Its folder is created if absent.
        root: folder of the dataset.
        num_shapes: largest number of shapes.
        seed: seed for the choice of shapes and views.

    Raises:
        UserError: the dataset has no shapes, or the file has another ending.
    """
    if Path(path).suffix.lower() not in _IMAGE_SUFFIXES:
        raise UserError(f"{path}: the file must end in one of {' '.join(_IMAGE_SUFFIXES)}")
    places = [
        (split, shard, local)
        for split, shard in open_shards(root, Manifest.load(root))
        for local in range(len(shard))
    ]
    if not places:
        raise UserError(f"{root}: the dataset has no shapes to draw; build or import it again")
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(places))[:num_shapes]
    strips = [_strip(*places[int(number)], rng) for number in chosen]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    make_sheet(strips, _SHAPES_PER_ROW).save(path)


def _strip(split: str, shard: Shard, local: int, rng: np.random.Generator) -> np.ndarray:
    """Draws the three images of one shape for `write_sample_sheet`, (TILE, 3 TILE, 3) uint8.

    Args:
        split: name of the split, for the caption.
        shard: the shard that holds the shape.
        local: number of the shape within the shard.
        rng: chooses the stored image.
    """
    view = int(rng.integers(shard.num_views))
    front = orbit_extrinsics([35.0], [30.0], [1.8])
    cameras = np.concatenate(
        [
            shard.extrinsics(local, view)[None] if shard.has_cameras else front,
            orbit_extrinsics([215.0], [30.0], [1.8]),
        ]
    )
    tiles = render_views(*true_mesh(shard, local), cameras, TILE)
    seen = load_square_image(shard.image(local, view), TILE)
    strip = make_sheet([seen, *tiles], 3)
    caption = f"{shard.categories[local]}, {split}, view {view}"
    ImageDraw.Draw(strip).text((TILE + 4, 2), caption, fill="black")
    return np.asarray(strip)

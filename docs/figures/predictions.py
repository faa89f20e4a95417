"""Draws what models make of images, point clouds and scans, as PNG files.

    python docs/figures/predictions.py shapes data/box-held-out benchmarks/figures/predictions.png
    python docs/figures/predictions.py images FOLDER benchmarks/figures/other_sources.png
    python docs/figures/predictions.py inputs data/procedural benchmarks/figures/completions.png \\
        --model runs/occvae

`shapes` draws the first validation shape of each category of a dataset. `images` draws all images
of a folder. Each group of tiles is an input image and the mesh of that image from two sides.
`inputs` needs a model of mixtures. Each row is a shape: 300 noisy points and their mesh, a scan
from one side and its mesh, an image and its mesh, the mesh of image and scan, and the truth.
"""

import argparse
from pathlib import Path

import numpy as np
from torch.utils.data import default_collate

import occvae
from occvae.data.dataset import ShapeDataset
from occvae.data.observations import open_split
from occvae.data.truth import true_mesh
from occvae.evaluation.inputs import parse_inputs
from occvae.images.io import load_square_image
from occvae.models.protocol import Model
from occvae.observations.drawing import draw_observation
from occvae.reconstruction import find_images
from occvae.visualize.rendering import PREDICTION_ALBEDO, orbit_extrinsics, render_views
from occvae.visualize.sheet import make_sheet

TILE, GROUPS_PER_ROW, GAP = 150, 4, 14
RESOLUTION = 128
BEHIND = orbit_extrinsics([215.0], [27.0], [1.8])
# Where the camera of an image is unknown, the mesh is shown from a usual place.
USUAL = orbit_extrinsics([35.0], [27.0], [1.8])


def main() -> None:
    parser = argparse.ArgumentParser(description="Draws what the built-in model makes of images.")
    parser.add_argument("kind", choices=("shapes", "images", "inputs"))
    parser.add_argument("source", help="dataset, or folder of images")
    parser.add_argument("output", type=Path, help="PNG to write")
    parser.add_argument("--model", default=occvae.list_pretrained()[0])
    options = parser.parse_args()
    model = occvae.from_pretrained(options.model)
    draw = {"shapes": draw_shapes, "images": draw_images, "inputs": draw_inputs}[options.kind]
    columns = 1 if options.kind == "inputs" else GROUPS_PER_ROW
    make_sheet(draw(model, options.source), columns).save(options.output, optimize=True)


def draw_shapes(model: Model, root: str) -> list[np.ndarray]:
    """The first shape of each category, seen by the camera of its input and from behind."""
    dataset = ShapeDataset(root, "val", image_size=model.image_size)
    groups = []
    for category in sorted(set(dataset.categories)):
        number = dataset.categories.index(category)
        shard, local = dataset.locate(number)
        camera = shard.extrinsics(local, 0)[None]
        image = dataset[number]["images"][None] / 255.0
        groups.append(_group(model, image, load_square_image(shard.image(local, 0), TILE), camera))
    return groups


def draw_images(model: Model, folder: str) -> list[np.ndarray]:
    """All images of a folder, with their meshes from a usual place and from behind."""
    return [
        _group(model, path, load_square_image(path, TILE), USUAL) for path in find_images([folder])
    ]


def draw_inputs(model: Model, root: str) -> list[np.ndarray]:
    """A row per category with the inputs of its first shape and the meshes from each."""
    rows = []
    sets = parse_inputs("points:300,scan,images:1,images:1+scan", model)
    splits = [open_split(root, "val", each.observation, num_views=1) for each in sets]
    for category in sorted(set(splits[0].categories)):
        number = splits[0].categories.index(category)
        tiles = []
        for each, split in zip(sets, splits, strict=True):
            batch = default_collate([split[number]])
            observed = each.observation.of(batch)
            if len(observed) == 1:
                tiles += draw_observation(each.observation, observed, TILE)
            [mesh] = model.reconstruct(observed, RESOLUTION, refine_vertices=4)
            tiles.append(_view(mesh.vertices, mesh.faces))
        tiles.append(_view(*true_mesh(*splits[0].locate(number))))
        rows.append(
            np.pad(np.concatenate(tiles, axis=1), ((0, GAP), (0, 0), (0, 0)), constant_values=255)
        )
    return rows


def _view(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    return render_views(vertices, faces, USUAL, TILE, PREDICTION_ALBEDO, supersample=3)[0]


def _group(model: Model, source: object, seen: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """An input image and its mesh from two sides, side by side, with a gap around them."""
    [mesh] = model.reconstruct(source, RESOLUTION, refine_vertices=4)
    cameras = np.concatenate([camera, BEHIND])
    views = render_views(mesh.vertices, mesh.faces, cameras, TILE, PREDICTION_ALBEDO, supersample=3)
    group = np.concatenate([seen, *views], axis=1)
    return np.pad(group, ((0, GAP), (0, GAP), (0, 0)), constant_values=255)


if __name__ == "__main__":
    main()

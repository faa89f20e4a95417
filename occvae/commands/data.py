"""occvae data: datasets in, out and looked into."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="action")
    build = actions.add_parser("build", help="make a dataset; continues an interrupted one")
    sources = build.add_subparsers(dest="source", required=True, metavar="source")
    procedural = sources.add_parser("procedural", help="the embedded seeded shapes")
    procedural.add_argument("--shapes-per-category", type=int)
    voxels = sources.add_parser("voxels", help="voxel grids of .npz archives")
    voxels.add_argument("archives", nargs="+")
    voxels.add_argument("--up", default="z", choices=("y", "z"), help="upward axis of the grids")
    for source in (procedural, voxels):
        source.add_argument("destination", help="folder of the dataset")
        source.add_argument("--points", type=int, default=100_000, help="points a shape")
        source.add_argument(
            "--voxel-resolution", type=int, default=32, help="edge of the grids in voxels"
        )
        source.add_argument("--views", type=int, default=24, help="pictures a shape")
        source.add_argument("--image-size", type=int, default=137, help="edge in pixels")
        source.add_argument("--seed", type=int, default=0)
        source.add_argument("--workers", type=int, help="processes; default one a core")
    images = actions.add_parser("images", help="write the first pictures of shapes to a folder")
    images.add_argument("root")
    images.add_argument("destination")
    images.add_argument("--split", default="val")
    images.add_argument("--count", type=int, default=8)
    verify = actions.add_parser("verify", help="compare every shard with its checksum")
    verify.add_argument("root")


def run(options: argparse.Namespace) -> None:
    from occvae.data import build
    from occvae.data.sources import ProceduralSource, VoxelArchiveSource

    if options.action == "images":
        return _export_images(options)
    if options.action == "verify":
        manifest = build.verify_dataset(options.root)
    else:
        if options.source == "procedural":
            count = options.shapes_per_category
            count = build.DEFAULT_SHAPES_PER_CATEGORY if count is None else count
            source = ProceduralSource(count, options.seed)
        else:
            source = VoxelArchiveSource(options.archives, options.up)
        settings = build.BuildSettings(
            num_points=options.points,
            voxel_resolution=options.voxel_resolution,
            num_views=options.views,
            image_size=options.image_size,
            seed=options.seed,
        )
        manifest = build.build_dataset(source, options.destination, settings, options.workers)
    _print_manifest(manifest)


def _export_images(options: argparse.Namespace) -> None:
    """The first view of shapes spread evenly over a split: pictures to try `reconstruct` on."""
    import numpy as np

    from occvae.data.dataset import ShapeDataset

    dataset = ShapeDataset(options.root, options.split, image_size=1, num_points=8)
    folder = Path(options.destination)
    folder.mkdir(parents=True, exist_ok=True)
    count = min(options.count, len(dataset))
    # Rounded positions, because a stride that divides the number of categories meets only one.
    for index in np.linspace(0, len(dataset) - 1, count).round().astype(int):
        shard, local = dataset.locate(index)
        name = dataset.ids[index].replace("/", "_")  # ids come from archives, not from this folder
        (folder / f"{name}.png").write_bytes(shard.image(local, 0))
    print(f"{count} pictures in {folder}")


def _print_manifest(manifest) -> None:
    counts = {"train": 0, "val": 0}
    for entry in manifest.shards:
        counts[entry.split] += entry.num_shapes
    print(
        f"{counts['train']} training and {counts['val']} validation shapes in "
        f"{len(manifest.shards)} shards, {len(manifest.skipped)} skipped"
    )
    for name, reason in manifest.skipped.items():
        print(f"  skipped {name}: {reason}")

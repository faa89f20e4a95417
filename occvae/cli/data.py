"""occvae data: datasets in, out and looked into."""

import argparse
import io
import json
from pathlib import Path

from occvae.errors import UserError
from occvae.system.terminal import one_line

_POINTS, _SURFACE_POINTS = 100_000, 100_000
_LONGEST_NAME = 200  # bytes; with what is added file systems have 255
_LINES = 20  # of what there is to say of single shapes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="action")
    build = actions.add_parser("build", help="make the embedded dataset; continues what it left")
    sources = build.add_subparsers(dest="format", required=True, metavar="source")
    procedural = sources.add_parser("procedural", help="the embedded seeded shapes")
    procedural.add_argument("--shapes-per-category", type=int)
    _add_shape_settings(procedural, near_points=0, voxels="32")
    _add_destination(procedural)
    _add_formats(
        actions.add_parser("import", help="make a dataset of files; continues what it left")
    )
    images = actions.add_parser("images", help="write the first images of shapes to a folder")
    images.add_argument("root")
    images.add_argument("destination")
    images.add_argument("--split", default="val")
    images.add_argument("--count", type=_positive, default=8)
    verify = actions.add_parser("verify", help="compare every shard with its checksum")
    verify.add_argument("root")
    verify.add_argument("--deep", action="store_true", help="also look at all images and points")
    _add_info(actions.add_parser("info", help="what a dataset holds"))
    _add_split(actions.add_parser("split", help="divide the shapes of a dataset anew"))
    merge = actions.add_parser("merge", help="several datasets into one")
    merge.add_argument("roots", nargs="+", metavar="root")
    merge.add_argument("destination")


def _add_info(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.add_argument("--sheet", metavar="FILE", help="write a contact sheet of random shapes")
    parser.add_argument(
        "--count", type=_positive, default=12, help="shapes of the sheet (default 12)"
    )
    parser.add_argument("--seed", type=_natural, default=0, help="which shapes (default 0)")


def _positive(text: str) -> int:
    return _at_least(1, text)


def _natural(text: str) -> int:
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be a number of at least {least}, got {text}")
    return int(text)


def _add_split(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root")
    for name, default in (("--val", 0.1), ("--test", 0.2)):
        parser.add_argument(name, type=float, default=default, help=f"share (default {default})")
    parser.add_argument("--seed", type=int, default=0, help="of the division (default 0)")
    parser.add_argument("--by-category", action="store_true", help="divide each category by itself")
    _add_destination(parser)


def _add_formats(parser: argparse.ArgumentParser) -> None:
    formats = parser.add_subparsers(dest="format", required=True, metavar="format")
    voxels = formats.add_parser("voxels", help="voxel grids of .npz archives")
    voxels.add_argument("archives", nargs="+")
    voxels.add_argument("--up", default="z", choices=("y", "z"), help="upward axis of the grids")
    _add_shape_settings(voxels, near_points=0, voxels="32")
    _add_destination(voxels)
    meshes = formats.add_parser("meshes", help="a folder of meshes, of any kind trimesh reads")
    meshes.add_argument("folder", help="searched with the folders in it; or one mesh file")
    meshes.add_argument("--up", default="y", choices=("y", "z"), help="upward axis (default y)")
    _add_shape_settings(meshes, near_points=_POINTS, voxels="32,64,128")
    _add_destination(meshes)
    for name, help in (
        ("onet", "preprocessed ShapeNet of Occupancy Networks"),
        ("pix2vox", "ShapeNetRendering, ShapeNetVox32 and ShapeNet.json, of 3D-R2N2 and Pix2Vox"),
        ("pix3d", "photographs of Pix3D, for testing"),
    ):
        published = formats.add_parser(name, help=help)
        published.add_argument("root", help="folder of the unpacked files")
        _add_destination(published)


def _add_shape_settings(parser: argparse.ArgumentParser, *, near_points: int, voxels: str) -> None:
    """What is made of shapes that come without points and images."""
    for name, default, help in (
        ("--points", _POINTS, "uniform points of a shape, with occupancies"),
        ("--near-points", near_points, "points near its surface"),
        ("--surface-points", _SURFACE_POINTS, "points on its surface, with normals"),
        ("--views", 24, "images of a shape"),
        ("--image-size", 137, "edge of the images in pixels"),
        ("--seed", 0, "of all that is random"),
    ):
        parser.add_argument(name, type=int, default=default, help=f"{help} (default {default})")
    parser.add_argument(
        "--voxels",
        default=voxels,
        help=f"edges of the voxel grids, such as 32,64,128 (default {voxels})",
    )


def _add_destination(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("destination", help="folder of the dataset")
    parser.add_argument("--workers", type=int, help="processes; default one a core")


def run(options: argparse.Namespace) -> None:
    actions = {
        "build": _build,
        "import": _build,
        "images": _export_images,
        "verify": _verify,
        "info": _info,
        "split": _split,
        "merge": _merge,
    }
    actions[options.action](options)


def _build(options: argparse.Namespace) -> None:
    from occvae.data.build import build_dataset, shards_to_try_again

    source = _SOURCES[options.format](options)
    origin = getattr(options, "folder", None)
    if origin is not None and Path(origin).resolve() == Path(options.destination).resolve():
        raise UserError(f"{options.destination}: is the folder to import; choose another")
    manifest = build_dataset(source, options.destination, num_workers=options.workers)
    _print_manifest(manifest)
    _print_lacking_splits(source, manifest)
    again = shards_to_try_again(source, manifest)
    if again:
        print(
            "once files are mended: delete the shards of shapes that were skipped "
            f"({', '.join(again[:_LINES])}{', ...' * (len(again) > _LINES)}) and run the same "
            "command again"
        )


def _print_lacking_splits(source, manifest) -> None:
    from occvae.data.manifest import OWN_SPLITS

    listed = {item.split for item in source.items}
    own = manifest.splits == OWN_SPLITS
    wanted = listed | {"train", "val"} if own else listed
    for split in sorted(wanted - manifest.count_shapes().keys()):
        reason = "all were skipped" if split in listed else "there are too few to hold some out"
        print(
            f"warning: no {split} shapes: {reason}"
            + "; `occvae data split` divides the others anew" * own
        )


def _procedural(options: argparse.Namespace):
    from occvae.data.formats.procedural import DEFAULT_SHAPES_PER_CATEGORY, ProceduralSource

    count = options.shapes_per_category
    count = DEFAULT_SHAPES_PER_CATEGORY if count is None else count
    return ProceduralSource(count, _shape_settings(options))


def _voxels(options: argparse.Namespace):
    from occvae.data.formats.voxels import VoxelArchiveSource

    return VoxelArchiveSource(options.archives, _shape_settings(options), up=options.up)


def _meshes(options: argparse.Namespace):
    from occvae.data.formats.meshes import MeshSource

    return MeshSource(
        options.folder, _shape_settings(options, training_surface=True), up=options.up
    )


def _onet(options: argparse.Namespace):
    from occvae.data.formats.onet import OccupancyNetworksSource

    return OccupancyNetworksSource(options.root)


def _pix2vox(options: argparse.Namespace):
    from occvae.data.formats.pix2vox import Pix2VoxSource

    return Pix2VoxSource.from_folder(options.root)


def _pix3d(options: argparse.Namespace):
    from occvae.data.formats.pix3d import Pix3DSource

    return Pix3DSource(options.root)


_SOURCES = {
    "procedural": _procedural,
    "voxels": _voxels,
    "meshes": _meshes,
    "onet": _onet,
    "pix2vox": _pix2vox,
    "pix3d": _pix3d,
}


def _shape_settings(options: argparse.Namespace, *, training_surface: bool = False):
    from occvae.data.shapes import ShapeSettings

    try:
        resolutions = tuple(int(word) for word in options.voxels.split(","))
    except ValueError:
        raise UserError(f"--voxels {options.voxels}: expected numbers such as 32,64") from None
    return ShapeSettings(
        num_points=options.points,
        num_near_points=options.near_points,
        num_surface_points=options.surface_points,
        training_surface=training_surface,
        voxel_resolutions=resolutions,
        num_views=options.views,
        image_size=options.image_size,
        seed=options.seed,
    )


def _verify(options: argparse.Namespace) -> None:
    from occvae.data.build import verify_dataset

    manifest = verify_dataset(options.root)
    if options.deep:
        from occvae.data.inspection import inspect_dataset

        problems = inspect_dataset(options.root)
        for id, problem in problems.items():
            print(f"  {one_line(id)}: {one_line(problem)}")
        if problems:
            raise UserError(f"{options.root}: {len(problems)} shapes are not fit to learn from")
    _print_manifest(manifest)
    found = "checksums agree" + ", all images and points are sound" * options.deep
    print(f"{len(manifest.shards)} shards: {found}")


def _split(options: argparse.Namespace) -> None:
    from occvae.data.build import build_dataset
    from occvae.data.splitting import SplitSource

    source = SplitSource(
        options.root,
        val=options.val,
        test=options.test,
        seed=options.seed,
        by_category=options.by_category,
    )
    manifest = build_dataset(source, options.destination, num_workers=options.workers)
    for part in source.dropped:
        print(f"left out {part}, which only some of the old splits have")
    _print_manifest(manifest)


def _merge(options: argparse.Namespace) -> None:
    from occvae.data.merging import merge_datasets

    _print_manifest(merge_datasets(options.roots, options.destination))


def _info(options: argparse.Namespace) -> None:
    from occvae.data.summary import format_summary, summarize_dataset, write_sample_sheet

    summary = summarize_dataset(options.root)
    print(json.dumps(summary, indent=1) if options.json else format_summary(summary))
    if options.sheet:
        write_sample_sheet(options.sheet, options.root, num_shapes=options.count, seed=options.seed)


def _export_images(options: argparse.Namespace) -> None:
    """The first view of shapes spread evenly over a split: images to try `reconstruct` on."""
    import numpy as np
    from PIL import Image

    from occvae.data.dataset import ShapeDataset

    dataset = ShapeDataset(options.root, options.split, image_size=1)
    folder = Path(options.destination)
    folder.mkdir(parents=True, exist_ok=True)
    count = min(options.count, len(dataset))
    written: set[str] = set()
    # Rounded positions, because a stride that divides the number of categories meets only one.
    for index in np.linspace(0, len(dataset) - 1, count).round().astype(int):
        shard, local = dataset.locate(index)
        name = _file_name(dataset.ids[index])
        while name in written:
            name += "_"
        written.add(name)
        content = shard.image(local, 0)
        with Image.open(io.BytesIO(content)) as image:
            suffix = image.format.lower()
        (folder / f"{name}.{suffix}").write_bytes(content)
    print(f"{count} images in {folder}")


def _file_name(id: str) -> str:
    """Of an id, which comes from an archive and may be anything; without a suffix."""
    name = "".join(letter if letter.isprintable() and letter != "/" else "_" for letter in id)
    return name.encode()[:_LONGEST_NAME].decode(errors="ignore")


def _print_manifest(manifest) -> None:
    counts = manifest.count_shapes()
    total = sum(counts.values())
    print(
        f"{total} shapes ({', '.join(f'{count} {split}' for split, count in counts.items())}) in "
        f"{len(manifest.shards)} shards, {len(manifest.skipped)} skipped"
    )
    _print_some([f"{name}: {note}" for name, note in manifest.notes.items()])
    _print_some([f"skipped {name}: {reason}" for name, reason in manifest.skipped.items()])


def _print_some(lines: list[str]) -> None:
    for line in lines[:_LINES]:
        print(f"  {one_line(line)}")
    if len(lines) > _LINES:
        print(f"  and {len(lines) - _LINES} more, all in dataset.json")

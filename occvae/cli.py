"""The `occvae` command: info, data, reconstruct, evaluate, convert."""

import argparse
import json
import sys
from pathlib import Path

from occvae.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status; mistakes of the user are one line on stderr and status 2."""
    parser = argparse.ArgumentParser(prog="occvae", description="Images of an object into 3D.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    commands.add_parser("info", help="versions, what is built, devices, what is missing and why")
    _add_data(commands.add_parser("data", help="build and verify datasets"))
    _add_reconstruct(commands.add_parser("reconstruct", help="pictures to mesh files"))
    _add_evaluate(
        commands.add_parser("evaluate", help="IoU of a model on a dataset, with controls")
    )
    _add_convert(commands.add_parser("convert", help="official checkpoints of other systems"))
    options = parser.parse_args(arguments)
    try:
        _COMMANDS[options.command](options)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _add_reconstruct(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", help="picture files")
    parser.add_argument(
        "-o", "--output", required=True, help="out.glb|obj|ply|stl|off, or a folder for several"
    )
    parser.add_argument("--model", help="run folder or export; default the newest run in runs/")
    parser.add_argument("--resolution", type=int, default=128, help="cells an axis (default 128)")
    parser.add_argument("--threshold", type=float, help="probability of the surface")
    _add_precision(parser)
    parser.add_argument(
        "--together", action="store_true", help="all pictures are views of the same object"
    )
    parser.add_argument(
        "--blocks", action="store_true", help="a cube for each voxel (models that make voxels)"
    )


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="run folder or export; default the newest run in runs/")
    parser.add_argument("--data", help="dataset folder; default what the run was trained on")
    parser.add_argument("--split", default="val")
    parser.add_argument(
        "--views", help="numbers of views to compare, e.g. 1,2,3,5, or all of the published tables"
    )
    _add_precision(parser)
    parser.add_argument("--json", help="file for the report; default evaluation.json by the model")


def _add_precision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision", help="fp32, fp16 or bf16; default fp16 on a GPU and fp32 on a CPU"
    )


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="checkpoint of occupancy_networks, Pix2Vox or Pix2Vox++")
    parser.add_argument("-o", "--output", required=True, help="folder of the model, for --model")


def _add_data(parser: argparse.ArgumentParser) -> None:
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


def _info(options: argparse.Namespace) -> None:
    from occvae.environment import describe

    print(describe())


def _data(options: argparse.Namespace) -> None:
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


def _reconstruct(options: argparse.Namespace) -> None:
    from occvae.reconstruction import output_paths, reconstruct_files

    groups = [options.images] if options.together else [[image] for image in options.images]
    outputs = output_paths([group[0] for group in groups], options.output)
    model, _ = _load_model(options.model)
    _set_precision(model, options.precision)
    reconstruct_files(
        model,
        groups,
        outputs,
        resolution=options.resolution,
        threshold=options.threshold,
        device=_device(),
        blocks=options.blocks,
    )


def _evaluate(options: argparse.Namespace) -> None:
    from occvae.evaluation import evaluate, format_table
    from occvae.multiview_evaluation import evaluate_views, format_views_table

    model, folder = _load_model(options.model)
    _set_precision(model, options.precision)
    data = options.data or _trained_on(folder)
    report = evaluate(model, data, split=options.split, device=_device())
    report["model"] = str(folder)
    print(format_table(report))
    if options.views is not None:
        report["views"] = evaluate_views(
            model, data, _view_counts(options.views), split=options.split, device=_device()
        )
        print(format_views_table(report["views"]))
    path = Path(options.json or folder / "evaluation.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"report: {path}")


def _convert(options: argparse.Namespace) -> None:
    from occvae.convert import convert_file

    conversion = convert_file(options.source, options.output)
    state = conversion.model.state_dict()
    print(
        f"{options.source} ({conversion.origin}) -> {options.output} ({conversion.model.arch}): "
        f"{len(state)} tensors, {sum(tensor.numel() for tensor in state.values()):,} numbers"
    )
    if conversion.ignored:
        print(f"left out, as only training needs it: {', '.join(conversion.ignored)}")


def _view_counts(text: str) -> tuple[int, ...]:
    from occvae.multiview_evaluation import VIEW_COUNTS

    if text == "all":
        return VIEW_COUNTS
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise UserError(f"--views {text}: expected numbers such as 1,2,5, or all") from None


def _trained_on(export: Path) -> str:
    """The dataset of the run that an export belongs to."""
    from occvae.train.checkpoint import TRAIN_CONFIG

    config = export.parent / TRAIN_CONFIG
    if not config.is_file():
        raise UserError(f"{export}: is no part of a run; give the dataset with --data")
    return json.loads(config.read_text())["data"]["root"]


def _load_model(path: str | None):
    """The model and the folder it came from."""
    from occvae.models import from_pretrained
    from occvae.models.pretrained import find_export

    if path is None:
        runs = [run for run in Path("runs").glob("*") if (run / "last").is_dir()]
        if not runs:
            raise UserError("no trained model in runs/; train one, or give one with --model")
        path = max(runs, key=lambda run: (run / "last").stat().st_mtime)
    folder = find_export(path)
    return from_pretrained(folder), folder


def _set_precision(model, precision: str | None) -> None:
    from occvae.ops.query_occupancy import PRECISIONS

    if precision is None:
        return
    if precision not in PRECISIONS:
        raise UserError(f"--precision {precision}: choose from {', '.join(PRECISIONS)}")
    if not hasattr(getattr(model, "decoder", None), "pack"):
        raise UserError(f"--precision: {model.arch} with these options has no fused decoder")
    model.precision = precision


def _device():
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


_COMMANDS = {
    "info": _info,
    "data": _data,
    "reconstruct": _reconstruct,
    "evaluate": _evaluate,
    "convert": _convert,
}

if __name__ == "__main__":
    sys.exit(main())

"""Datasets are summarized, split, merged and inspected, and no shape is lost silently."""

import errno
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from occvae.cli.main import main
from occvae.data import build, merging
from occvae.data.build import build_dataset, verify_dataset
from occvae.data.dataset import ShapeDataset
from occvae.data.inspection import inspect_dataset
from occvae.data.manifest import Manifest
from occvae.data.merging import count_linked, merge_datasets
from occvae.data.sample import Sample
from occvae.data.shards import Shard, file_sha256
from occvae.data.sources import Item
from occvae.data.splitting import SplitSource
from occvae.data.summary import summarize_dataset, write_sample_sheet
from occvae.errors import UserError
from tests.data.test_shards import random_sample

VIEWS = 3


class Listed:
    """Random samples with readable images. Every fourth is a validation shape."""

    name, splits, settings = "listed", "own", {"which": 1}

    def __init__(self, names: list[str], *, splits: str = "own", surface: str = "both"):
        self.splits, self.surface = splits, surface
        self.skipped: dict[str, str] = {"lost": "is empty"}
        self.items = [
            Item(name, "odd" if place % 2 else "even", "val" if place % 4 == 3 else "train")
            for place, name in enumerate(names)
        ]

    def sample(self, index: int) -> Sample:
        item, images = self.items[index], []
        for view in range(VIEWS):
            noise = np.random.default_rng([index, view]).integers(0, 256, (9, 9, 3), np.uint8)
            images.append(png(noise))
        sample = replace(
            random_sample(index), id=item.id, category=item.category, images=images, note="odd"
        )
        if self.surface == "val" and item.split == "train":
            sample.surface_points = sample.surface_normals = None
        return sample


def png(pixels: np.ndarray) -> bytes:
    from occvae.images.io import encode_png

    return encode_png(pixels)


def make(root: Path, prefix: str, count: int = 12, **options) -> Path:
    source = Listed([f"{prefix}{number}" for number in range(count)], **options)
    build_dataset(source, root / prefix, shapes_per_shard=5, num_workers=1)
    return root / prefix


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("first"), "a")


@pytest.fixture(scope="module")
def second(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("second"), "b", 7)


def shapes(root: Path) -> dict[str, tuple[str, Sample]]:
    """All samples of a dataset with their splits, by id."""
    found = {}
    for entry in Manifest.load(root).shards:
        shard = Shard(root, entry)
        for local in range(len(shard)):
            sample = shard.sample(local)
            assert sample.id not in found
            found[sample.id] = entry.split, sample
    return found


def same(first: Sample, second: Sample) -> bool:
    pairs = zip(vars(first).items(), vars(second).values(), strict=True)
    return all(
        equal(value, other) for (name, value), other in pairs if name not in ("note", "voxels")
    ) and all(np.array_equal(first.voxels[edge], second.voxels[edge]) for edge in first.voxels)


def equal(value, other) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype == other.dtype and np.array_equal(value, other)
    return value == other


def divide(root: Path, destination: Path, **options) -> Manifest:
    source = SplitSource(
        root, **{"val": 0.25, "test": 0.25, "seed": 3, "by_category": False} | options
    )
    return build_dataset(source, destination, shapes_per_shard=4, num_workers=1)


def test_a_sample_reads_back_as_it_was_written(first):
    source = Listed([f"a{number}" for number in range(12)])
    found = shapes(first)
    assert len(found) == 12
    for index, item in enumerate(source.items):
        written = source.sample(index)
        for name in ("extrinsics", "intrinsics"):
            setattr(written, name, getattr(written, name).astype(np.float32))
        assert same(found[item.id][1], written)


@pytest.mark.parametrize("by_category", [False, True])
def test_split_moves_shapes_and_keeps_their_content(first, tmp_path, by_category):
    manifest = divide(first, tmp_path / "new", by_category=by_category)
    assert manifest.count_shapes() == (
        {"train": 4, "val": 4, "test": 4} if by_category else {"train": 6, "val": 3, "test": 3}
    )
    before, after = shapes(first), shapes(tmp_path / "new")
    assert before.keys() == after.keys()
    assert all(same(before[id][1], after[id][1]) for id in before)
    assert manifest.notes == Manifest.load(first).notes and manifest.skipped == {"lost": "is empty"}
    assert verify_dataset(tmp_path / "new").complete


def test_split_follows_from_the_seed_and_the_ids(first, tmp_path):
    where = lambda root: {id: split for id, (split, _) in shapes(root).items()}  # noqa: E731
    divide(first, tmp_path / "new")
    divide(first, tmp_path / "other", seed=4)
    assert where(tmp_path / "new") != where(tmp_path / "other")
    divide(tmp_path / "other", tmp_path / "back")  # independent of the shards
    assert where(tmp_path / "back") == where(tmp_path / "new")


def test_split_drops_parts_that_only_some_shapes_have(tmp_path):
    root = make(tmp_path, "a", surface="val")
    source = SplitSource(root, val=0.5, test=0, seed=0, by_category=False)
    assert source.dropped == ["surface_points"]
    manifest = build_dataset(source, tmp_path / "new", num_workers=1)
    assert manifest.count_shapes() == {"train": 6, "val": 6}
    assert all(sample.surface_points is None for _, sample in shapes(tmp_path / "new").values())


def test_split_refuses_invalid_arguments_and_published_splits(first, tmp_path):
    options = {"val": 0.1, "test": 0.2, "seed": 0, "by_category": False}
    for changes, message in (
        ({"val": -0.1}, "at least 0, and together below 1"),
        ({"val": 0.8}, "at least 0, and together below 1"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"val": 0.99, "test": 0}, "none of its 12 shapes is left to train on"),
    ):
        with pytest.raises(UserError, match=message):
            SplitSource(first, **{**options, **changes})
    with pytest.raises(UserError, match="has the published splits of 'onet'"):
        SplitSource(make(tmp_path, "c", splits="onet"), **options)


def test_merge_keeps_every_shape(first, second, tmp_path):
    manifest = merge_datasets([first, second], tmp_path / "all")
    assert manifest == Manifest.load(tmp_path / "all") == verify_dataset(tmp_path / "all")
    assert manifest.count_shapes() == {"train": 15, "val": 4}
    before, after = shapes(first) | shapes(second), shapes(tmp_path / "all")
    assert before.keys() == after.keys()
    for id, (split, sample) in before.items():
        assert after[id][0] == split and same(after[id][1], sample)
    assert [part["settings"]["which"] for part in manifest.settings["merged"]] == [1, 1]
    assert len(manifest.notes) == 19 and manifest.skipped == {"lost": "is empty"}
    files = sorted(path.name for path in (tmp_path / "all").glob("*.h5"))
    assert files == [f"train-0000{n}.h5" for n in range(4)] + ["val-00000.h5", "val-00001.h5"]


def refuse_link(*_, **__):
    raise OSError(errno.EXDEV, "Invalid cross-device link")


def inodes(root: Path) -> set[int]:
    return {path.stat().st_ino for path in root.glob("*.h5")}


def test_merge_links_shards_and_needs_no_source_afterwards(first, second, tmp_path):
    sources = [Path(shutil.copytree(root, tmp_path / root.name)) for root in (first, second)]
    real = sources[0] / "val-00000.h5"
    elsewhere = real.rename(tmp_path / "elsewhere.h5")
    real.symlink_to(elsewhere)
    (sources[1] / "train-00000.h5").chmod(0o444)
    manifest = merge_datasets(sources, tmp_path / "all")
    assert (sources[1] / "train-00000.h5").stat().st_mode & 0o777 == 0o444
    assert inodes(tmp_path / "all") == inodes(sources[0]) | inodes(sources[1])
    assert count_linked(tmp_path / "all", manifest) == 6
    assert not any(path.is_symlink() for path in (tmp_path / "all").iterdir())
    before = shapes(tmp_path / "all")
    shutil.rmtree(sources[0])
    elsewhere.unlink()
    assert verify_dataset(tmp_path / "all") == manifest
    after = shapes(tmp_path / "all")
    assert all(same(sample, after[id][1]) for id, (_, sample) in before.items())
    assert count_linked(tmp_path / "all", manifest) == 3


def test_a_rebuilt_source_does_not_change_a_merged_dataset(first, second, tmp_path):
    """Shards are replaced as files and never written in place."""
    source = make(tmp_path, "a")
    manifest = merge_datasets([source, second], tmp_path / "all")
    shared = inodes(source)
    for name in ("train-00000.h5", "train-00001.h5"):
        (source / name).unlink()
    (source / "val-00000.h5").rename(source / ".val-00000.partial.h5")  # as a killed build leaves
    make(tmp_path, "a")
    assert not inodes(source) & shared
    assert shapes(source).keys() == shapes(first).keys()
    assert verify_dataset(tmp_path / "all") == manifest


def test_merge_copies_between_file_systems(first, second, tmp_path, monkeypatch):
    monkeypatch.setattr(merging.os, "link", refuse_link)
    manifest = merge_datasets([first, second], tmp_path / "all")
    assert not inodes(tmp_path / "all") & (inodes(first) | inodes(second))
    assert count_linked(tmp_path / "all", manifest) == 0
    assert verify_dataset(tmp_path / "all") == manifest


def test_merge_refuses_datasets_that_do_not_fit_together(first, second, tmp_path):
    destination = tmp_path / "all"
    with pytest.raises(UserError, match=r"same id: a0 \(.*\), a1 .* and 7 more"):
        merge_datasets([first, second, first], destination)
    with pytest.raises(UserError, match="splits 'onet', but .* has 'own'"):
        merge_datasets([first, make(tmp_path, "c", splits="onet")], destination)
    with pytest.raises(UserError, match="splits 'pix2vox', but .* has 'onet'"):
        merge_datasets([tmp_path / "c", make(tmp_path, "p", splits="pix2vox")], destination)
    with pytest.raises(UserError, match="its train shapes have surface_points None, but those of"):
        merge_datasets([first, make(tmp_path, "d", surface="val")], destination)
    with pytest.raises(UserError, match="give at least two datasets"):
        merge_datasets([first], destination)
    assert not destination.exists()
    with pytest.raises(UserError, match=r"from other files \(which, .*merged\); choose another"):
        merge_datasets([first, second], tmp_path / "c")


def test_a_merge_on_a_full_disk_is_reported_and_can_continue(first, second, tmp_path, monkeypatch):
    copied = []

    def copy(source, target, really=shutil.copyfile):
        if len(copied) == 2:
            Path(target).write_bytes(b"half a shard")
            raise OSError(28, "No space left on device")
        copied.append(Path(target).stem)
        really(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(merging.os, "link", refuse_link)
        patched.setattr(merging.shutil, "copyfile", copy)
        with pytest.raises(UserError, match=r"train-00002.h5: cannot be written .No space left"):
            merge_datasets([first, second], tmp_path)
    with pytest.raises(UserError, match="its build was interrupted"):
        verify_dataset(tmp_path)
    with pytest.raises(UserError, match="its build was interrupted"):
        merge_datasets([tmp_path, first], tmp_path / "more")
    (tmp_path / "train-00000.h5").unlink()
    merge_datasets([first, second], tmp_path)
    assert shapes(tmp_path).keys() == (shapes(first) | shapes(second)).keys()
    assert verify_dataset(tmp_path).complete
    assert not list(tmp_path.glob("*.partial*"))


def test_a_damaged_source_stops_a_merge(first, second, tmp_path):
    damaged = Path(shutil.copytree(first, tmp_path / "damaged"))
    content = bytearray((damaged / "val-00000.h5").read_bytes())
    content[-5] ^= 1
    (damaged / "val-00000.h5").write_bytes(content)
    with pytest.raises(UserError, match=r"val-00000\.h5: SHA-256 differs"):
        merge_datasets([damaged, second], tmp_path / "all")
    with pytest.raises(UserError, match="its build was interrupted"):
        verify_dataset(tmp_path / "all")


def run_until_killed(command: list[str], module, folder: str) -> None:
    """Runs a command that is killed after the second shard in `folder`, before the manifest."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        really, calls = module.file_sha256, []

        def stop(path: Path) -> str:
            calls.extend([path] * (path.parent == Path(folder)))
            if len(calls) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return really(path)

        module.file_sha256 = stop
        try:
            main(command)
        finally:
            os._exit(1)
    os.close(writing)
    assert os.waitpid(process, 0)[1] == signal.SIGKILL
    # Its workers inherit the pipe, so its end means that they ended too.
    assert select.select([reading], [], [], 30)[0] and os.read(reading, 1) == b""
    os.close(reading)


@pytest.mark.parametrize("operation", ["split", "merge"])
def test_a_killed_command_leaves_an_incomplete_dataset_and_can_continue(
    first, second, tmp_path, operation
):
    new = str(tmp_path / "new")
    command, module = {
        "split": (["data", "split", str(first), new, "--workers", "1"], build),
        "merge": (["data", "merge", str(first), str(second), new], merging),
    }[operation]
    run_until_killed(command, module, new)
    with pytest.raises(UserError, match="its build was interrupted"):
        verify_dataset(new)
    assert main(command) == 0
    assert verify_dataset(new).complete
    expected = shapes(first) | (shapes(second) if operation == "merge" else {})
    assert shapes(Path(new)).keys() == expected.keys()


def test_info_counts_shapes_and_bytes(first, capsys):
    summary = summarize_dataset(first)
    assert summary["shapes"] == {"train": 9, "val": 3} and summary["complete"]
    assert summary["bytes"] == sum(path.stat().st_size for path in first.glob("*.h5"))
    assert summary["skipped"] == {"is empty": 1} and summary["notes"] == 12
    assert summary["meshes"] == 8  # every third random_sample has no mesh
    by_category = {"even": {"train": 6}, "odd": {"train": 3, "val": 3}}
    for name, counts in by_category.items():
        found = summary["categories"][name]
        assert found["shapes"] == counts
        inside = [s.occupancies.mean() for _, s in shapes(first).values() if s.category == name]
        assert found["mean_occupancy"] == pytest.approx(np.mean(inside))
    assert main(["data", "info", str(first), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == summary
    assert main(["data", "info", str(first)]) == 0
    text = capsys.readouterr().out
    for part in (
        "12 shapes",
        "splits 'own'",
        "64 points (uint16)",
        "voxels 3^3, 6^3",
        "is empty",
        "8 shapes have a mesh",
    ):
        assert part in text


def test_info_reports_an_interrupted_build(first, tmp_path, capsys):
    root = Path(shutil.copytree(first, tmp_path / "copy"))
    replace(Manifest.load(root), complete=False).save(root)
    main(["data", "info", str(root)])
    assert "INCOMPLETE" in capsys.readouterr().out


def test_the_sheet_shows_the_stored_shapes(tiny_dataset, tmp_path):
    write_sample_sheet(tmp_path / "new" / "sheet.png", tiny_dataset, num_shapes=3, seed=1)
    with Image.open(tmp_path / "new" / "sheet.png") as sheet:
        pixels = np.asarray(sheet).astype(int)
    assert pixels.shape == (2 * 160, 6 * 160, 3)
    for row, column in ((0, 0), (0, 1), (1, 0)):
        strip = pixels[row * 160 : row * 160 + 160, column * 480 : column * 480 + 480]
        seen, solid = ((strip[14:, x : x + 160] < 225).any(-1) for x in (0, 160))
        # The solid is drawn from the camera of the image, which has 40 blurred pixels.
        assert (seen & solid).sum() / (seen | solid).sum() > 0.85
    assert (pixels[160:, 480:] == 255).all()
    write_sample_sheet(tmp_path / "again.png", tiny_dataset, num_shapes=3, seed=1)
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "new/sheet.png").read_bytes()


def test_a_sheet_has_the_file_format_of_its_ending(first, tmp_path, capsys):
    for name, kind in (("a.jpg", "JPEG"), ("b.PNG", "PNG"), ("c.webp", "WEBP")):
        write_sample_sheet(tmp_path / name, first, num_shapes=1)
        with Image.open(tmp_path / name) as sheet:
            assert sheet.format == kind
    for name in ("d.off", "e"):
        with pytest.raises(UserError, match=f"{name}: the file must end in one of .png .jpg"):
            write_sample_sheet(tmp_path / name, first)
        assert not (tmp_path / name).exists()


def test_info_prints_at_most_twenty_reasons(first, tmp_path, capsys):
    root = Path(shutil.copytree(first, tmp_path / "copy"))
    skipped = {f"s{number}": f"file {number} is\nlost" for number in range(100)}
    replace(Manifest.load(root), skipped=skipped).save(root)
    assert main(["data", "info", str(root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == [
        r"1 skipped: file 19 is\nlost",
        "and 80 more reasons; dataset.json lists all of them",
    ]


def test_shards_to_try_again_are_listed_for_published_splits_only(tmp_path):
    class Gappy(Listed):
        def sample(self, index: int) -> Sample:
            if index == 9:
                raise UserError("points.npz is missing")
            return super().sample(index)

    for splits, expected in (("onet", ["train-00001.h5"]), ("own", [])):
        source = Gappy([f"s{index}" for index in range(12)], splits=splits)
        manifest = build_dataset(source, tmp_path / splits, shapes_per_shard=5, num_workers=1)
        assert set(manifest.skipped) == {"lost", "s9"}
        assert build.shards_to_try_again(source, manifest) == expected


@pytest.mark.parametrize(
    ("array", "value", "problem"),
    [
        ("occupancies", 0, "all points are outside"),
        ("near_occupancies", 255, "all near_points are inside"),
        ("image_bytes", 0, "view 0 cannot be decoded"),
        ("voxels_3", None, None),
    ],
)
def test_deep_verification_lists_shapes_with_bad_images_or_points(
    first, tmp_path, capsys, array, value, problem
):
    root = Path(shutil.copytree(first, tmp_path / "copy"))
    manifest = Manifest.load(root)
    path = root / "val-00000.h5"
    with h5py.File(path, "a") as file:
        if value is not None:
            file[array][:] = value
        ids = [text.decode() for text in file["ids"][:]]
    entries = [
        replace(e, sha256=file_sha256(path), num_bytes=path.stat().st_size)
        if e.file == path.name
        else e
        for e in manifest.shards
    ]
    replace(manifest, shards=entries).save(root)
    found = inspect_dataset(root)
    assert set(found) == (set(ids) if problem else set())
    assert all(problem in text for text in found.values())
    assert main(["data", "verify", str(root), "--deep"]) == (2 if problem else 0)
    if problem:
        assert f"{len(ids)} shapes have bad images or points" in capsys.readouterr().err


def test_verify_finds_a_repeated_shape(first, tmp_path):
    root = Path(shutil.copytree(first, tmp_path / "copy"))
    manifest = Manifest.load(root)
    again = replace(manifest.shards[0], file="train-00009.h5")
    os.link(root / manifest.shards[0].file, root / again.file)
    replace(manifest, shards=[*manifest.shards, again]).save(root)
    with pytest.raises(UserError, match=r"train-00009\.h5: shape 'a0' occurs a second time; build"):
        verify_dataset(root)


@pytest.mark.parametrize("option", ["--count=0", "--count=-1", "--seed=-1", "--count=many"])
def test_info_refuses_invalid_numbers(first, tmp_path, capsys, option):
    with pytest.raises(SystemExit):
        main(["data", "info", str(first), "--sheet", str(tmp_path / "x.png"), option])
    assert "must be an integer of at least" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["data", "images", str(first), str(tmp_path), "--count=-1"])


def test_an_empty_dataset_has_no_sheet(tmp_path):
    Manifest("list", "own", {}, []).save(tmp_path)
    with pytest.raises(UserError, match="the dataset has no shapes to draw; build or import"):
        write_sample_sheet(tmp_path / "x.png", tmp_path)


def test_merge_joins_reasons_with_the_same_key(tmp_path):
    for number, reason in enumerate(("3 files", "5 files")):
        source = Listed([f"s{number}{index}" for index in range(4)])
        source.skipped = {"*.fbx": reason}
        build_dataset(source, tmp_path / str(number), num_workers=1)
    merged = merge_datasets([tmp_path / "0", tmp_path / "1"], tmp_path / "both")
    assert merged.skipped == {"*.fbx": "3 files; 5 files"}


def test_training_and_evaluation_refuse_an_interrupted_dataset(first, tmp_path, capsys):
    root = Path(shutil.copytree(first, tmp_path / "copy"))
    replace(Manifest.load(root), complete=False).save(root)
    with pytest.raises(UserError, match="its build was interrupted; run the command"):
        ShapeDataset(root, "val", image_size=8)
    assert main(["data", "info", str(root)]) == 0
    assert "INCOMPLETE: run the command that builds it again" in capsys.readouterr().out


def test_split_stops_at_a_damaged_shard_and_skips_no_shape(first, tmp_path, monkeypatch):
    def fail(self, index):
        raise UserError("train-00000.h5: damaged")

    source = SplitSource(first, val=0.1, test=0.1, seed=0, by_category=False)
    with monkeypatch.context() as patched:
        patched.setattr(Shard, "sample", fail)
        with pytest.raises(UserError, match=r"^train-00000\.h5: damaged$"):
            build_dataset(source, tmp_path, num_workers=1)
    assert build_dataset(source, tmp_path, num_workers=1).skipped == {"lost": "is empty"}


def test_split_reads_more_shards_than_open_files_are_allowed(tmp_path):
    source = Listed([f"s{index}" for index in range(140)])
    build_dataset(source, tmp_path / "in", shapes_per_shard=1, num_workers=1)
    command = [sys.executable, "-m", "occvae", "data", "split", tmp_path / "in"]
    limited = ["bash", "-c", 'ulimit -n 100; exec "$@"', "bash", *command]
    arguments = [tmp_path / "out", "--workers", "1"]
    done = subprocess.run([*limited, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sum(Manifest.load(tmp_path / "out").count_shapes().values()) == 140


@pytest.mark.parametrize("shares", [(np.nan, 0.1), (0.1, np.nan), (-0.1, 0.2), (0.6, 0.4)])
def test_split_refuses_invalid_shares(first, shares):
    val, test = shares
    with pytest.raises(UserError, match="at least 0, and together below 1"):
        SplitSource(first, val=val, test=test, seed=0, by_category=False)


def test_split_refuses_a_damaged_dataset(first, tmp_path):
    """Damaged shapes would otherwise get new, valid checksums."""
    root = Path(shutil.copytree(first, tmp_path / "copy"))
    path = root / Manifest.load(root).shards[0].file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="SHA-256 differs"):
        SplitSource(root, val=0.1, test=0.1, seed=0, by_category=False)

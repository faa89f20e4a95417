"""Parts of a source are built separately, and their merge is the dataset of the whole source."""

import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from occvae.cli.main import main
from occvae.data.build import build_dataset, verify_dataset
from occvae.data.manifest import Manifest
from occvae.data.merging import merge_datasets
from occvae.data.parts import SourcePart
from occvae.data.sample import Sample
from occvae.data.shards import Shard
from occvae.errors import UserError
from tests.data.test_operations import Listed, same
from tests.tiny import write_archive

NAMES = [f"shape{number}" for number in range(12)]
SMALL = ["--points", "64", "--views", "1", "--image-size", "16", "--workers", "1"]


def build(root: Path, source) -> Path:
    build_dataset(source, root, shapes_per_shard=2, num_workers=1)
    return root


def build_parts(folder: Path, source, count: int) -> list[Path]:
    numbers = range(1, count + 1)
    return [build(folder / f"{number}", SourcePart(source, number, count)) for number in numbers]


def samples_in_order(root: Path) -> list[tuple[str, Sample]]:
    return [
        (entry.split, shard.sample(local))
        for entry in Manifest.load(root).shards
        for shard in [Shard(root, entry)]
        for local in range(len(shard))
    ]


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> list[Path]:
    return build_parts(tmp_path_factory.mktemp("parts"), Listed(NAMES), 4)


@pytest.mark.parametrize("count", [1, 3, 5, 12])
def test_merged_parts_hold_the_samples_of_the_whole_in_its_order(tmp_path, count):
    whole = build(tmp_path / "whole", Listed(NAMES))
    parts = build_parts(tmp_path, Listed(NAMES), count)
    random.Random(count).shuffle(parts)
    merge_datasets(parts, tmp_path / "merged")
    manifest, expected = verify_dataset(tmp_path / "merged"), Manifest.load(whole)
    for name in ("source", "splits", "categories", "layouts", "notes", "skipped"):
        assert getattr(manifest, name) == getattr(expected, name)
    assert manifest.settings.items() >= expected.settings.items()
    pairs = zip(samples_in_order(tmp_path / "merged"), samples_in_order(whole), strict=True)
    for (split, sample), (expected_split, expected_sample) in pairs:
        assert split == expected_split and same(sample, expected_sample)
    sizes = [sum(Manifest.load(part).count_shapes().values()) for part in parts]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([0, 2], "part 2, 4 of 4 is missing; give each part once"),
        ([0, 1, 2, 3, 1], r"part 2 is given twice \(.*/2, .*/2\); give each part once"),
        ([3, 3, 1, 0], r"part 4 is given twice \(.*\); part 3 of 4 is missing; give each part"),
    ],
)
def test_a_missing_or_repeated_part_is_named(parts, tmp_path, given, message):
    with pytest.raises(UserError, match=message):
        merge_datasets([parts[place] for place in given], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_parts_are_merged_only_with_parts_of_the_same_source(parts, tmp_path):
    other = Listed([f"other{number}" for number in range(12)])
    whole = build(tmp_path / "whole", other)
    with pytest.raises(
        UserError, match=r"whole: is not a part, but .*/1 is part 1 of 4; merge all"
    ):
        merge_datasets([whole, *parts], tmp_path / "merged")
    third = build(tmp_path / "third", SourcePart(other, 1, 3))
    with pytest.raises(UserError, match=r"third: is part 1 of 3, but .*/2 is part 2 of 4"):
        merge_datasets([*parts[1:], third], tmp_path / "merged")
    other.settings = {"which": 2}
    quarter = build(tmp_path / "quarter", SourcePart(other, 1, 4))
    with pytest.raises(UserError, match=r"quarter: was built with .* than .*/2 \(which\)"):
        merge_datasets([*parts[1:], quarter], tmp_path / "merged")
    merge_datasets(parts, tmp_path / "merged")
    merge_datasets([tmp_path / "merged", whole], tmp_path / "both")
    assert len(samples_in_order(tmp_path / "both")) == 24


@pytest.mark.parametrize(
    ("number", "count", "message"),
    [
        (0, 3, "part 0/3: parts are numbered from 1 to 3"),
        (4, 3, "part 4/3: parts are numbered from 1 to 3"),
        (13, 13, "part 13/13: there are only 12 shapes; use fewer parts"),
    ],
)
def test_parts_that_do_not_exist_are_refused(number, count, message):
    with pytest.raises(UserError, match=message):
        SourcePart(Listed(NAMES), number, count)


class Changed(Listed):
    """Shapes whose sample is refused (None) or changed by the function of its name."""

    def __init__(self, changes: dict):
        super().__init__(NAMES)
        self.changes = changes

    def sample(self, index: int) -> Sample:
        sample = super().sample(index)
        if sample.id not in self.changes:
            return sample
        if self.changes[sample.id] is None:
            raise UserError("is broken")
        return self.changes[sample.id](sample)


def test_a_part_may_end_up_without_shapes(tmp_path):
    broken = NAMES[:3]  # the first two train shapes, which are part 1, and the third
    parts = build_parts(tmp_path, Changed(dict.fromkeys(broken)), 6)
    assert Manifest.load(parts[0]).complete and not Manifest.load(parts[0]).shards
    merged = merge_datasets(parts, tmp_path / "merged")
    assert merged.skipped == {"lost": "is empty", **dict.fromkeys(broken, "is broken")}
    assert [sample.id for _, sample in samples_in_order(tmp_path / "merged")][:2] == [
        "shape4",
        "shape5",
    ]
    parts = build_parts(tmp_path / "all", Changed(dict.fromkeys(NAMES)), 2)
    with pytest.raises(UserError, match="/1, .*/2: have no shapes"):
        merge_datasets(parts, tmp_path / "nothing")


def test_shapes_with_another_layout_are_counted_over_all_parts(tmp_path):
    def without_near_points(sample: Sample) -> Sample:
        return replace(sample, near_points=None, near_occupancies=None)

    for folder, odd in (("one", ["shape1"]), ("two", ["shape1", "shape6"])):
        source = Changed(dict.fromkeys(odd, without_near_points))
        parts = build_parts(tmp_path / folder, source, 2)  # a part alone has one at most
        if folder == "one":
            assert len(merge_datasets(parts, tmp_path / "fine").skipped) == 2
            continue
        message = "2 of 13 shapes were skipped because their layout differs .shape1: near_points"
        with pytest.raises(UserError, match=message):
            merge_datasets(parts, tmp_path / "odd")
    assert len(samples_in_order(tmp_path / "odd")) == 10 and verify_dataset(tmp_path / "odd")


def test_the_command_builds_and_merges_parts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_archive(tmp_path / "boxes.npz", count=9, resolution=8)
    build = ["data", "import", "voxels", "boxes.npz"]
    for part in ("1", "2"):
        assert main([*build, f"part{part}", "--part", f"{part}/2", *SMALL]) == 0
        out = capsys.readouterr().out
        assert f"part {part} of 2; join all parts with `occvae data merge`" in out
        assert "warning" not in out  # a part may lack a split
    assert main([*build, "part1", "--part", "2/2", *SMALL]) == 2
    assert "built with other settings or from other files (part)" in capsys.readouterr().err
    assert main(["data", "merge", "part2", "part1", "merged"]) == 0
    out = capsys.readouterr().out
    assert "9 shapes (6 train, 3 val) in 3 shards, 0 skipped" in out
    assert "3 shards are hard links that take no disk space, 0 are copies" in out
    shutil.rmtree("part1")
    shutil.rmtree("part2")
    assert main(["data", "verify", "--deep", "merged"]) == 0
    assert main(["data", "merge", "merged", "part1", "more"]) == 2
    assert "part1/dataset.json: no dataset here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("0/4", "parts are numbered from 1 to 4, got 0/4"),
        ("5/4", "parts are numbered from 1 to 4, got 5/4"),
        ("1/0", "parts are numbered from 1 to 0, got 1/0"),
        ("2", "must be K/N such as 1/8, got 2"),
        ("-1/4", "expected one argument"),
        ("1/4x", "must be K/N such as 1/8, got 1/4x"),
    ],
)
def test_the_command_refuses_wrong_parts(tmp_path, capsys, part, message):
    with pytest.raises(SystemExit) as caught:
        main(["data", "import", "voxels", "boxes.npz", str(tmp_path / "new"), "--part", part])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]

"""The dataset of a training without --data, `data/procedural`."""

import os
from functools import partial
from pathlib import Path
from shutil import copytree

import pytest

from occvae.data.manifest import Manifest
from occvae.data.procedural import GENERATOR
from tests.tiny import TINY_RUN
from tests.train.ranks import Rank, no_rank_left, start

pytestmark = pytest.mark.usefixtures(no_rank_left.__name__)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_embedded(
    tiny_dataset: Path, generator: int | None, complete: bool = True, source: str = "procedural"
) -> bytes:
    """Writes a small dataset to `data/procedural` and returns its manifest file."""
    root = Path(copytree(tiny_dataset, "data/procedural"))
    manifest = Manifest.load(root)
    manifest.source, manifest.complete = source, complete
    manifest.settings = {} if generator is None else {"generator": generator}
    manifest.save(root)
    return (root / "dataset.json").read_bytes()


def train(here: Path, *arguments: str) -> Rank:
    settings = [] if "--resume" in arguments else [*TINY_RUN, "validate_every=100"]
    command = ["--out", "run", *settings, *arguments]
    [rank] = start(here, command, prepare=partial(os.chdir, here))
    rank.status()
    return rank


@pytest.mark.parametrize("generator", [None, GENERATOR + 1])
def test_shapes_of_another_version_are_refused(tiny_dataset, here, generator):
    before = write_embedded(tiny_dataset, generator)
    rank = train(here, "optim.steps=1")
    assert rank.status() == 2
    [line] = rank.errors()
    assert "data/procedural: the dataset has the procedural shapes of another version" in line
    assert line.endswith("shapes, or add --data data/procedural to train on it")
    assert Path("data/procedural/dataset.json").read_bytes() == before
    assert not Path("run").exists()


@pytest.mark.parametrize("name", [["--data", "data/procedural"], ["data.root=data/procedural"]])
def test_shapes_of_another_version_are_used_by_name_and_resumed(tiny_dataset, here, name):
    write_embedded(tiny_dataset, None)
    rank = train(here, *name, "optim.steps=1")
    assert rank.status() == 0, rank.text()
    rank = train(here, "--resume", "optim.steps=2")
    assert rank.status() == 0, rank.text()


def test_an_unfinished_build_of_another_version_is_refused(tiny_dataset, here):
    write_embedded(tiny_dataset, None, complete=False)
    rank = train(here, "--data", "data/procedural", "optim.steps=1")
    assert rank.status() == 2
    [line] = rank.errors()
    assert line.endswith("rename the folder to build the present shapes")


@pytest.mark.parametrize(("source", "generator"), [("procedural", GENERATOR), ("meshes", None)])
def test_a_current_or_imported_dataset_is_used_as_it_is(tiny_dataset, here, source, generator):
    before = write_embedded(tiny_dataset, generator, source=source)
    rank = train(here, "optim.steps=1")
    assert rank.status() == 0, rank.text()
    assert Path("data/procedural/dataset.json").read_bytes() == before

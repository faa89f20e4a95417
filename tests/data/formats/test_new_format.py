"""A new format is one module in occvae/data/formats/, and no other file changes."""

import sys

import numpy as np
import pytest

from occvae.cli.main import main
from occvae.data import formats
from occvae.data.build import verify_dataset
from occvae.data.formats import find_formats
from occvae.data.points import dequantize_points
from occvae.data.shards import Shard

MODULE = """
"Balls: a text file with one line `name radius` per ball."

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trimesh

from occvae.data.formats import Format
from occvae.data.manifest import OWN_SPLITS
from occvae.data.shape_arguments import add_shape_arguments, shape_settings
from occvae.data.shapes import make_sample
from occvae.data.sources import Item, own_split
from occvae.errors import UserError


@dataclass
class Ball:
    radius: float

    def mesh(self):
        ball = trimesh.creation.icosphere(subdivisions=2, radius=self.radius)
        return ball.vertices, ball.faces

    def contains(self, points):
        return np.linalg.norm(points, axis=1) < self.radius


class BallSource:
    name = "dummy"
    splits = OWN_SPLITS

    def __init__(self, path, shape_settings):
        self.balls = [line.split() for line in Path(path).read_text().splitlines()]
        self.items = [
            Item(name, "ball", own_split(index)) for index, (name, _) in enumerate(self.balls)
        ]
        self.shape_settings = shape_settings
        self.settings = {"balls": self.balls, **shape_settings.to_dict()}
        self.skipped = {}

    def sample(self, index):
        item, radius = self.items[index], float(self.balls[index][1])
        if radius <= 0:
            raise UserError(f"its radius is {radius}")
        return make_sample(item.id, item.category, item.split, Ball(radius), self.shape_settings)


def add_arguments(parser):
    parser.add_argument("list", help="text file of names and radii")
    add_shape_arguments(parser, near_points=0, voxels="8")


FORMAT = Format(
    help="balls by name and radius",
    add_arguments=add_arguments,
    make_source=lambda options: BallSource(options.list, shape_settings(options)),
)
"""
EMBEDDED = """
from occvae.data.formats import Format

FORMAT = Format("nothing at all", lambda parser: None, lambda options: None, embedded=True)
"""


@pytest.fixture
def add_format(tmp_path, monkeypatch):
    """Adds modules to the package occvae.data.formats, in a temporary folder."""
    folder = tmp_path / "formats"
    folder.mkdir()
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(folder)])
    written = []

    def add(name: str, text: str) -> None:
        (folder / f"{name}.py").write_text(text)
        written.append(name)

    yield add
    for name in written:
        sys.modules.pop(f"{formats.__name__}.{name}", None)
        vars(formats).pop(name, None)


def test_a_new_module_can_import_its_files(add_format, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    add_format("dummy", MODULE)
    lines = [f"b{index} {0.2 + index / 100}" for index in range(16)]
    (tmp_path / "balls.txt").write_text("\n".join([*lines, "flat 0"]))
    small = "--points 512 --surface-points 0 --views 1 --image-size 16 --workers 1".split()
    assert main(["data", "import", "dummy", "balls.txt", "balls", *small]) == 0
    out = capsys.readouterr().out
    assert "16 shapes (14 train, 2 val) in 2 shards, 1 skipped" in out
    assert "  skipped flat: its radius is 0.0" in out.splitlines()
    assert main(["data", "verify", "balls", "--deep"]) == 0

    manifest = verify_dataset("balls")
    assert manifest.source == "dummy"
    samples = {}
    for entry in manifest.shards:
        shard = Shard(tmp_path / "balls", entry)
        samples |= {id: shard.sample(local) for local, id in enumerate(shard.ids)}
    assert samples.keys() == {f"b{index}" for index in range(16)}
    assert all(len(sample.points) == 512 for sample in samples.values())
    for name, radius in (("b0", 0.2), ("b15", 0.35)):
        points = dequantize_points(samples[name].points)
        inside = np.linalg.norm(points.astype(float), axis=1) < radius
        np.testing.assert_array_equal(samples[name].occupancies, inside)


def test_a_new_module_adds_its_arguments_and_help(add_format, capsys):
    add_format("dummy", MODULE)
    for arguments, part in (
        (["import", "--help"], "dummy     balls by name and radius"),
        (["import", "dummy", "--help"], "text file of names and radii"),
        (["import", "dummy", "--help"], "folder of the new dataset"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(["data", *arguments])
        assert caught.value.code == 0 and part in capsys.readouterr().out


def test_embedded_formats_are_built_and_others_imported(add_format, capsys):
    add_format("dummy", MODULE)
    add_format("empty", EMBEDDED)
    for action, there, absent in (("import", "dummy", "empty"), ("build", "empty", "dummy")):
        with pytest.raises(SystemExit):
            main(["data", action, "--help"])
        names = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.strip()]
        assert there in names and absent not in names
        with pytest.raises(SystemExit) as caught:
            main(["data", action, absent, "x"])
        assert caught.value.code == 2 and f"invalid choice: '{absent}'" in capsys.readouterr().err


def test_a_format_has_the_name_of_its_module(add_format):
    found = find_formats()
    assert found.keys() == {"meshes", "onet", "pix2vox", "pix3d", "procedural", "voxels"}
    assert [name for name, format in found.items() if format.embedded] == ["procedural"]
    add_format("dummy", MODULE)
    assert find_formats().keys() == found.keys() | {"dummy"}

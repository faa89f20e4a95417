"""The code on the page docs/data_format.md reads what `Shard` reads."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from occvae.data.build import build_dataset
from occvae.data.formats.meshes import MeshSource
from occvae.data.manifest import Manifest
from occvae.data.shapes import ShapeSettings
from occvae.data.shards import Shard

PAGE = Path(__file__).parents[2] / "docs" / "data_format.md"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with the dataset data/mine."""
    monkeypatch.chdir(tmp_path)
    Path("meshes").mkdir()
    for number in range(9):
        trimesh.creation.box((1, 2, 2 + number)).export(f"meshes/{number}.off")
    settings = ShapeSettings(2048, 0, 0, voxel_resolutions=(32,), num_views=4, image_size=16)
    build_dataset(MeshSource("meshes", settings), "data/mine", num_workers=1)


def test_the_code_of_the_page_reads_what_shard_reads(here):
    plain, with_occvae = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    [entry] = [entry for entry in Manifest.load("data/mine").shards if entry.split == "val"]
    shard = Shard(Path("data/mine"), entry)
    points, inside = shard.points(0, 0, 2048)

    read: dict = {}
    exec(plain, read)
    assert (read["name"], read["category"]) == (shard.ids[0], shard.categories[0])
    np.testing.assert_allclose(read["points"], points, atol=1e-7)
    np.testing.assert_array_equal(read["inside"], inside)
    np.testing.assert_array_equal(read["grid"], shard.voxels(0, 32))
    with Image.open(io.BytesIO(shard.image(0, 3))) as image:
        np.testing.assert_array_equal(read["image"], image)

    read = {}
    exec(with_occvae, read)
    np.testing.assert_array_equal(read["points"], points)
    np.testing.assert_array_equal(read["grid"], shard.voxels(0, 32))
    assert read["content"] == shard.image(0, 3)

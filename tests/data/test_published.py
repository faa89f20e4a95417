"""Published datasets are downloaded from a local server, unpacked and imported."""

import io
import json
import shlex
import shutil
import tarfile
import zipfile
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from occvae.cli.main import main
from occvae.data.build import verify_dataset
from occvae.data.published import PUBLISHED
from occvae.system import disk_room
from tests.data.formats import test_onet, test_pix2vox
from tests.data.formats.scenes import blender_camera, chair_mesh, render
from tests.system.http_server import Server, file, in_turn, refuse, started

Usage = namedtuple("Usage", "free")
ONET, PIX2VOX = ["data", "download", "onet", "new"], ["data", "download", "pix2vox", "new"]
ZIP = "dataset_small_v1.1.zip"


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server that replaces those of the published addresses, and an empty working directory."""
    monkeypatch.chdir(tmp_path)
    with started() as server:
        for name, dataset in PUBLISHED.items():
            files = tuple(
                replace(one, url=f"{server.url}/{one.url.rpartition('/')[2]}")
                for one in dataset.files
            )
            monkeypatch.setitem(PUBLISHED, name, replace(dataset, files=files))
        # Machines of tests have less room than the published files need.
        monkeypatch.setattr(disk_room.shutil, "disk_usage", lambda _: Usage(10**12))
        yield server


@pytest.fixture(scope="module")
def renderings() -> Callable:
    """A function that renders a chair with the cameras and the encoding of a module of tests."""

    def make(module, to_original) -> list[bytes]:
        cameras = np.array([blender_camera(*view) for view in module.VIEWS])
        return [module.encode(image) for image in render(chair_mesh(), to_original, cameras)]

    return make


def zip_of(folder: Path) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder.parent))
    return content.getvalue()


def tgz_of(folder: Path) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        archive.add(folder, folder.name)
    return content.getvalue()


@pytest.fixture(scope="module")
def archive(tmp_path_factory, renderings) -> bytes:
    """A small archive of the layout of ONet's, without metadata.yaml."""
    root = tmp_path_factory.mktemp("onet") / "ShapeNet"
    images = renderings(test_onet, test_onet.to_original)
    for seed, model in enumerate(("03001627/a1", "03001627/b2", "02691156/c3")):
        test_onet.write_model(root / model, seed, images)
    (root / "03001627" / "train.lst").write_text("a1\nb2\n")
    (root / "02691156" / "val.lst").write_text("c3\n")
    return zip_of(root)


@pytest.fixture
def onet(server, archive) -> Server:
    server.answers["/metadata.yaml"] = file(test_onet.METADATA.encode())
    server.answers[f"/{ZIP}"] = file(archive)
    return server


def follow(output: str) -> None:
    """Runs the import command that a download printed."""
    [line] = [line for line in output.splitlines() if line.startswith("complete; import it with: ")]
    words = shlex.split(line.partition(": ")[2])
    assert words[0] == "occvae" and main([*words[1:], "--workers", "1"]) == 0


def refused(capsys, words: list[str], message: str) -> None:
    capsys.readouterr()
    assert main(words) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ") and message in line


def test_onet_is_downloaded_once_and_imported(onet, capsys):
    assert main(ONET) == 0
    output = capsys.readouterr().out
    assert output.startswith("onet: about 73.4 GB to download and 86.0 GB unpacked, to new\n")
    assert {path.name for path in Path("new").iterdir()} == {"ShapeNet", "download.json"}
    follow(output)
    manifest = verify_dataset("data/onet")
    assert manifest.count_shapes() == {"train": 2, "val": 1}
    assert manifest.categories == ["airplane", "chair"]
    onet.ranges.clear()
    assert main(ONET) == 0
    assert not onet.ranges
    follow(capsys.readouterr().out)


def test_pix2vox_is_downloaded_and_imported(server, tmp_path, renderings, capsys):
    images = renderings(test_pix2vox, test_pix2vox.to_mesh)
    for id in ("03001627/a1", "03001627/b2", "02691156/c3"):
        test_pix2vox.write_model(tmp_path, id, images)
    server.answers["/ShapeNet.json"] = file(json.dumps(test_pix2vox.TAXONOMY).encode())
    for name in ("ShapeNetVox32", "ShapeNetRendering"):
        server.answers[f"/{name}.tgz"] = file(tgz_of(tmp_path / name), cut=3_000)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("occvae.system.download.time.sleep", lambda _: None)
        assert main([*PIX2VOX, "--keep-archives"]) == 0
    names = {"ShapeNet.json", "download.json"}
    names |= {
        f"{name}{end}" for name in ("ShapeNetVox32", "ShapeNetRendering") for end in ("", ".tgz")
    }
    assert {path.name for path in Path("new").iterdir()} == names
    follow(capsys.readouterr().out)
    assert verify_dataset("data/pix2vox").count_shapes() == {"train": 1, "val": 1, "test": 1}


def test_too_little_room_is_reported_before_any_request(server, monkeypatch, capsys):
    monkeypatch.setattr(disk_room.shutil, "disk_usage", lambda _: Usage(150 * 10**9))
    message = "new: the dataset with its archives needs 159.4 GB, but only 150.0 GB are free; free"
    refused(capsys, ONET, message)
    assert not server.ranges


def test_what_is_there_needs_no_room(onet, archive, monkeypatch, capsys):
    Path("new").mkdir()
    Path("new", f"{ZIP}.partial").touch()
    with Path("new", f"{ZIP}.partial").open("ab") as partial:
        partial.truncate(70_000_000_000)  # a file with a hole
    monkeypatch.setattr(disk_room.shutil, "disk_usage", lambda _: Usage(89 * 10**9))
    refused(capsys, ONET, "needs 89.4 GB, but only 89.0 GB are free")
    Path("new", ZIP).write_bytes(archive)
    monkeypatch.setattr(disk_room.shutil, "disk_usage", lambda _: Usage(87 * 10**9))
    assert main(ONET) == 0


def test_a_wrong_address_says_what_to_do(onet, archive, capsys):
    onet.answers[f"/{ZIP}"] = refuse(404)
    refused(capsys, ONET, f"put it at new/{ZIP} and run the same command again")
    Path("new", ZIP).write_bytes(archive)
    onet.ranges.clear()
    assert main(ONET) == 0
    assert not onet.ranges
    assert Path("new", ZIP).read_bytes() == archive  # only downloaded archives are deleted
    follow(capsys.readouterr().out)


def test_a_damaged_archive_is_downloaded_again_after_it_is_deleted(onet, archive, capsys):
    onet.answers[f"/{ZIP}"] = in_turn(file(archive[:-100_000]), file(archive))
    message = f"new/{ZIP}: is not a whole archive (it does not begin with a file); delete it and"
    refused(capsys, ONET, message)
    refused(capsys, ONET, message)
    Path("new", ZIP).unlink()
    assert main(ONET) == 0 and not Path("new", ZIP).exists()


def test_an_archive_of_something_else_is_reported(onet, tmp_path, capsys):
    (tmp_path / "Other").mkdir()
    (tmp_path / "Other" / "file").write_text("x")
    onet.answers["/ShapeNet.json"] = file(b"[]")
    onet.answers["/ShapeNetVox32.tgz"] = file(tgz_of(tmp_path / "Other"))
    refused(capsys, PIX2VOX, "new/ShapeNetVox32.tgz: has no ShapeNetVox32; is it the file of http:")


def test_deleted_results_are_made_again(onet, capsys):
    assert main(ONET) == 0
    shutil.rmtree("new/ShapeNet")
    assert main(ONET) == 0
    assert Path("new", "ShapeNet", "metadata.yaml").is_file()
    assert Path("new", "ShapeNet", "03001627", "a1", "points.npz").is_file()


@pytest.mark.parametrize("content", ["[", "{}", "[]", '{"finished": 1, "downloaded": {}}'])
def test_an_unreadable_record_is_reported(onet, capsys, content):
    Path("new").mkdir()
    Path("new", "download.json").write_text(content)
    refused(capsys, ONET, "new/download.json: cannot be read (")


def test_addresses_are_those_of_the_projects():
    urls = [one.url for dataset in PUBLISHED.values() for one in dataset.files]
    assert urls == [
        "https://raw.githubusercontent.com/autonomousvision/occupancy_networks/master/data/metadata.yaml",
        "https://s3.eu-central-1.amazonaws.com/avg-projects/occupancy_networks/data/dataset_small_v1.1.zip",
        "https://raw.githubusercontent.com/hzxie/Pix2Vox/master/datasets/ShapeNet.json",
        "http://cvgl.stanford.edu/data2/ShapeNetVox32.tgz",
        "http://cvgl.stanford.edu/data2/ShapeNetRendering.tgz",
    ]


def test_an_unknown_dataset_is_refused(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["data", "download", "shapenet", "new"])
    assert caught.value.code == 2
    assert "invalid choice: 'shapenet' (choose from " in capsys.readouterr().err

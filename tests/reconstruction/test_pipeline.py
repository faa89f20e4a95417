"""Reconstruction in batches: a mesh or one error line per image, and a summary."""

import errno
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from occvae.errors import UserError
from occvae.reconstruction import ReconstructionSettings, reconstruct_files
from occvae.reconstruction import files as output_files
from occvae.visualize.turntable import KINDS
from tests.fakes import CENTER, ball_model
from tests.reconstruction.test_prediction import variational_model

pytestmark = pytest.mark.filterwarnings("ignore:Ball has no fused kernels")
SETTINGS = ReconstructionSettings(resolution=32, background="keep")


class Watched:
    """A ball with radius 0.2 plus the red of the images. Records the sizes of its batches."""

    def __init__(self, most: int = 99):
        self.model, self.batches, self.most = ball_model(), [], most
        self.model.reconstruct, self.inner = self.reconstruct, self.model.reconstruct

    def reconstruct(self, images, *arguments, **options):
        self.batches.append(tuple(images.shape[:2]))
        if (
            len(images) > self.most or images[:, :, 2].max() > 0.5
        ):  # blue images always run out of memory
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2.00 GiB.")
        return self.inner(images, *arguments, **options)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for number in range(5):
        save(f"{number}.png", 10 * number)
    return tmp_path


def save(name: str, red: int, blue: int = 0) -> None:
    Image.new("RGB", (12, 12), (red, 0, blue)).save(name)


def outputs(names: list[str]) -> list[Path]:
    return [Path("out") / f"{Path(name).stem}.ply" for name in names]


def reconstruct(model, names: list[str], settings=SETTINGS) -> None:
    reconstruct_files(model, [[name] for name in names], outputs(names), settings)


def radius(path: Path) -> float:
    mesh = trimesh.load(path, force="mesh")
    return float(np.linalg.norm(mesh.vertices - CENTER, axis=1).mean())


def written() -> set[str]:
    return {path.name for path in Path("out").glob("*")}


def test_a_batch_is_one_call_and_every_image_gets_its_mesh(here, capsys):
    watched = Watched()
    names = [f"{number}.png" for number in (3, 0, 4, 1, 2)]
    small = ReconstructionSettings(resolution=32, background="keep", batch_size=2)
    reconstruct(watched.model, names, small)
    assert watched.batches == [(2, 1), (2, 1), (1, 1)]
    for name in names:
        expected = 0.2 + 10 * int(name[0]) / 255
        assert radius(Path("out", name[0] + ".ply")) == pytest.approx(expected, abs=2e-3)
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.split(" -> ")[0] for line in lines] == names
    assert all("faces, watertight), out/" in line for line in lines)
    assert last == "all 5 objects reconstructed"


def test_unreadable_images_are_named_and_the_others_done(here, capsys):
    Path("1.png").write_bytes(Path("1.png").read_bytes()[:-20])
    Path("3.png").write_bytes(b"text")
    names = [f"{number}.png" for number in range(5)] + ["missing.png"]
    with pytest.raises(UserError) as caught:
        reconstruct(ball_model(), names)
    expected = "3 of 6 objects have no mesh: 1.png, 3.png, missing.png"
    assert str(caught.value) == expected
    captured = capsys.readouterr()
    first, second, third = captured.err.splitlines()
    assert first.startswith("error: 1.png: cannot be read as an image")
    assert second.startswith("error: 3.png: not an image")
    assert third == "error: missing.png: no such file"
    assert len(captured.out.splitlines()) == 3
    assert {name for name in written() if name.endswith(".ply")} == {"0.ply", "2.ply", "4.ply"}


def test_a_batch_that_runs_out_of_memory_is_done_one_by_one(here, capsys):
    save("blue.png", 9, blue=200)
    watched = Watched(most=1)
    with pytest.raises(UserError, match="1 of 3 objects have no mesh: blue.png"):
        reconstruct(watched.model, ["0.png", "blue.png", "1.png"])
    assert watched.batches == [(3, 1), (1, 1), (1, 1), (1, 1)]
    error = "error: blue.png: cpu is out of memory; try a lower --resolution\n"
    assert capsys.readouterr().err == error
    assert {"0.ply", "1.ply"} <= written() and "blue.ply" not in written()


def test_views_of_an_object_stay_together(here):
    watched = Watched()
    groups = [["0.png", "4.png"], ["1.png", "3.png"], ["2.png"]]
    paths = [Path("out") / f"{name}.ply" for name in "abc"]
    reconstruct_files(watched.model, groups, paths, SETTINGS)
    assert watched.batches == [(2, 2), (1, 1)]
    assert all(radius(path) == pytest.approx(0.2 + 20 / 255, abs=2e-3) for path in paths)
    assert np.asarray(Image.open("out/a.preview.png")).shape[1] == 6 * 224


def test_an_object_without_surface_gets_one_error_line(here, capsys):
    save("bright.png", 100)
    model = ball_model(radius=-0.2)
    with pytest.raises(UserError, match="1 of 2 objects have no mesh: 0.png"):
        reconstruct(model, ["0.png", "bright.png"])
    message = "error: 0.png: the prediction has no surface; try a lower --threshold\n"
    assert capsys.readouterr().err == message


def test_a_full_disk_ends_the_run_and_reports_progress(here, monkeypatch, capsys):
    export = trimesh.Trimesh.export

    def fail(mesh, path, **options):
        if "2" in Path(path).name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return export(mesh, path, **options)

    monkeypatch.setattr(trimesh.Trimesh, "export", fail)
    message = r"^out/2.ply: cannot be written \(No space left on device\); 2 of 4 objects are done$"
    with pytest.raises(UserError, match=message):
        reconstruct(ball_model(), [f"{number}.png" for number in range(4)])
    assert written() == {"0.ply", "0.preview.png", "1.ply", "1.preview.png"}


def test_unwritable_paths_are_refused_before_computing(here):
    watched = Watched()
    with pytest.raises(UserError, match="0.png is not a folder"):
        reconstruct_files(watched.model, [["1.png"]], [Path("0.png/a.ply")], SETTINGS)
    assert not watched.batches


def test_the_preview_shows_what_the_model_saw(here):
    Image.new("RGB", (256, 256), (0, 0, 255)).save("plain.png")
    image = Image.open("plain.png")
    image.paste((200, 30, 30), (32, 32, 92, 68))
    image.save("object.png")
    model = ball_model(radius=0.05)
    model.image_size = 112
    auto = ReconstructionSettings(resolution=32)
    reconstruct(model, ["object.png"], auto)
    preview = np.asarray(Image.open("out/object.preview.png")).astype(int)
    assert preview.shape == (224, 5 * 224, 3)
    seen = preview[:, :224]
    red = (seen[..., 0] > 150) & (seen[..., 2] < 120)
    columns = np.flatnonzero(red.any(axis=0))
    assert columns[-1] - columns[0] + 1 == pytest.approx(0.7 * 224, abs=12)
    assert (seen[0] == 255).all() and not (seen[..., 2] > seen[..., 0] + 50).any()


def test_transparent_images_are_composited_on_the_models_gray(here):
    Image.new("RGBA", (12, 12)).save("clear.png")
    model = ball_model(radius=-0.7)
    model.background_gray = 240
    reconstruct(model, ["clear.png"])
    assert radius(Path("out/clear.ply")) == pytest.approx(240 / 255 - 0.7, abs=0.01)


def test_hypotheses_are_numbered_and_shown_in_rows(here, monkeypatch, capsys):
    monkeypatch.setattr(output_files, "_TILE", 24)
    monkeypatch.setitem(KINDS, "png", 2)
    settings = ReconstructionSettings(
        resolution=32, background="keep", num_samples=3, uncertainty=True, turntable="png"
    )
    reconstruct(variational_model(), ["0.png"], settings)
    names = {f"0-{number}{kind}" for number in (1, 2, 3) for kind in (".ply", ".turntable.png")}
    assert written() == names | {"0.preview.png"}
    assert Image.open("out/0.preview.png").size == (5 * 24, 3 * 24)
    mesh = trimesh.load("out/0-1.ply", force="mesh", process=False)
    assert mesh.visual.kind == "vertex"
    assert "mean deviation of the occupancy 0." in capsys.readouterr().out


def test_the_preview_shows_vertex_colors():
    mesh = trimesh.creation.box((0.5, 0.5, 0.5))
    pixels = np.full((1, 4, 4, 3), 255, np.uint8)
    plain = np.asarray(output_files.preview_image(pixels, [mesh])).astype(int)
    mesh.visual.vertex_colors = [255, 0, 0, 255]
    red = np.asarray(output_files.preview_image(pixels, [mesh])).astype(int)
    drawn = plain[..., 0] < 250
    assert (plain[drawn][:, 2] > plain[drawn][:, 0]).all()
    assert (red[drawn].min(axis=1) < red[drawn][:, 0]).all()


def test_an_obj_file_has_the_name_of_its_image_and_replaces_no_material(here):
    reconstruct_files(ball_model(), [["0.png"]], [Path("out.obj")], SETTINGS)
    assert "\no 0\n" in Path("out.obj").read_text() and Path("out.mtl").is_file()
    Path("out.obj").unlink()
    with pytest.raises(UserError, match="out.mtl exists"):
        reconstruct_files(ball_model(), [["0.png"]], [Path("out.obj")], SETTINGS, overwrite=False)


def test_many_previews_stay_small(monkeypatch):
    monkeypatch.setattr(output_files, "_TILE", 24)
    mesh = trimesh.creation.box((0.5, 0.5, 0.5))
    pixels = np.zeros((9, 4, 4, 3), np.uint8)
    assert output_files.preview_image(pixels, [mesh] * 12).size == (8 * 24, 8 * 24)

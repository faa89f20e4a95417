"""Commands with a model of images, points and voxels: reconstruct, sample and interpolate."""

from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
import trimesh
from PIL import Image

from occvae.cli.main import main
from occvae.models import create_model, from_pretrained, save_pretrained
from tests.data.readers.binvox_writer import write_binvox
from tests.models.test_latent_triplane import model as triplane_model
from tests.models.test_mixture import inputs, queries, same_mesh, small_model

SCAN = np.random.default_rng(0).uniform((10, 20, 30), (14, 22, 31), (500, 3))
GRID = np.zeros((16, 16, 16), bool)
GRID[:, 5:11, 4:12] = True


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """An untrained model, which predicts a surface, and one without a latent."""
    root = tmp_path_factory.mktemp("models")
    model = small_model()
    model(inputs(), queries())
    with torch.no_grad():
        model.decoder.linear_out.bias -= model.predict_points(inputs(), queries()).median()
    model.threshold = 0.5
    model.options["threshold"] = 0.5
    save_pretrained(model, root / "occvae")
    save_pretrained(triplane_model(), root / "triplane")
    save_pretrained(create_model("vitocc", encoder="levit_128s", hidden_size=32), root / "vitocc")
    return root


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.savetxt("scan.xyz", SCAN)
    pixels = np.full((48, 48, 3), 255, np.uint8)
    pixels[10:40, 14:30] = (90, 60, 40)
    Image.fromarray(pixels).save("chair.png")
    pixels[10:20, 14:40] = (90, 60, 40)
    Image.fromarray(pixels).save("side.png")
    return tmp_path


def occvae(command: str, models: Path, *words: str, name: str = "occvae") -> int:
    model = [str(models / name)] if command == "sample" else ["--model", str(models / name)]
    return main([command, *words, *model, "--resolution", "32"])


def load(path: str) -> trimesh.Trimesh:
    return trimesh.load(path, force="mesh")


def test_an_image_and_a_scan_give_one_mesh_in_the_coordinates_of_the_scan(here, models, capsys):
    assert occvae("reconstruct", models, "chair.png", "scan.xyz", "--together") == 0
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("chair.png -> chair.glb (") and "300 of 500 points used" in line
    assert line.endswith("the mesh has the coordinates of the scan")
    together = load("chair.glb")
    low, high = SCAN.min(0), SCAN.max(0)
    scale = (high - low).max()
    assert (together.bounds[0] >= low - scale).all() and (together.bounds[1] <= high + scale).all()
    preview = np.asarray(Image.open("chair.preview.png"))
    assert preview.shape[1] == 6 * preview.shape[0]  # image, scan, and four views
    words = ["chair.png", "-o", "alone.glb"]
    assert occvae("reconstruct", models, *words) == 0
    assert not same_mesh(load("alone.glb"), together)


def test_views_and_a_scan_are_joined_in_any_order(here, models, capsys):
    files = ["chair.png", "side.png", "scan.xyz"]
    for name, order in (("a", files), ("b", files[::-1])):
        assert occvae("reconstruct", models, *order, "--together", "-o", f"{name}.ply") == 0
    first, second = load("a.ply"), load("b.ply")
    np.testing.assert_allclose(first.bounds, second.bounds, atol=1e-2)


GRID_WRITERS = {
    "grid.binvox": write_binvox,
    "grid.npy": lambda path, grid: np.save(path, grid.astype(np.uint8)),
    "grid.npz": lambda path, grid: np.savez(path, voxels=grid),
    "grid.mat": lambda path, grid: scipy.io.savemat(path, {"any": grid.astype(np.uint8)}),
}


@pytest.mark.parametrize("name", GRID_WRITERS)
def test_a_voxel_grid_gives_the_mesh_that_the_model_predicts(here, models, capsys, name):
    GRID_WRITERS[name](name, GRID)
    assert occvae("reconstruct", models, name, "-o", "mesh.ply") == 0
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{name} -> mesh.ply (") and line.endswith("mesh.preview.png")
    [expected] = from_pretrained(models / "occvae").reconstruct(voxels=GRID, resolution=32)
    np.testing.assert_allclose(load("mesh.ply").bounds, expected.bounds, atol=1e-6)
    assert len(load("mesh.ply").faces) == len(expected.faces)


def test_an_image_a_scan_and_a_grid_give_one_mesh_in_the_coordinates_of_the_scan(here, models):
    np.save("grid.npy", GRID)
    files = ["grid.npy", "chair.png", "scan.xyz"]
    for words in ([*files[1:], "-o", "two.ply"], [*files, "-o", "three.ply"]):
        assert occvae("reconstruct", models, *words, "--together") == 0
    low, high = SCAN.min(0), SCAN.max(0)
    center = load("three.ply").bounds.mean(0)
    assert (np.abs(center - (low + high) / 2) < (high - low).max() / 2).all()
    assert not same_mesh(load("two.ply"), load("three.ply"))
    preview = np.asarray(Image.open("three.preview.png"))
    assert preview.shape[1] == 7 * preview.shape[0]  # image, scan, grid, and four views
    assert occvae("reconstruct", models, *files[:2], "--together", "-o", "unit.ply") == 0
    assert np.abs(load("unit.ply").bounds).max() < 0.56


def test_arrays_are_read_as_point_clouds_or_grids(here, models, capsys):
    np.savez("points.npz", points=SCAN)
    np.savez("voxels.npz", voxels=GRID, id=["a"])
    np.save("scan.npy", SCAN)
    files = ["points.npz", "voxels.npz", "scan.npy"]
    assert occvae("reconstruct", models, *files, "-o", "meshes") == 0
    lines = capsys.readouterr().out.splitlines()[:3]
    assert ["coordinates of the scan" in line for line in lines] == [True, False, True]


def test_a_grid_off_the_center_is_mentioned(here, models, capsys):
    np.save("grid.npy", np.roll(GRID, -4, axis=1))
    assert occvae("reconstruct", models, "grid.npy") == 0
    note = "the occupied voxels are off the center of the grid by (0, -4, 0) cells"
    assert capsys.readouterr().out.strip().endswith(note)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"voxels": GRID[:8, :8, :8]}, "occvae observes one voxel grid of 16^3, got 1 x 8 x 8 x 8"),
        ({"voxels": GRID[:, :8]}, "occvae observes one voxel grid of 16^3, got 1 x 16 x 8 x 16"),
        ({"voxels": np.zeros_like(GRID)}, "no voxel is occupied"),
        ({"voxels": GRID * 255.0}, "voxels must be occupancies from 0 to 1"),
        ({"voxels": GRID, "points": SCAN}, "has arrays points and voxels; save each in a file of"),
        ({"solid": GRID}, "has no 'voxels' array (found solid)"),
        (None, "not a readable .npz archive"),
    ],
)
def test_grids_that_do_not_suit_the_model_are_refused(here, models, capsys, content, message):
    if content is None:
        Path("grid.npz").write_bytes(b"PK")
    else:
        np.savez("grid.npz", **content)
    assert occvae("reconstruct", models, "chair.png", "grid.npz", "--together") == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: grid.npz: {message}")
    assert not list(here.rglob("*.glb"))


def test_files_of_all_kinds_are_separate_objects(here, models, capsys):
    write_binvox("sofa.binvox", GRID)
    assert occvae("reconstruct", models, ".", "-o", "meshes") == 0
    out = capsys.readouterr().out
    assert "all 4 objects reconstructed" in out
    names = sorted(path.name for path in Path("meshes").glob("*.glb"))
    assert names == ["chair.glb", "scan.glb", "side.glb", "sofa.glb"]


def test_hypotheses_and_uncertainty(here, models, capsys):
    words = ["chair.png", "--num-samples", "3", "--uncertainty", "-o", "chair.ply"]
    assert occvae("reconstruct", models, *words) == 0
    assert "mean deviation of the occupancy 0." in capsys.readouterr().out
    meshes = [load(f"chair-{number}.ply") for number in (1, 2, 3)]
    assert not same_mesh(meshes[0], meshes[1])
    colors = np.asarray(meshes[0].visual.vertex_colors)[:, :3]
    assert len(np.unique(colors, axis=0)) > 3
    again = [*words[:-1], "again.ply"]
    assert occvae("reconstruct", models, *again) == 0
    assert same_mesh(load("again-2.ply"), meshes[1])


def test_samples_are_meshes_and_a_picture(here, models, capsys):
    assert occvae("sample", models, "-n", "5") == 0
    meshes = sorted(Path("samples").glob("sample-*.glb"))
    assert [path.stem for path in meshes] == [f"sample-0{number}" for number in range(1, 6)]
    assert all(load(str(path)).is_watertight for path in meshes)
    assert Image.open("samples/samples.png").size == (4 * 224, 2 * 224)
    assert occvae("sample", models, "-n", "5") == 2
    assert "samples/samples.png exists; replace it with -o samples" in capsys.readouterr().err
    assert occvae("sample", models, "-n", "2", "-o", "other", "--seed", "1") == 0
    assert not same_mesh(load("other/sample-01.glb"), load("samples/sample-01.glb"))
    assert occvae("sample", models, "-n", "5", "-o", "other", "--format", "ply") == 0
    assert same_mesh(load("other/sample-02.ply"), load("samples/sample-02.glb"))


def test_interpolation_goes_from_one_object_to_the_other(here, models, capsys):
    assert occvae("interpolate", models, "chair.png", "scan.xyz", "--steps", "4") == 0
    out = capsys.readouterr().out
    assert "interpolation/step-04.glb (" in out and out.endswith("interpolation.gif\n")
    animation = Image.open("interpolation/interpolation.gif")
    assert animation.n_frames == 6 and animation.size == (224, 224)
    assert occvae("reconstruct", models, "chair.png", "-o", "first.glb") == 0
    assert same_mesh(load("first.glb"), load("interpolation/step-01.glb"))


def test_a_triplane_serves_all_commands(here, models, capsys):
    words = ["--num-samples", "2", "--uncertainty", "--threshold", "0.5", "-o", "chair.ply"]
    files = ["chair.png", "scan.xyz", "--together"]
    assert occvae("reconstruct", models, *files, *words, name="triplane") == 0
    assert "mean deviation of the occupancy 0." in capsys.readouterr().out
    meshes = [load(f"chair-{number}.ply") for number in (1, 2)]
    assert not same_mesh(*meshes) and all(mesh.is_watertight for mesh in meshes)
    words = ["--threshold", "0.5"]
    assert occvae("sample", models, "-n", "2", *words, name="triplane") == 0
    assert load("samples/sample-02.glb").is_watertight
    files = ["chair.png", "scan.xyz", "--steps", "3"]
    assert occvae("interpolate", models, *files, *words, name="triplane") == 0
    assert load("interpolation/step-03.glb").is_watertight


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("reconstruct", ["scan.xyz", "scan.xyz", "--together"], "scan.xyz: an object has one scan"),
        ("reconstruct", ["a.mat", "b.mat", "--together"], "b.mat: an object has one voxel grid"),
        ("reconstruct", ["empty"], "empty: no images, point clouds or voxel grids in this folder"),
        ("reconstruct", ["gone.binvox"], "gone.binvox: no such file"),
        ("reconstruct", ["gone.npy"], "gone.npy: no such file"),
        ("reconstruct", ["gone.png"], "gone.png"),
        ("sample", ["-n", "0"], "the number of shapes must be from 1 to 1000; got 0"),
        ("sample", ["--format", "stp"], "unknown mesh format 'stp'"),
        ("sample", ["--threshold", "2"], "threshold must be a probability"),
        ("interpolate", ["chair.png", "gone.xyz"], "gone.xyz: no such file"),
        ("interpolate", ["chair.png", "side.png", "--steps", "0"], "from 1 to 1000; got 0"),
    ],
)
def test_mistakes_are_one_line(here, models, capsys, command, words, message):
    Path("empty").mkdir()
    assert occvae(command, models, *words) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line
    assert not list(here.rglob("*.glb"))


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("sample", [], "vitocc does not draw new shapes: name a model of occvae"),
        ("interpolate", ["chair.png", "side.png"], "vitocc has no latent to interpolate"),
    ],
)
def test_models_without_a_latent_are_refused(here, models, capsys, command, words, message):
    assert occvae(command, models, *words, name="vitocc") == 2
    assert message in capsys.readouterr().err

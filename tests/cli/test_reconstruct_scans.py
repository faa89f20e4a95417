"""occvae reconstruct with a model of point clouds: scans to meshes in their own coordinates."""

from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from occvae.cli.main import main
from occvae.models import create_model, save_pretrained
from tests.fakes import CENTER, RADIUS, set_octahedron

SCAN = np.random.default_rng(0).uniform((100, 200, 300), (104, 202, 301), (500, 3))


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """Exports of untrained models. That of point clouds always predicts the same octahedron."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("models")
    small = {"encoder_size": 8, "embedding_size": 8, "hidden_size": 16, "num_blocks": 1}
    points = create_model("onet-points", num_points=100, **small).eval()
    set_octahedron(points.decoder)
    save_pretrained(points, root / "points")
    for arch, options in (
        ("onet-voxels", {"encoder_channels": 2, "hidden_size": 16}),
        ("onet-vae", {"encoder_size": 8, "hidden_size": 8}),
        ("vitocc", {"encoder": "levit_128s", "hidden_size": 32}),
    ):
        model = create_model(arch, **options).eval()
        if arch == "onet-voxels":
            set_octahedron(model.decoder)
        save_pretrained(model, root / arch)
    return root


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.savetxt("chair.xyz", SCAN)
    return tmp_path


def reconstruct(models: Path, *words: str, name: str = "points") -> int:
    return main(["reconstruct", *words, "--model", str(models / name), "--resolution", "32"])


def assert_octahedron(path: str, location: np.ndarray, scale: float) -> None:
    mesh = trimesh.load(path, force="mesh")
    assert mesh.is_watertight
    np.testing.assert_allclose(
        mesh.bounds.mean(0), location + scale * np.array(CENTER), atol=0.05 * scale
    )
    np.testing.assert_allclose(np.ptp(mesh.bounds, axis=0), 2 * RADIUS * scale, rtol=0.12)


def test_the_mesh_has_the_coordinates_of_the_scan(here, models, capsys):
    assert reconstruct(models, "chair.xyz") == 0
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("chair.xyz -> chair.glb (")
    assert "watertight), chair.preview.png; 100 of 500 points used; centered at (102, 201" in line
    assert "scaled by 1/3.9" in line and line.endswith("the mesh has the coordinates of the scan")
    assert_octahedron("chair.glb", (SCAN.min(0) + SCAN.max(0)) / 2, 4.0)
    preview = np.asarray(Image.open("chair.preview.png"))
    assert preview.shape[1] == 5 * preview.shape[0]
    cloud = preview[:, : preview.shape[0]]
    assert 0.01 < (cloud < 200).mean() < 0.5


def test_a_box_places_the_object(here, models, capsys):
    box = ["--box", "96", "196", "296", "106", "206", "306"]
    assert reconstruct(models, "chair.xyz", "-o", "a.ply", *box) == 0
    assert "centered at (101, 201, 301) and scaled by 1/10;" in capsys.readouterr().out
    assert_octahedron("a.ply", np.array([101.0, 201.0, 301.0]), 10.0)
    assert (
        reconstruct(models, "chair.xyz", "-o", "b.ply", "--box", *"00000x".replace("x", "1")) == 2
    )
    assert "must be below the upper one" in capsys.readouterr().err


def test_normals_of_the_mesh_stay_directions(here, models):
    assert reconstruct(models, "chair.xyz", "-o", "a.ply", "--normals") == 0
    mesh = trimesh.load("a.ply", process=False)
    normals = np.asarray(mesh.vertex_normals)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1.0, atol=1e-4)
    outward = np.asarray(mesh.vertices) - np.asarray(mesh.bounds).mean(0)
    assert (np.einsum("ij,ij->i", normals, outward) > 0).mean() > 0.95


def test_few_points_and_broken_points_are_said(here, models, capsys):
    points = SCAN[:40].copy()
    points[:3] = np.nan
    np.save("few.npy", points)
    assert reconstruct(models, "few.npy") == 0
    out = capsys.readouterr().out
    assert "3 of 40 points are not finite and left out" in out
    assert "only 37 points, fewer than the 100 in training" in out


def test_a_folder_of_scans_gives_one_mesh_each(here, models, capsys):
    folder = here / "scans"
    folder.mkdir()
    np.save(folder / "a.npy", SCAN)
    np.savetxt(folder / "b.xyz", SCAN[:50])
    np.savez(folder / "c.npz", points=SCAN)
    (folder / "d.xyz").write_text("1 2\n")
    (folder / "notes.txt").touch()
    assert reconstruct(models, "scans", "-o", "meshes") == 2
    err = capsys.readouterr().err.splitlines()
    assert err[0].startswith("error: scans/d.xyz: not lines of at least three numbers")
    assert err[1] == "error: 1 of 4 objects have no mesh: scans/d.xyz"
    assert sorted(path.name for path in Path("meshes").glob("*.glb")) == ["a.glb", "b.glb", "c.glb"]


def test_an_input_is_not_replaced(here, models, capsys):
    content = trimesh.PointCloud(SCAN).export(file_type="ply")
    Path("scan.ply").write_bytes(content)
    for words in (["-o", "scan.ply"], ["--format", "ply"]):
        assert reconstruct(models, "scan.ply", *words) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line == "error: scan.ply: is an input; give the mesh another name with -o"
    assert Path("scan.ply").read_bytes() == content
    assert reconstruct(models, "scan.ply") == 0


def test_a_voxel_grid_becomes_a_mesh(here, models, capsys):
    grid = np.zeros((32, 32, 32), bool)
    grid[8:24, 8:24, 8:24] = True
    Path("grids").mkdir()
    np.save("grids/a.npy", grid)
    assert reconstruct(models, "grids", name="onet-voxels") == 0
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("grids/a.npy -> a.glb (") and line.endswith("a.preview.png")
    assert_octahedron("a.glb", np.zeros(3), 1.0)
    preview = np.asarray(Image.open("a.preview.png"))
    assert (preview[:224, :224].min(axis=2) < 240).any()  # a drawing of the grid


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (np.zeros((16, 16, 16), bool), "observes one voxel grid of 32^3, got 1 x 16 x 16 x 16"),
        (np.zeros((2, 32, 32, 32), bool), "observes one voxel grid of 32^3, got 2 x 32 x 32 x 32"),
        (np.full((32, 32, 32), 2.0), "voxels must be occupancies from 0 to 1"),
        (np.full((32, 32, 32), np.nan), "voxels must be occupancies from 0 to 1"),
        (np.full((32, 32, 32), "x"), "voxels must be numbers, got <U1"),
    ],
)
def test_other_voxels_are_refused(here, models, capsys, grid, message):
    np.save("grid.npy", grid)
    assert reconstruct(models, "grid.npy", name="onet-voxels") == 2
    assert f"error: grid.npy: {'onet-voxels ' * ('observes' in message)}{message}" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("points", ["photo.png"], "photo.png: onet-points observes point clouds (.ply, .xyz"),
        ("points", ["empty"], "empty: no point clouds (.ply, .xyz, .npz, .npy) in this folder"),
        ("points", ["chair.xyz", "--together"], "--together applies to images, but onet-points"),
        ("points", ["--webcam"], "--webcam applies to images, but onet-points observes point"),
        ("points", ["chair.xyz", "--strict"], "background and strict apply to images"),
        ("points", ["chair.xyz", "--background", "keep"], "background and strict apply to images"),
        ("points", ["-"], "-: scans are not read from standard input; save the scan"),
        ("points", ["nowhere.ply"], "nowhere.ply: no such file"),
        ("vitocc", ["chair.xyz"], "chair.xyz: vitocc observes images; for a point cloud, name a"),
        ("vitocc", ["photo.png", "--box", *"000111"], "box applies to point clouds, but vitocc"),
        ("onet-voxels", ["photo.png"], "photo.png: not a voxel file; expected .npz, .npy, .mat"),
        ("onet-voxels", ["empty"], "empty: no voxel grids (.npz, .npy, .mat, .binvox) in this"),
        ("onet-voxels", ["a.npy", "--together"], "--together applies to images, but onet-voxels"),
        ("onet-voxels", ["a.npy", "--strict"], "images, but onet-voxels observes voxel grids"),
        ("onet-vae", ["a.npy"], "onet-vae observes labeled points, which are not read from"),
    ],
)
def test_inputs_that_a_model_does_not_observe_are_refused(
    here, models, capsys, name, words, message
):
    Image.new("RGB", (8, 8)).save("photo.png")
    Path("empty").mkdir()
    assert reconstruct(models, *words, name=name) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line
    assert not list(here.glob("*.glb"))

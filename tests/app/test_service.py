"""What the page computes, without the page."""

import numpy as np
import pytest
import torch
from PIL import Image

from occvae.app.service import MOST_FILES, MeshService, draw_example
from occvae.errors import UserError
from occvae.models import create_model
from occvae.reconstruction.settings import ReconstructionSettings
from tests.app.inputs import cloud, colored, photo
from tests.fakes import CENTER, RADIUS, EllipsoidVae, ball_model, set_octahedron, tiny_voxel_model
from tests.tiny import TINY_OBSERVING_MODELS

KEEP = ReconstructionSettings(resolution=64, background="keep")


def quiet(what: str, share: float) -> None:
    """A report that nobody reads."""


@pytest.fixture
def ball() -> MeshService:
    """A model whose mesh is a ball. Its radius is 0.2 plus the red of the image."""
    return MeshService(ball_model())


@pytest.fixture
def vae() -> MeshService:
    return MeshService(EllipsoidVae())


def radius(outcome, index: int = 0) -> float:
    return float(outcome.shapes[index].mesh.extents.mean() / 2)


def test_an_image_gives_the_mesh_that_the_model_predicts(ball, tmp_path):
    reports = []
    red = colored(tmp_path / "red.png", (51, 0, 0))
    outcome = ball.reconstruct([red], False, KEEP, lambda *report: reports.append(report))
    assert [shape.name for shape in outcome.shapes] == ["red"]
    assert radius(outcome) == pytest.approx(0.2 + 0.2, abs=0.01)
    np.testing.assert_allclose(outcome.shapes[0].mesh.centroid, CENTER, atol=0.01)
    assert outcome.seen.shape == (1, 8, 8, 3)
    assert any("red, round 2" in what for what, _ in reports)
    assert all(0 <= share <= 1 for _, share in reports)


def test_several_images_are_objects_or_views_of_one(ball, tmp_path):
    files = [
        colored(tmp_path / "a.png", (0, 0, 0)),
        colored(tmp_path / "b.png", (51, 0, 0)),
    ]
    apart = ball.reconstruct(files, False, KEEP, quiet)
    assert [shape.name for shape in apart.shapes] == ["a", "b"]
    assert radius(apart, 1) - radius(apart, 0) == pytest.approx(0.2, abs=0.01)
    together = MeshService(EllipsoidVae()).reconstruct(files, True, KEEP, quiet)
    assert [shape.name for shape in together.shapes] == ["a"]
    assert len(together.seen) == 2


def test_images_with_one_name_give_meshes_with_two(ball, tmp_path):
    files = []
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        files.append(colored(tmp_path / folder / "same.png", (20, 0, 0)))
    outcome = ball.reconstruct(files, False, KEEP, quiet)
    assert len({shape.name for shape in outcome.shapes}) == 2


def test_the_cut_out_is_what_the_model_sees(ball, tmp_path):
    image = photo(tmp_path / "photo.jpg")
    seen = ball.cut_out([image])
    assert seen.names == ["photo.jpg"] and seen.warnings == []
    assert "background removed" in seen.notes[0]
    [corner] = {tuple(seen.pixels[0][y, x]) for y in (0, -1) for x in (0, -1)}
    assert corner == (255, 255, 255)
    outcome = ball.reconstruct([image], False, ReconstructionSettings(resolution=64), quiet)
    np.testing.assert_array_equal(outcome.seen[0], seen.pixels[0])


def test_a_background_that_is_not_removed_is_a_warning_with_the_file_name(ball, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    [warning] = ball.cut_out([tmp_path / "noise.png"]).warnings
    assert warning.startswith("noise.png: background not removed")
    assert ball.cut_out([tmp_path / "noise.png"], "keep").warnings == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.png", b"", "empty.png: "),
        ("page.jpg", b"<html><body>not found</body></html>", "page.jpg: "),
        ("cut.jpg", None, "cut.jpg: "),
    ],
)
def test_what_is_not_an_image_is_refused_by_its_name(ball, tmp_path, name, content, message):
    path = tmp_path / name
    if content is None:
        content = photo(tmp_path / "whole.jpg").read_bytes()[:900]
    path.write_bytes(content)
    for call in (
        lambda: ball.cut_out([path]),
        lambda: ball.reconstruct([path], False, KEEP, quiet),
    ):
        with pytest.raises(UserError, match=f"^{message}") as error:
            call()
        assert str(tmp_path) not in str(error.value)


def test_the_number_of_files_is_limited(ball, tmp_path):
    with pytest.raises(UserError, match="no file: drop one first"):
        ball.reconstruct([], False, KEEP, quiet)
    image = colored(tmp_path / "a.png")
    with pytest.raises(UserError, match=f"drop at most {MOST_FILES}"):
        ball.cut_out([image] * (MOST_FILES + 1))


def test_a_prediction_without_a_surface_is_a_sentence(ball, tmp_path):
    settings = ReconstructionSettings(resolution=32, background="keep", threshold=0.99)
    image = colored(tmp_path / "black.png", (0, 0, 0))
    with pytest.raises(UserError, match="no surface; try a lower threshold"):
        ball.reconstruct([image], False, settings, quiet)


def test_work_ends_when_the_report_raises(ball, tmp_path):
    class Stop(Exception):
        pass

    def stop(what: str, share: float) -> None:
        if "round" in what:
            raise Stop

    with pytest.raises(Stop):
        ball.reconstruct([colored(tmp_path / "a.png", (9, 0, 0))], False, KEEP, stop)


def test_hypotheses_are_colored_by_uncertainty(vae, tmp_path):
    settings = ReconstructionSettings(
        resolution=32, background="keep", num_samples=3, uncertainty=True
    )
    outcome = vae.reconstruct([colored(tmp_path / "a.png")], False, settings, quiet)
    assert [shape.name for shape in outcome.shapes] == ["a-1", "a-2", "a-3"]
    colors = outcome.shapes[0].mesh.visual.vertex_colors
    assert len(np.unique(colors, axis=0)) > 3
    assert "mean deviation of the occupancy of a: 0." in outcome.notes[-1]


def test_new_shapes_depend_on_the_seed(vae):
    first, again, other = (vae.sample(2, seed, 32, None, quiet) for seed in (1, 1, 2))
    extents = [[shape.mesh.extents for shape in each.shapes] for each in (first, again, other)]
    np.testing.assert_array_equal(extents[0], extents[1])
    assert not np.allclose(extents[0], extents[2])
    with pytest.raises(UserError, match="from 1 to 16 shapes"):
        vae.sample(17, 0, 32, None, quiet)


def test_walks_move_along_the_main_axes(vae, tmp_path):
    white = colored(tmp_path / "white.png")  # its latent is 0.1 in all components
    still = vae.walk([white], [0, 0, 0], KEEP, quiet).shapes[0].mesh.extents
    np.testing.assert_allclose(still, 2 * 0.4, atol=0.02)
    moved = vae.walk([white], [-2, 0, 0, 9, 9], KEEP, quiet).shapes[0].mesh.extents
    np.testing.assert_allclose(moved - still, [-4 * EllipsoidVae.STDS[0], 0, 0], atol=0.02)
    mean = vae.walk([], [0, 0, 0], KEEP, quiet).shapes[0].mesh.extents
    np.testing.assert_allclose(mean, 2 * EllipsoidVae.SEMI_AXIS, atol=0.02)


def test_interpolation_goes_from_one_image_to_the_other(vae, tmp_path):
    ends = [colored(tmp_path / "black.png", (0, 0, 0))], [colored(tmp_path / "white.png")]
    outcome = vae.interpolate(*ends, 5, KEEP, quiet)
    sizes = [shape.mesh.extents.mean() for shape in outcome.shapes]
    np.testing.assert_allclose(sizes, 2 * np.linspace(0.2, 0.4, 5), atol=0.02)
    with pytest.raises(UserError, match="the second image of the interpolation is missing"):
        vae.interpolate(ends[0], [], 5, KEEP, quiet)
    with pytest.raises(UserError, match="2 to 16 steps"):
        vae.interpolate(*ends, 1, KEEP, quiet)


def test_a_trained_architecture_has_what_the_page_offers(tmp_path):
    service = MeshService(tiny_voxel_model("pix2vox-vae", threshold=0.33))
    assert service.is_variational and service.num_axes == 6
    files = [photo(tmp_path / "a.jpg", size=100)], [photo(tmp_path / "b.jpg", size=120)]
    settings = ReconstructionSettings(resolution=32)
    outcomes = [
        service.sample(2, 0, 32, None, quiet),
        service.walk(files[0], [1.0] * 6, settings, quiet),
        service.interpolate(*files, 2, settings, quiet),
    ]
    assert [len(outcome.shapes) for outcome in outcomes] == [2, 1, 2]
    assert all(shape.mesh.is_watertight for outcome in outcomes for shape in outcome.shapes)


def test_a_model_without_latents_says_so(ball, tmp_path):
    assert not ball.is_variational and ball.num_axes == 0
    with pytest.raises(UserError, match="has no latent space"):
        ball.walk([], [0], KEEP, quiet)
    with pytest.raises(UserError, match="draws no new shapes"):
        ball.sample(1, 0, 32, None, quiet)


def test_models_of_point_clouds_take_scans(tmp_path):
    torch.manual_seed(0)
    options = dict(num_points=64, encoder_size=32, embedding_size=32, hidden_size=32, num_blocks=1)
    assert len(options) == len(TINY_OBSERVING_MODELS["onet-points"])
    model = create_model("onet-points", **options)
    service = MeshService(model)
    assert service.observes_scans
    scan = cloud(tmp_path / "scan.npy")
    assert "64 of 400 points used" in service.cut_out([scan]).notes
    points = torch.rand(1, 64, 3) - 0.5
    threshold = float(model.predict_points(points, points).sigmoid().median())
    settings = ReconstructionSettings(resolution=32, threshold=threshold)
    outcome = service.reconstruct([scan], True, settings, quiet)
    # The box of the points is 4 long and centered at (10, 0, 0).
    center = outcome.shapes[0].mesh.bounds.mean(axis=0)
    assert abs(center[0] - 10) < 2.2 and outcome.shapes[0].unit == "as in the scan"
    image = colored(tmp_path / "image.png")
    with pytest.raises(UserError, match=r"image.png: .* observes point clouds"):
        service.cut_out([image])


def test_models_of_voxels_take_grids(tmp_path):
    torch.manual_seed(0)
    model = create_model("onet-voxels", grid_resolution=16, encoder_channels=4, hidden_size=32)
    set_octahedron(model.decoder)
    service = MeshService(model)
    assert service.observes_grids and not service.observes_images
    grid = np.zeros((16, 16, 16), bool)
    grid[4:12, 4:12, 4:12] = True
    np.save(tmp_path / "grid.npy", grid)
    settings = ReconstructionSettings(resolution=32, threshold=0.5)
    outcome = service.reconstruct([tmp_path / "grid.npy"], False, settings, quiet)
    np.testing.assert_allclose(outcome.shapes[0].mesh.extents, 2 * RADIUS, rtol=0.12)
    assert (service.cut_out([tmp_path / "grid.npy"]).pixels[0].min(axis=2) < 240).any()


def test_a_model_of_other_observations_is_refused():
    options = dict(num_points=128, latent_size=16, hidden_size=32)
    with pytest.raises(UserError, match="labeled points, which are not read from files here"):
        MeshService(create_model("onet-vae", **options))


def test_examples_are_images_of_the_embedded_dataset(tmp_path):
    path = draw_example(tmp_path, seed=3)
    pixels = np.asarray(Image.open(path))
    assert pixels.shape == (384, 384, 3)
    assert 0.02 < (pixels.min(axis=2) < 240).mean() < 0.9


def test_a_model_of_mixtures_takes_an_image_a_scan_and_a_grid_of_one_object(tmp_path):
    torch.manual_seed(0)
    model = create_model(
        "occvae",
        encoder="vit_tiny_patch16_224",
        encoder_options={"depth": 1, "embed_dim": 24, "num_heads": 3},
        image_size=32,
        num_points=64,
        point_encoder_size=32,
        grid_resolution=16,
        grid_encoder_channels=4,
        embedding_size=32,
        latent_size=16,
        hidden_size=32,
        num_blocks=1,
    )
    service = MeshService(model)
    assert service.observes_images and service.observes_scans and service.is_variational
    assert service.observes_grids
    files = [draw_example(tmp_path, 0), cloud(tmp_path / "scan.npy")]
    assert len(service.cut_out(files).pixels) == 2
    center = torch.zeros(1, 1, 3)
    image = torch.ones(1, 1, 3, model.image_size, model.image_size)
    threshold = float(model.predict_points({"images": image}, center).sigmoid()) * 0.999
    settings = ReconstructionSettings(resolution=32, threshold=threshold)
    together = service.reconstruct(files, True, settings, quiet)
    assert len(together.shapes) == 1 and len(together.seen) == 2
    assert len(service.reconstruct(files, False, settings, quiet).shapes) == 2
    grid = np.zeros((16, 16, 16), bool)
    grid[:, 4:12, 4:12] = True
    np.save(tmp_path / "grid.npy", grid)
    all_three = service.reconstruct([*files, tmp_path / "grid.npy"], True, settings, quiet)
    assert len(all_three.seen) == 3 and all_three.shapes[0].unit == "as in the scan"
    assert len(service.sample(2, 0, 32, threshold, quiet).shapes) == 2
    assert service.walk(files, [1.0, -1.0], settings, quiet).shapes[0].mesh.is_watertight

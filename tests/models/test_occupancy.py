"""OccupancyModel with encoders and decoders whose outputs are known."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from occvae.errors import UserError
from occvae.models import decoders, occupancy
from occvae.models.occupancy import OccupancyModel
from tests.builders import random_decoder
from tests.fakes import (
    CENTER,
    RADIUS,
    Ball,
    MeanColor,
    ball_model,
    octahedron_model,
    tiny_model,
)


def make_images(batch: int = 2, views: int = 1, size: int = 8) -> torch.Tensor:
    return torch.rand(batch, views, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("size", [32, 50])
def test_outputs_have_the_documented_shapes(views, size):
    model = tiny_model().eval()
    images, points = make_images(2, views, size), torch.rand(2, 7, 3) - 0.5
    conditioning = model.encode(images)
    assert conditioning.shape == (2, 256)
    logits = model.decode(points, conditioning)
    assert logits.shape == (2, 7)
    assert torch.equal(model(images, points), logits)


def test_several_views_are_averaged():
    model = tiny_model().eval()
    images = make_images(2, 3, 32)
    views = torch.stack([model.encode(images[:, v : v + 1]) for v in range(3)])
    torch.testing.assert_close(model.encode(images), views.mean(dim=0), rtol=1e-4, atol=1e-5)


def test_images_of_other_sizes_are_resized():
    model = ball_model()
    images = make_images(2, 2, 64)
    assert model.encode(images).shape == (2, 3)
    pooled = torch.nn.functional.interpolate(
        images.flatten(0, 1), (8, 8), mode="bilinear", antialias=True
    )
    expected = pooled.mean(dim=(2, 3)).view(2, 2, 3).mean(dim=1)
    torch.testing.assert_close(model.encode(images), expected)
    flat = torch.full((1, 1, 3, 5, 9), 0.25)  # not square
    torch.testing.assert_close(model.encode(flat), torch.full((1, 3), 0.25))


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(3, 8, 8),
        torch.zeros(1, 3, 8, 8),
        torch.zeros(1, 1, 4, 8, 8),
        torch.zeros(1, 1, 8, 8, 3),
        torch.zeros(1, 1, 3, 8, 8, dtype=torch.uint8),
        torch.zeros(1, 0, 3, 8, 8),
        torch.zeros(0, 1, 3, 8, 8),
        torch.zeros(1, 1, 3, 0, 8),
    ],
)
def test_wrong_images_are_refused(images):
    message = rf"images must be floating point \(B, V, 3, H, W\).* got {images.dtype} "
    with pytest.raises(ValueError, match=message):
        ball_model().encode(images)


@pytest.mark.parametrize("shape", [(7, 3), (1, 7, 2), (1, 7, 3), (3, 7, 3)])
def test_wrong_points_are_refused(shape):
    with pytest.raises(ValueError, match=r"points must be \(B, N, 3\) with B = 2, got \("):
        ball_model().decode(torch.zeros(shape), torch.zeros(2, 3))


@pytest.mark.parametrize("threshold", [0.0, 1.0, -1.0, math.nan])
def test_thresholds_are_probabilities(threshold):
    with pytest.raises(UserError, match="threshold must be a probability between 0 and 1"):
        ball_model(threshold)
    with pytest.raises(UserError, match="threshold must be a probability"):
        ball_model().reconstruct(make_images(), 32, threshold)


def test_voxels_are_indexed_x_y_z():
    class Plane(nn.Module):
        def forward(self, points, conditioning):
            return points @ torch.tensor([1.0, 10.0, 100.0])

    model = OccupancyModel(MeanColor(), Plane(), 8, 0.5)
    grid = model.predict_voxels(make_images(), 4)
    assert grid.shape == (2, 4, 4, 4)
    line = (np.arange(4) + 0.5) / 4 - 0.5
    x, y, z = line[:, None, None], line[None, :, None], line[None, None, :]
    expected = 1 / (1 + np.exp(-(x + 10 * y + 100 * z)))
    np.testing.assert_allclose(grid, np.stack([expected] * 2), rtol=1e-4)


def test_voxels_and_points_differ_from_image_to_image():
    model = ball_model(radius=0.0)
    images = torch.stack([torch.full((1, 3, 8, 8), value) for value in (0.1, 0.4)])
    small, large = (grid >= 0.5 for grid in model.predict_voxels(images, 16))
    assert 0 < small.sum() < large.sum()
    points = torch.rand(2, 100, 3) - 0.5
    torch.testing.assert_close(model.predict_points(images, points), model(images, points))


def test_results_do_not_depend_on_the_chunk_size(monkeypatch):
    model = tiny_model().eval()
    points = torch.rand(2, 100, 3) - 0.5
    conditioning = model.encode(make_images(2, 1, 32))
    whole = model.decode(points, conditioning)
    for chunk in (1, 33, 100, 1000):
        part = model._decode_chunked(points, conditioning, chunk)
        torch.testing.assert_close(part, whole, rtol=1e-4, atol=1e-5)
    assert model._decode_chunked(points[:, :0], conditioning).shape == (2, 0)


def test_reconstruct_gives_each_image_its_ball():
    model = ball_model(radius=0.0)
    images = torch.stack([torch.full((1, 3, 8, 8), value) for value in (0.15, 0.3, 0.0)])
    small, large, none = model.reconstruct(images, resolution=64)
    for mesh, radius in ((small, 0.15), (large, 0.3)):
        assert mesh.is_watertight
        distances = np.linalg.norm(mesh.vertices - CENTER, axis=1)
        np.testing.assert_allclose(distances, radius, atol=1.1 / 64 / 2)
        assert mesh.volume == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.05)
    assert len(none.faces) == 0


def test_a_network_that_is_inside_everywhere_gets_no_advice_about_signs():
    model = ball_model(slope=-8.0)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*corners of the bounds")
        [mesh] = model.reconstruct(torch.zeros(1, 1, 3, 8, 8), resolution=32)
    assert mesh.volume > 1.0


@pytest.mark.parametrize("threshold", [None, 0.2, 0.5, 0.8])
def test_the_threshold_moves_the_surface(threshold):
    model = ball_model(threshold=0.3, radius=0.3, slope=20.0)
    model.encoder = MeanColor()
    [mesh] = model.reconstruct(torch.zeros(1, 1, 3, 8, 8), 64, threshold)
    used = 0.3 if threshold is None else threshold
    # sigmoid(20 (r - d)) = t at d = r - logit(t) / 20
    expected = 0.3 - math.log(used / (1 - used)) / 20
    found = np.linalg.norm(mesh.vertices - CENTER, axis=1)
    assert found.mean() == pytest.approx(expected, abs=0.006)


def test_the_surface_of_a_whole_network_is_extracted():
    [mesh] = octahedron_model().reconstruct(make_images(1, 1, 32), 64, threshold=0.5)
    assert mesh.is_watertight
    assert np.abs(mesh.vertices - CENTER).sum(axis=1) == pytest.approx(RADIUS, abs=0.02)
    assert mesh.volume == pytest.approx(4 / 3 * RADIUS**3, rel=0.05)


@pytest.mark.parametrize(
    ("resolution", "message"),
    [(0, "resolution must be at least 1; got 0"), (101, "nearest valid are 100 and 102$")],
)
def test_resolutions_are_checked(resolution, message):
    with pytest.raises(ValueError, match=message):
        ball_model().reconstruct(make_images(), resolution)


@pytest.mark.parametrize(
    ("resolution", "coarse_resolution"), [(8, 8), (16, 16), (100, 25), (128, 32), (192, 24)]
)
def test_the_coarse_resolution_follows_from_the_resolution(
    resolution, coarse_resolution, monkeypatch
):
    monkeypatch.setattr(
        "occvae.geometry.extract_mesh.extract_mesh", lambda field, **options: options
    )
    options = ball_model().reconstruct(make_images(), resolution)
    assert options["resolution"] == resolution
    assert options["coarse_resolution"] == coarse_resolution


@pytest.mark.parametrize(
    "use",
    [
        lambda model, images: model.predict_voxels(images, 2),
        lambda model, images: model.predict_points(images, torch.zeros(2, 4, 3)),
        lambda model, images: model.reconstruct(images, 32),
        lambda model, images: model.predict_voxels(images[0], 2),
    ],
    ids=["voxels", "points", "mesh", "error"],
)
def test_predicting_restores_the_training_mode(use):
    class Watchful(Ball):
        def forward(self, points, conditioning):
            assert not self.training and not torch.is_grad_enabled()
            return super().forward(points, conditioning)

    model = OccupancyModel(MeanColor(), Watchful(), 8, 0.5).train()
    model.encoder.eval()  # frozen by the user
    try:
        use(model, make_images())
    except ValueError:
        pass
    assert model.training and model.decoder.training and not model.encoder.training
    assert torch.is_grad_enabled()


def fused_model() -> OccupancyModel:
    """A network whose decoder has random parameters and statistics."""
    model = tiny_model().eval()
    model.decoder = random_decoder(40, 2, embedding_size=256)
    return model


def test_predictions_through_the_kernels_equal_pytorch(monkeypatch):
    model, images = fused_model(), make_images(3, 1, 32)
    points = torch.rand(3, 200, 3) - 0.5
    packs = []
    pack = model.decoder.pack
    monkeypatch.setattr(model.decoder, "pack", lambda c, *p: packs.append(len(c)) or pack(c, *p))
    monkeypatch.setattr(model, "_decode_chunked", None)  # would fail
    found = model.predict_points(images, points)
    grid = model.predict_voxels(images, 8)
    assert packs == [3, 3]  # one packing per call, for all shapes
    with torch.no_grad():
        conditioning = model.encode(images)
        expected = model.decode(points, conditioning)
        line = (torch.arange(8) + 0.5) / 8 - 0.5
        cells = torch.cartesian_prod(line, line, line).expand(3, -1, -1)
        voxels = model.decode(cells, conditioning).sigmoid().view(3, 8, 8, 8)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grid, voxels, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_predictions_use_the_precision_that_is_set(monkeypatch, precision):
    model, images = fused_model(), make_images(1, 1, 32)
    points, found = torch.rand(1, 50, 3) - 0.5, []
    query = decoders.query_occupancy
    monkeypatch.setattr(
        decoders, "query_occupancy", lambda p, packed: found.append(packed) or query(p, packed)
    )
    exact = model.predict_points(images, points)
    model.precision = precision
    rounded = model.predict_points(images, points)
    model.predict_voxels(images, 2)
    assert [packed.precision for packed in found] == ["fp32", precision, precision]
    assert torch.equal(rounded, exact) == (precision == "fp32")
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.05)
    model.precision = "fp8"
    with pytest.raises(ValueError, match="precision must be one of fp32, fp16, bf16; got 'fp8'"):
        model.reconstruct(images, 32)


def test_meshes_through_the_kernels_equal_those_of_pytorch(monkeypatch):
    model, images = fused_model(), make_images(2, 1, 32)
    with torch.no_grad():  # moves the surface into the cube
        logits = model.predict_points(images, torch.rand(2, 1000, 3) - 0.5)
        model.decoder.linear_out.bias -= logits.median()
    fused = model.reconstruct(images, 64, threshold=0.5)
    monkeypatch.setattr(OccupancyModel, "_pack", lambda self, conditioning: None)
    plain = model.reconstruct(images, 64, threshold=0.5)
    for found, expected in zip(fused, plain, strict=True):
        assert found.is_watertight and len(found.faces) > 100
        assert found.volume == pytest.approx(expected.volume, rel=1e-3)
        assert found.area == pytest.approx(expected.area, rel=1e-3)


def test_a_decoder_without_kernels_warns_once(monkeypatch, recwarn):
    monkeypatch.setattr(occupancy, "_warned", set())
    model = ball_model()
    for _ in range(2):
        model.predict_voxels(make_images(), 2)
    model.reconstruct(make_images(), 32)
    assert [str(w.message) for w in recwarn if "fused" in str(w.message)] == [
        "Ball has no fused kernels: it runs in PyTorch, which is slower"
    ]


def test_training_gives_every_decoder_parameter_a_gradient():
    model, points = fused_model().train(), torch.rand(2, 20, 3) - 0.5
    model(make_images(2, 1, 32), points).square().mean().backward()
    assert all(p.grad is not None for p in model.decoder.parameters())

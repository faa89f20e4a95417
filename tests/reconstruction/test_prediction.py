"""Meshes, hypotheses and uncertainty of predictions, independent of the batch."""

import numpy as np
import pytest
import torch
import trimesh
from scipy.interpolate import RegularGridInterpolator

from occvae.reconstruction import ReconstructionSettings, paint_uncertainty, predict_meshes
from tests.fakes import CENTER, ball_model, tiny_voxel_model

pytestmark = pytest.mark.filterwarnings("ignore:Ball has no fused kernels")


def make_images(*reds: float, views: int = 1, size: int = 8) -> torch.Tensor:
    images = torch.zeros(len(reds), views, 3, size, size)
    images[:, :, 0] = torch.tensor(reds).view(-1, 1, 1, 1)
    return images


def variational_model():
    """A model whose latents affect the volumes, with a surface for most of them."""
    model = tiny_voxel_model("pix2vox-vae").eval()
    with torch.no_grad():
        model.from_latent.weight.mul_(20.0)
        model.to_log_variance.bias.zero_()
        volume = model.predict_voxels(torch.rand(1, 1, 3, 64, 64))
        model.threshold = float(volume.median())
    return model


def views(batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, 1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def same(first: trimesh.Trimesh, second: trimesh.Trimesh) -> bool:
    return np.array_equal(first.vertices, second.vertices) and np.array_equal(
        first.faces, second.faces
    )


def test_each_object_gets_its_own_mesh():
    settings = ReconstructionSettings(resolution=32)
    predictions = predict_meshes(ball_model(), make_images(0.05, 0.2, 0.1), settings)
    for prediction, radius in zip(predictions, (0.25, 0.4, 0.3), strict=True):
        [mesh] = prediction.meshes
        found = np.linalg.norm(mesh.vertices - CENTER, axis=1)
        np.testing.assert_allclose(found, radius, atol=2e-3)
        assert prediction.std is None


def test_refined_vertices_are_on_the_surface():
    model = ball_model(slope=8.0)
    errors = []
    for steps in (0, 4):
        settings = ReconstructionSettings(resolution=16, refine_vertices=steps)
        [[mesh], _] = predict_meshes(model, make_images(0.1), settings)[0]
        errors.append(np.abs(np.linalg.norm(mesh.vertices - CENTER, axis=1) - 0.3).max())
    assert errors[1] < 1e-4 < 0.1 * errors[0]


def test_normals_are_those_of_the_field():
    settings = ReconstructionSettings(resolution=16, normals=True)
    [[mesh], _] = predict_meshes(ball_model(), make_images(0.1), settings)[0]
    outward = mesh.vertices - CENTER
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    np.testing.assert_allclose(mesh.vertex_normals, outward, atol=1e-3)


def test_hypotheses_differ_and_do_not_depend_on_the_batch():
    model, images = variational_model(), views()
    settings = ReconstructionSettings(resolution=32, num_samples=3, seed=5)
    together = predict_meshes(model, images, settings)
    assert [len(prediction.meshes) for prediction in together] == [3, 3]
    first, second, _ = together[1].meshes
    assert not same(first, second)
    [alone] = predict_meshes(model, images[1:], settings)
    torch.manual_seed(99)  # must have no effect
    for a, b in zip(together[1].meshes, alone.meshes, strict=True):
        np.testing.assert_allclose(len(a.vertices), len(b.vertices), rtol=0.02)
        np.testing.assert_allclose(a.bounds, b.bounds, atol=0.01)
    [again] = predict_meshes(model, images[1:], settings)
    assert all(map(same, alone.meshes, again.meshes))
    other = ReconstructionSettings(resolution=32, num_samples=3, seed=6)
    [different] = predict_meshes(model, images[1:], other)
    assert not same(alone.meshes[0], different.meshes[0])


def test_uncertainty_is_painted_and_averaged():
    model, images = variational_model(), views(1)
    settings = ReconstructionSettings(resolution=32, uncertainty=True)
    [prediction] = predict_meshes(model, images, settings)
    [mesh] = prediction.meshes
    [plain] = predict_meshes(model, images, ReconstructionSettings(resolution=32))
    assert same(mesh, plain.meshes[0])
    generator = torch.Generator().manual_seed(0)
    _, stds = model.predict_uncertainty(images, 16, generator=generator)
    expected = paint_uncertainty(plain.meshes[0], stds[0])
    assert prediction.std == pytest.approx(expected.mean()) and expected.max() > 0
    np.testing.assert_array_equal(mesh.visual.vertex_colors, plain.meshes[0].visual.vertex_colors)


def test_colors_follow_the_deviation_at_each_vertex():
    size = 8
    stds = torch.rand(size, size, size, generator=torch.Generator().manual_seed(1)) / 2
    mesh = trimesh.creation.icosphere(subdivisions=2, radius=0.4)
    values = paint_uncertainty(mesh, stds)
    centers = (np.arange(size) + 0.5) / size - 0.5
    oracle = RegularGridInterpolator((centers,) * 3, stds.double().numpy())
    np.testing.assert_allclose(values, oracle(mesh.vertices), atol=1e-5)
    colors = np.asarray(mesh.visual.vertex_colors)
    low, high = values.argmin(), values.argmax()
    assert colors[low, 1] > colors[high, 1] and colors[low, 2] > colors[high, 2]
    flat = trimesh.creation.box((0.2, 0.2, 0.2))
    for value, color in ((0.0, [225, 225, 225]), (0.25, [245, 190, 60]), (0.5, [200, 30, 30])):
        paint_uncertainty(flat, torch.full((4, 4, 4), value))
        assert (np.asarray(flat.visual.vertex_colors)[:, :3] == color).all()


@pytest.mark.parametrize("options", [{"blocks": True}, {"num_samples": 2, "blocks": True}, {}])
def test_predictions_with_nan_are_refused(options):
    model = variational_model()
    model.refiner.to_volume.weight.data.fill_(torch.nan)
    settings = ReconstructionSettings(resolution=32, **options)
    with pytest.raises(ValueError, match="NaN"):
        predict_meshes(model, views(), settings)


def test_meshes_are_processed_as_the_settings_say():
    settings = ReconstructionSettings(resolution=32, largest=True, smooth=3)
    [[mesh], _] = predict_meshes(ball_model(), make_images(0.1), settings)[0]
    [[rough], _] = predict_meshes(
        ball_model(), make_images(0.1), ReconstructionSettings(resolution=32)
    )[0]
    assert len(mesh.faces) == len(rough.faces) and not same(mesh, rough)

"""Models that observe point clouds, voxel grids or labeled points."""

import numpy as np
import pytest
import torch
from torch import Tensor

from occvae.errors import UserError
from occvae.images.io import encode_png
from occvae.models import create_model, load_image, point_encoder
from occvae.models.point_encoder import PointEncoder
from occvae.models.voxel_encoder import VoxelEncoder

pytestmark = pytest.mark.filterwarnings("ignore:SimpleDecoder has no fused kernels")
SMALL = {
    "onet-points": {"encoder_size": 16, "embedding_size": 8, "hidden_size": 32, "num_blocks": 1},
    "onet-voxels": {"encoder_channels": 2, "grid_resolution": 16, "hidden_size": 32},
    "onet-vae": {"encoder_size": 16, "latent_size": 8, "hidden_size": 16, "num_blocks": 2},
}
ARCHS = list(SMALL)
FUSED = ["onet-points", "onet-voxels"]


def small_model(arch: str, **options):
    torch.manual_seed(0)
    model = create_model(arch, **SMALL[arch] | options)
    with torch.no_grad():  # a new model ignores its observation, because some layers start at zero
        for name, value in model.named_parameters():
            if name.endswith(("linear_1.weight", "gamma.weight", "beta.weight")):
                value.normal_(0.0, 0.3)
    return model


def observed(arch: str, batch: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if arch == "onet-voxels":
        return torch.rand(batch, 16, 16, 16, generator=generator) < 0.3
    cloud = torch.rand(batch, 40, 3, generator=generator) - 0.5
    labels = (cloud[..., :1] > 0).float()
    return cloud if arch == "onet-points" else torch.cat([cloud, labels], dim=2)


def queries(batch: int = 3) -> Tensor:
    return torch.rand(batch, 50, 3, generator=torch.Generator().manual_seed(1)) - 0.5


@pytest.mark.parametrize(
    ("arch", "count"),
    [("onet-points", 10_373_889), ("onet-voxels", 7_857_473), ("onet-vae", 298_369)],
)
def test_the_number_of_parameters_is_documented(arch, count):
    with torch.device("meta"):
        model = create_model(arch)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


@pytest.mark.parametrize("arch", ARCHS)
def test_every_parameter_gets_a_gradient(arch):
    model = small_model(arch)
    output = model(observed(arch), queries())
    logits = output.logits if arch == "onet-vae" else output
    loss = logits.square().mean()
    if arch == "onet-vae":
        loss = loss + output.mean.square().mean() + output.log_variance.square().mean()
    loss.backward()
    assert not [name for name, value in model.named_parameters() if value.grad is None]


@pytest.mark.parametrize("arch", ARCHS)
def test_an_item_does_not_depend_on_the_batch(arch):
    model = small_model(arch)
    model(observed(arch), queries())  # sets the running statistics
    together = model.predict_points(observed(arch), queries())
    alone = model.predict_points(observed(arch)[1:2], queries()[1:2])
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-3  # it depends on what is observed


@pytest.mark.parametrize("arch", ARCHS)
def test_predictions_agree_with_the_decoder_of_training(arch):
    model = small_model(arch).eval()
    with torch.no_grad():
        expected = model.decode(queries(), model.encode(observed(arch)))
    found = model.predict_points(observed(arch), queries())
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert model.has_fused_decoder == (arch in FUSED)


@pytest.mark.parametrize("arch", ARCHS)
def test_reconstruct_gives_one_closed_mesh_per_observation(arch):
    model = small_model(arch)
    with torch.no_grad():  # moves the surface into the cube
        logits = model.predict_points(observed(arch), queries())
        model.decoder.linear_out.bias -= logits.median()
    meshes = model.reconstruct(observed(arch), 32, threshold=0.5)
    assert len(meshes) == 3 and all(mesh.is_watertight and len(mesh.faces) for mesh in meshes)
    assert model.training  # as before


def with_blocks(encoder: PointEncoder) -> PointEncoder:
    for block in encoder.blocks:
        torch.nn.init.normal_(block.linear_1.weight, std=0.3)
    return encoder


def test_chunks_and_order_of_points_do_not_matter(monkeypatch):
    torch.manual_seed(0)
    encoder, points = with_blocks(PointEncoder(6, 8)), torch.rand(2, 101, 3) - 0.5
    expected = encoder(points)
    assert (expected[0] - expected[1]).abs().max() > 1e-3
    torch.testing.assert_close(encoder(points.flip(1)), expected)
    torch.testing.assert_close(encoder(points.repeat(1, 2, 1)), expected)
    calls = []
    pool = PointEncoder._pool_chunks
    monkeypatch.setattr(
        PointEncoder,
        "_pool_chunks",
        lambda self, chunks: calls.append(chunks) or pool(self, chunks),
    )
    monkeypatch.setattr(point_encoder, "_CHUNK", 60)
    torch.testing.assert_close(encoder(points), expected)
    assert [len(chunks) for chunks in calls] == [4]  # 60 points over 2 clouds


def test_large_clouds_are_encoded():
    encoder = with_blocks(PointEncoder(4, 4))
    with torch.no_grad():
        assert encoder(torch.rand(1, 200_000, 3)).isfinite().all()


def test_grids_must_be_multiples_of_16():
    with pytest.raises(UserError, match="the grid must be a multiple of 16 wide, got 24"):
        VoxelEncoder(resolution=24)
    grid = observed("onet-voxels")
    assert torch.equal(
        small_model("onet-voxels").encode(grid), small_model("onet-voxels").encode(grid.float())
    )


@pytest.mark.parametrize("arch", ARCHS)
def test_observations_of_another_shape_are_refused(arch):
    with pytest.raises(ValueError, match="must be"):
        small_model(arch).predict_points(torch.zeros(2, 5, 7), torch.zeros(2, 1, 3))


def test_clouds_are_taken_in_many_forms(tmp_path):
    model = small_model("onet-points").eval()
    cloud = observed("onet-points", 1)[0]
    for form in (cloud, cloud.numpy(), cloud.double().numpy(), [cloud], cloud[None]):
        batch = model.to_batch(form)
        assert batch.dtype == torch.float32 and torch.equal(batch, cloud[None])
    np.save(tmp_path / "scan.npy", 20.0 * cloud.numpy() + 7.0)
    found = model.to_batch(tmp_path / "scan.npy")
    assert found.shape == (1, 40, 3) and found.amax() - found.amin() <= 1.0
    fewer = small_model("onet-points", num_points=9).to_batch([str(tmp_path / "scan.npy")])
    assert fewer.shape == (1, 9, 3)
    assert float((found[0].amax(0) - found[0].amin(0)).max()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("clouds", "message"),
    [
        ([], "there are no clouds: the list is empty"),
        (np.zeros((0, 3)), r"must be \(N, 3\) and not empty, got \(0, 3\)"),
        (np.zeros((4, 2)), r"must be \(N, 3\) and not empty, got \(4, 2\)"),
        (np.full((4, 3), np.nan), "not finite"),
        (np.full((4, 3), 3.0), "reaches 3, outside the unit cube .*load_scan centers and scales"),
        ([np.zeros((4, 3)), np.zeros((5, 3))], "the same number of points, got 4 to 5"),
        ("nowhere.ply", "nowhere.ply: no such file"),
    ],
)
def test_clouds_that_cannot_be_used_are_refused(clouds, message):
    with pytest.raises(UserError, match=message):
        small_model("onet-points").reconstruct(clouds)


def test_grids_are_taken_in_many_forms():
    model = small_model("onet-voxels")
    grid = observed("onet-voxels", 1)[0]
    for form in (grid, grid.numpy(), [grid], grid[None]):
        assert torch.equal(model.to_batch(form), grid[None])
    with pytest.raises(UserError, match=r"onet-voxels observes voxel grids of 16\^3, got \(8, 8"):
        model.to_batch(np.zeros((8, 8, 8)))


def test_images_are_refused_by_models_that_see_none():
    white = encode_png(np.full((8, 8, 3), 255, np.uint8))
    with pytest.raises(UserError, match="this model observes no images"):
        load_image(white, small_model("onet-points"))


def test_the_autoencoder_draws_new_shapes():
    model = small_model("onet-vae")
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 0, 1)]
    first, again, other = (model.sample(2, 8, generator) for generator in generators)
    assert first.shape == (2, 8, 8, 8) and torch.equal(first, again)
    assert not torch.equal(first, other) and not torch.equal(first[0], first[1])
    with torch.no_grad():
        model.decoder.linear_out.bias -= first.logit().median()
    meshes = model.sample_meshes(2, 32, 0.5)
    assert len(meshes) == 2 and all(mesh.is_watertight for mesh in meshes)
    with pytest.raises(UserError, match=r"tensor \(B, N, 4\); draw new shapes with model.sample_m"):
        model.reconstruct("chair.ply")


def test_training_draws_latents_and_prediction_uses_their_mean():
    model = small_model("onet-vae")
    labeled, points = observed("onet-vae"), queries()
    first, second = model(labeled, points), model(labeled, points)
    assert torch.equal(first.mean, second.mean) and not torch.equal(first.logits, second.logits)
    assert torch.equal(model.predict_points(labeled, points), model.predict_points(labeled, points))

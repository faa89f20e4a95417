"""Triplane decoders: feature maps to planes, and planes to occupancies."""

import numpy as np
import pytest
import torch

from occvae.errors import UserError
from occvae.models import create_model, from_pretrained, save_pretrained
from occvae.models.triplane import PlaneTransformer, TriplaneDecoder, sample_planes

PLANES = {"size": 8, "channels": 4, "patches": 2, "width": 32, "num_layers": 1, "hidden_size": 16}
HYBRID = {
    "encoder": "vit_tiny_patch16_224",
    "trunk": "resnet10t",
    "encoder_options": {"depth": 1, "embed_dim": 24, "num_heads": 3},
}
ENCODERS = {
    "resnet": ("onet", {"encoder": "resnet18"}),
    "vit": ("vitocc", {"encoder": "vit_tiny_patch16_224", "encoder_options": {"depth": 2}}),
    "fixed": (
        "vitocc",
        {"encoder": "vit_tiny_patch16_224", "encoder_options": {"depth": 2}, "position": "fixed"},
    ),
    "channels-last": ("vitocc", {"encoder": "swin_tiny_patch4_window7_224"}),
    "hybrid": ("vitocc", HYBRID),
}


def model(name="hybrid", image_size=64, **planes):
    torch.manual_seed(0)
    arch, options = ENCODERS[name]
    options = {**options, "image_size": image_size, "plane_options": PLANES | planes}
    return create_model(arch, decoder="triplane", **options)


def inputs(batch=3, views=2):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(batch, views, 3, 70, 60, generator=generator)
    return images, torch.rand(batch, 50, 3, generator=generator) * 1.1 - 0.55


@pytest.mark.parametrize("name", ENCODERS)
def test_every_parameter_gets_a_gradient(name):
    network = model(name)
    network(*inputs()).square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    own = [*network.planes.parameters(), *network.decoder.parameters()]
    assert all(parameter.grad.abs().sum() > 0 for parameter in own)


@pytest.mark.parametrize("name", ENCODERS)
def test_a_prediction_depends_on_its_own_images_only(name):
    network = model(name)
    images, points = inputs()
    together = network.predict_points(images, points)
    alone = network.predict_points(images[1:2], points[1:2])
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together[:1], network.predict_points(images[1:2], points[:1]))


def test_the_order_of_the_views_has_no_effect():
    network = model()
    images, points = inputs(views=3)
    expected = network.predict_points(images, points)
    torch.testing.assert_close(network.predict_points(images.flip(1), points), expected)


def test_both_maps_of_the_encoder_are_used():
    network = model().eval()
    images = torch.rand(1, 1, 3, 64, 64)
    fine, coarse = network.encoder(images[0])
    assert fine.shape == (1, 256, 4, 4) and coarse.shape == (1, 24, 2, 2)
    planes = network.planes([fine[:, None], coarse[:, None]])
    for maps in ([fine + torch.randn_like(fine), coarse], [fine, coarse + torch.randn(24, 1, 1)]):
        assert not torch.allclose(network.planes([each[:, None] for each in maps]), planes)


def test_a_patch_of_a_plane_is_the_output_of_one_query():
    network = PlaneTransformer([5], 6, 2, patches=3, width=32, num_layers=1).eval()
    maps = [torch.rand(1, 1, 5, 2, 2)]
    before = network(maps)
    seen = []
    network.norm.register_forward_hook(lambda *call: seen.append(call[-1]))
    network(maps)
    patch = network.to_patches(seen[0])[0, 9 + 3 * 1 + 2]  # plane 1, row 1, column 2
    torch.testing.assert_close(before[0, 1, 2:4, 4:6], patch.view(2, 2, 2))


def test_the_nodes_of_a_patch_start_equal():
    network = PlaneTransformer([5], 6, 2, patches=3, width=32, num_layers=1).eval()
    planes = network([torch.rand(1, 1, 5, 2, 2)])
    patches = planes.unflatten(2, (3, 2)).unflatten(4, (3, 2))  # (B, plane, row, node, column, ...)
    torch.testing.assert_close(patches, patches[:, :, :, :1, :, :1].expand_as(patches))
    assert not torch.allclose(planes[:, :, 0, 0], planes[:, :, 5, 5])


def test_the_mean_of_the_last_map_scales_and_shifts_the_channels_of_the_planes():
    torch.manual_seed(0)
    network = PlaneTransformer([6, 5], 8, 4, patches=2, width=32, num_layers=1)
    maps = [torch.randn(2, 3, 6, 3, 3), torch.randn(2, 3, 5, 2, 2)]
    with torch.no_grad():
        plain = network(maps)
        network.modulation.weight.normal_()
        network.modulation.bias.normal_()
        factors = network.modulation(maps[1].mean((1, 3, 4))).view(2, 2, 1, 1, 1, 4)
    torch.testing.assert_close(network(maps), plain * (1 + factors[:, 0]) + factors[:, 1])


def test_samples_agree_with_a_bilinear_formula_in_float64():
    generator = np.random.default_rng(0)
    planes, points = (
        generator.normal(size=(2, 3, 5, 5, 4)),
        generator.random((2, 40, 3)) * 1.4 - 0.7,
    )
    found = sample_planes(
        *(torch.from_numpy(a).float() for a in (points.clip(-0.55, 0.55), planes))
    )
    position = (points.clip(-0.55, 0.55) + 0.55) / 1.1 * 4
    low = np.minimum(np.floor(position), 3).astype(int)
    share = position - low
    for shape, row in np.ndindex(2, 40):
        for plane, (a, b) in enumerate(((0, 1), (0, 2), (1, 2))):
            corners = planes[shape, plane][np.ix_(*(low[shape, row, i] + [0, 1] for i in (a, b)))]
            weights = [np.array([1 - share[shape, row, i], share[shape, row, i]]) for i in (a, b)]
            expected = np.einsum("i,j,ijc->c", *weights, corners)
            np.testing.assert_allclose(
                found[shape, row, 4 * plane : 4 * plane + 4], expected, rtol=1e-4, atol=1e-5
            )


def test_points_outside_of_the_cube_have_the_value_of_its_nearest_point():
    decoder = TriplaneDecoder(4, 16, 2)
    planes, points = torch.randn(1, 3, 5, 5, 4), torch.randn(1, 100, 3)
    found = decoder(points, planes)
    torch.testing.assert_close(decoder(points.clamp(-0.55, 0.55), planes), found)


@pytest.mark.parametrize("num_hidden", [1, 2, 4])
def test_a_packed_decoder_has_the_logits_of_pytorch(num_hidden):
    torch.manual_seed(0)
    decoder = TriplaneDecoder(4, 16, num_hidden)
    planes, points = torch.randn(2, 3, 7, 7, 4), torch.rand(2, 500, 3) * 1.3 - 0.65
    with torch.no_grad():
        expected = decoder.double()(points.double(), planes.double())
        packed = decoder.float().pack(planes)
        found = decoder.query(points, packed)
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
        shape_index = torch.arange(2).repeat_interleave(500)
        flat = decoder.query_shapes(points.flatten(0, 1), shape_index, packed)
        assert torch.equal(flat.view(2, 500), found)


def test_meshes_are_watertight():
    network = model(num_layers=2).eval()
    images, points = inputs(batch=2)
    with torch.no_grad():
        network.decoder.linear_out.bias -= network.predict_points(images, points).mean()
    meshes = network.reconstruct(images, 64, threshold=0.5, normals=True)
    for mesh in meshes:
        assert mesh.is_watertight and len(mesh.faces) > 100


def test_a_saved_model_predicts_the_same(tmp_path):
    network = model().eval()
    images, points = inputs()
    save_pretrained(network, tmp_path)
    found = from_pretrained(tmp_path).predict_points(images, points)
    assert torch.equal(found, network.predict_points(images, points))


def test_the_encoder_starts_from_the_built_in_model():
    built_in = from_pretrained()
    options = built_in.options | {"decoder": "triplane", "encoder_weights": "vitocc-small"}
    network = create_model("vitocc", **options)
    loaded = network.encoder.state_dict()
    expected = built_in.encoder.state_dict()
    same = {name for name in loaded if torch.equal(loaded[name], expected.get(name, loaded[name]))}
    assert {name for name in loaded if name not in expected} == {
        "backbone.norm.weight",
        "backbone.norm.bias",
    }
    assert same == set(loaded)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": 3}, "unknown plane_options sizes; choose from size, channels"),
        ({"size": 9}, "planes of 9 nodes cannot be cut into 2 patches"),
    ],
)
def test_errors_name_wrong_plane_options(options, message):
    with pytest.raises(UserError, match=message):
        model(**options)

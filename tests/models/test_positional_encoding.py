"""Fixed positional encodings: their values, where they are added, and what is stored."""

import math

import pytest
import torch
from torch import nn

from occvae.errors import UserError
from occvae.models import create_model
from occvae.models.pretrained import from_pretrained, save_pretrained

FIXED = ["fixed", "fixed-every-layer"]
VIT = {"depth": 3, "embed_dim": 24, "num_heads": 2}
TRUNK = "resnet10t"


def model(position: str, *, image_size: int = 32, trunk: str | None = None, **options):
    torch.manual_seed(0)
    vit = VIT if trunk else {**VIT, "patch_size": 8}
    return create_model(
        "vitocc",
        encoder="vit_tiny_patch16_224",
        trunk=trunk,
        encoder_options={**vit, **options},
        position=position,
        image_size=image_size,
        hidden_size=16,
        num_blocks=1,
    )


def transformer(position: str, **options) -> nn.Module:
    return model(position, **options).encoder.backbone.eval()


def code(row: int, column: int, channels: int) -> list[float]:
    """The encoding of one position, in float64: sines, then cosines, of the row and the column."""
    bands = [10_000.0 ** (-4 * k / channels) for k in range(channels // 4)]
    angles = [position * band for position in (row, column) for band in bands]
    return [*map(math.sin, angles), *map(math.cos, angles)]


@pytest.mark.parametrize("position", FIXED)
@pytest.mark.parametrize(
    ("options", "edge"),
    [
        ({}, 4),
        ({"image_size": 56}, 7),
        ({"image_size": 96, "trunk": TRUNK}, 3),
        ({"no_embed_class": True}, 4),
        ({"reg_tokens": 2}, 4),
    ],
    ids=["vit", "vit-56", "hybrid", "no-embed-class", "registers"],
)
def test_tokens_get_the_sines_and_cosines_of_their_row_and_column(position, options, edge):
    network = transformer(position, **options)
    tokens = torch.zeros(1, edge * edge, 24)
    if network.cls_token is not None:
        nn.init.zeros_(network.cls_token)
    if network.reg_token is not None:
        nn.init.zeros_(network.reg_token)
    found = network._pos_embed(tokens)[0]
    expected = [code(row, column, 24) for row in range(edge) for column in range(edge)]
    expected = torch.tensor([[0.0] * 24] * network.num_prefix_tokens + expected)
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("trunk", [None, TRUNK])
@pytest.mark.parametrize("position", FIXED)
def test_the_encoding_is_neither_trained_nor_stored(tmp_path, position, trunk):
    original = model(position, trunk=trunk)
    names = [name for name, _ in original.named_parameters()] + list(original.state_dict())
    assert not any("pos_embed" in name or "encoding" in name for name in names)
    save_pretrained(original, tmp_path)
    loaded, images = from_pretrained(tmp_path), torch.rand(1, 1, 3, 32, 32)
    assert loaded.options["position"] == position
    with torch.no_grad():
        assert torch.equal(loaded.encode(images), original.eval().encode(images))


def record_attentions(network: nn.Module, images: torch.Tensor):
    """Returns the outputs of the first norm of every block, and the inputs of its attention."""
    normed, entered = [], []
    for name, module in network.named_modules():
        if name.endswith("norm1"):
            module.register_forward_hook(lambda *call: normed.append(call[-1][0]))
        elif name.endswith("qkv"):
            module.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0][0]))
    with torch.no_grad():
        network(images)
    return normed, entered


@pytest.mark.parametrize("options", [{}, {"no_embed_class": True}], ids=["vit", "no-embed-class"])
def test_every_attention_gets_the_encoding_only_with_fixed_every_layer(options):
    images = torch.rand(1, 3, 32, 32)
    expected = torch.tensor([code(row, column, 24) for row in range(4) for column in range(4)])
    for position, added in (("fixed", 0.0), ("fixed-every-layer", 1.0)):
        network = transformer(position, **options)
        normed, entered = record_attentions(network, images)
        assert len(normed) == len(entered) == 3
        for before, after in zip(normed, entered, strict=True):
            torch.testing.assert_close(after[1:] - before[1:], added * expected, rtol=0, atol=1e-5)
            assert torch.equal(after[0], before[0])  # the class token has no position


def test_the_arrangement_of_patches_matters_only_with_an_encoding():
    images = torch.rand(1, 3, 32, 32)
    shifted = images.roll(8, dims=-1)  # by one patch
    pooled = {"class_token": False, "global_pool": "avg"}
    blind = transformer("learned", pos_embed="none", **pooled)
    with torch.no_grad():
        assert (blind(images) - blind(shifted)).abs().max() < 1e-6
        for position in FIXED:
            network = transformer(position, **pooled)
            assert (network(images) - network(shifted)).abs().max() > 2e-5


def test_learned_is_the_default_and_unchanged():
    options = {"encoder_options": {**VIT, "patch_size": 8}, "image_size": 32}
    encoder = create_model("vitocc", encoder="vit_tiny_patch16_224", **options).encoder
    assert isinstance(encoder.backbone.pos_embed, nn.Parameter)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: model("sine"), "unknown position 'sine'; choose from learned, fixed, fixed-every"),
        (lambda: model("sine", trunk=TRUNK), "unknown position 'sine'; choose from learned"),
        (
            lambda: create_model("vitocc", encoder="levit_128s", position="fixed"),
            "'levit_128s' has no learned positional encoding to replace; choose position=learned",
        ),
        (lambda: model("fixed", pos_embed="none"), "has no learned positional encoding to replace"),
        (lambda: model("fixed", embed_dim=6), "has 6 channels, .* a multiple of 4; change embed_d"),
        (
            lambda: model("fixed-every-layer", patch_drop_rate=0.5),
            "cannot add positions at every layer, because it drops patches .*position=fixed",
        ),
    ],
)
def test_mistakes_give_one_line(make, message):
    with pytest.raises(UserError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)

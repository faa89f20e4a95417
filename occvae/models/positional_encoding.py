"""Fixed positional encodings of vision transformers, instead of the learned ones of timm."""

from typing import Any

import torch
from torch import Tensor, nn

from occvae.errors import UserError

POSITIONS = ("learned", "fixed", "fixed-every-layer")


def check_position(position: str) -> None:
    """Raises a UserError unless the position is one of `POSITIONS`."""
    if position not in POSITIONS:
        raise UserError(f"unknown position {position!r}; choose from {', '.join(POSITIONS)}")


def fix_positions(network: nn.Module, position: str, name: str) -> None:
    """Replaces the learned positional encoding of a vision transformer of timm by a fixed one.

    The encoding is that of Vaswani et al. (2017) in two dimensions. Half of the channels encode the
    row and half the column, by sines and cosines of geometrically falling frequencies. Tokens that
    are not positions of the image, such as the class token, get zeros. The encoding is a buffer
    that is not stored: it follows from the size of the image.

    Args:
        network: A vision transformer; changed in place.
        position: `fixed` adds the encoding to the tokens once. `fixed-every-layer` also adds it to
            the input of every attention, as Carion et al. (2020) do with queries and keys.
        name: Name of the network in timm, for messages.

    Raises:
        UserError: The network has no learned encoding that can be replaced.
    """
    from timm.models.vision_transformer import VisionTransformer

    if not isinstance(network, VisionTransformer) or network.pos_embed is None:
        raise UserError(
            f"timm model {name!r} has no learned positional encoding to replace; choose "
            "position=learned, or a plain vision transformer, e.g. vit_small_patch16_224"
        )
    encoding = _encode_grid(network, name)
    del network.pos_embed
    network.register_buffer("pos_embed", encoding, persistent=False)
    if position == "fixed-every-layer":
        if network.no_embed_class:
            encoding = nn.functional.pad(encoding, (0, 0, network.num_prefix_tokens, 0))
        _add_to_attentions(network, encoding, name)


def _encode_grid(network: Any, name: str) -> Tensor:
    """Returns the encoding with the shape of the learned one, (1, tokens, channels)."""
    from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed

    channels = network.embed_dim
    if channels % 4:
        raise UserError(
            f"timm model {name!r} has {channels} channels, but a fixed positional encoding needs a "
            "multiple of 4; change embed_dim of encoder_options"
        )
    grid = build_sincos2d_pos_embed(list(network.patch_embed.grid_size), channels)
    num_others = network.pos_embed.shape[1] - len(grid)
    return torch.cat([grid.new_zeros(num_others, channels), grid])[None]


def _add_to_attentions(network: Any, encoding: Tensor, name: str) -> None:
    from timm.models.vision_transformer import Block, ResPostBlock

    drops_patches = not isinstance(network.patch_drop, nn.Identity)
    if drops_patches or not all(isinstance(b, (Block, ResPostBlock)) for b in network.blocks):
        raise UserError(
            f"timm model {name!r} cannot add positions at every layer, because it drops patches "
            "or has other blocks than a plain vision transformer; choose position=fixed"
        )
    for block in network.blocks:
        block.attn = _PositionedAttention(block.attn, encoding)


class _PositionedAttention(nn.Module):
    """Adds a positional encoding (1, N, C) to the tokens (M, N, C) that enter an attention."""

    encoding: Tensor

    def __init__(self, attention: nn.Module, encoding: Tensor):
        super().__init__()
        self.attention = attention
        self.register_buffer("encoding", encoding, persistent=False)

    def forward(self, tokens: Tensor, **masks: Any) -> Tensor:
        return self.attention(tokens + self.encoding, **masks)

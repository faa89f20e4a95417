"""Activation checkpointing: blocks forget their activations and compute them again for backward.

Chen et al. 2016, "Training deep nets with sublinear memory cost". A third more arithmetic for a
fraction of the memory; losses and gradients are the same.
"""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

Context = AbstractContextManager[None]


def checkpoint_activations(model: nn.Module) -> int:
    """Makes every block of a model do so; returns how many there are.

    Blocks are the elements of sequences that consist of composite modules only: of a transformer's
    or a ResNet's blocks, of the decoders' and the mergers' layers. The plain layers of VGG are not
    taken apart: each alone would keep its input and so save nothing.
    """
    blocks = list(_blocks(model))
    for block in blocks:
        norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
        block.forward = functools.partial(
            checkpoint,
            block.forward,
            use_reentrant=False,
            context_fn=functools.partial(_contexts, norms),
        )
    return len(blocks)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    children = list(module.children())
    is_sequence = isinstance(module, (nn.Sequential, nn.ModuleList))
    if is_sequence and children and all(any(child.children()) for child in children):
        yield from children
    else:
        for child in children:
            yield from _blocks(child)


def _contexts(norms: Sequence[nn.Module]) -> tuple[Context, Context]:
    """Of the computation and of its repetition."""
    return contextlib.nullcontext(), _with_copied_statistics(norms)


@contextlib.contextmanager
def _with_copied_statistics(norms: Sequence[nn.Module]) -> Iterator[None]:
    """A batch counts once in the running statistics, however often it is normalized.

    Not by leaving them out: what is saved for backward must be the same as the first time.
    """
    kept = [(norm, dict(norm.named_buffers(recurse=False))) for norm in norms]
    for norm, buffers in kept:
        for name, buffer in buffers.items():
            setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, buffers in kept:
            for name, buffer in buffers.items():
                setattr(norm, name, buffer)

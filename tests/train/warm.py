"""Imports of the fork server of ranks.py, so that forked ranks need not repeat them."""

import gc
import importlib

import deepspeed
import PIL.Image
import torch

for module in (
    "occvae.cli.main",
    "occvae.evaluation",
    "occvae.train.main",
    "occvae.train.trainer",
    "scipy.ndimage",
    "tests.train.engine_ranks",
    "tests.train.ranks",
    "timm",
    "torch.utils.tensorboard",
    "trimesh",
):
    importlib.import_module(module)
PIL.Image.init()
if not torch.cuda.is_available():  # these imports may start CUDA, which a forked process cannot use
    # DeepSpeed imports Muon for ZeRO, and Muon imports torch's compiler.
    importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    deepspeed.ops.__compatible_ops__  # noqa: B018  runs compilers on the first access
gc.freeze()  # a collection in a rank would copy the memory that it shares with the server

"""Networks: image encoders, occupancy decoders, and the architectures made of them.

A new architecture is one file: a model of `protocol.py`, a function under `register_model` that
builds it, and its presets if the general ones do not suit it. A line below imports the file.
tests/models/test_new_architecture.py shows one from training to a mesh.
"""

from occvae.models import occupancy as occupancy  # registers the architectures
from occvae.models import pix2vox as pix2vox
from occvae.models.pretrained import from_pretrained, save_pretrained
from occvae.models.registry import create_model, list_models

__all__ = ["create_model", "from_pretrained", "list_models", "save_pretrained"]

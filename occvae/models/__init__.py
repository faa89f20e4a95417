"""Image encoders, occupancy decoders, and the architectures built from them.

A new architecture is one file: a subclass of a class in `protocol.py`, a builder function decorated
with `register_model`, and presets if the general ones do not suit it. This module imports the file.
docs/contributing/add_an_architecture.md lists the steps.
"""

from occvae.models import image_occupancy as image_occupancy  # registers the architectures
from occvae.models import latent_occupancy as latent_occupancy
from occvae.models import mixture as mixture
from occvae.models import pix2vox as pix2vox
from occvae.models import point_occupancy as point_occupancy
from occvae.models import voxel_occupancy as voxel_occupancy
from occvae.models.inputs import load_image
from occvae.models.pretrained import from_pretrained, list_pretrained, save_pretrained
from occvae.models.publishing import model_card, push_to_hub
from occvae.models.registry import create_model, list_models

__all__ = [
    "create_model",
    "from_pretrained",
    "list_models",
    "list_pretrained",
    "load_image",
    "model_card",
    "push_to_hub",
    "save_pretrained",
]

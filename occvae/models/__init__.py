"""Networks: image encoders, occupancy decoders, and the architectures made of them."""

from occvae.models import occupancy as occupancy  # registers the architectures
from occvae.models import pix2vox as pix2vox
from occvae.models.pretrained import from_pretrained, save_pretrained
from occvae.models.registry import create_model, list_models

__all__ = ["create_model", "from_pretrained", "list_models", "save_pretrained"]

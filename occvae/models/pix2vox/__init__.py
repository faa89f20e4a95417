"""The Pix2Vox family: one or more views to a voxel grid. One member is variational."""

from occvae.models.pix2vox import pix2vox as pix2vox  # registers the architectures
from occvae.models.pix2vox import presets as presets
from occvae.models.pix2vox import vae as vae

__all__ = ["pix2vox", "presets", "vae"]

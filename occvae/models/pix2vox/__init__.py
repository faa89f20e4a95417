"""The Pix2Vox family: one to many views to a voxel grid, with a variational member."""

from occvae.models.pix2vox import pix2vox as pix2vox  # registers the architectures
from occvae.models.pix2vox import presets as presets
from occvae.models.pix2vox import vae as vae

__all__ = ["pix2vox", "presets", "vae"]

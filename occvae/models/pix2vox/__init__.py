"""The Pix2Vox family: one or more views to a voxel grid. Two members are variational."""

from occvae.models.pix2vox import multi_scale_vae as multi_scale_vae
from occvae.models.pix2vox import pix2vox as pix2vox  # registers the architectures
from occvae.models.pix2vox import presets as presets
from occvae.models.pix2vox import vae as vae

__all__ = ["multi_scale_vae", "pix2vox", "presets", "vae"]

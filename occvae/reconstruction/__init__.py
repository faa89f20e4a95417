"""Reconstructs images, scans and voxel grids as mesh files, with a preview beside each mesh."""

from occvae.reconstruction.paths import (
    FORMATS,
    find_grids,
    find_images,
    find_inputs,
    find_scans,
    output_paths,
)
from occvae.reconstruction.pipeline import reconstruct_files
from occvae.reconstruction.prediction import paint_uncertainty, predict_meshes
from occvae.reconstruction.settings import ReconstructionSettings

__all__ = [
    "FORMATS",
    "ReconstructionSettings",
    "find_grids",
    "find_images",
    "find_inputs",
    "find_scans",
    "output_paths",
    "paint_uncertainty",
    "predict_meshes",
    "reconstruct_files",
]

"""Meshes, voxel grids and points: extraction, checks, files, conversion and sampling."""

"""Meshes, voxel grids and points, without networks."""

"""Images of an object into 3D: voxels, or an implicit occupancy field and a watertight mesh."""

import importlib

from occvae.errors import UserError
from occvae.geometry.extract_mesh import ProgressBar, extract_mesh
from occvae.models import create_model, from_pretrained, list_models
from occvae.ops.inside_mesh import inside_mesh
from occvae.ops.marching_cubes import marching_cubes
from occvae.ops.mise import mise
from occvae.ops.query_occupancy import PackedDecoder, query_occupancy, query_shapes
from occvae.ops.sparse_grid import SparseGrid
from occvae.ops.voxel_iou import voxel_iou

__version__ = "0.1.0"
__all__ = [
    "PackedDecoder",
    "ProgressBar",
    "SparseGrid",
    "UserError",
    "create_model",
    "extract_mesh",
    "from_pretrained",
    "inside_mesh",
    "list_models",
    "marching_cubes",
    "mise",
    "query_occupancy",
    "query_shapes",
    "voxel_iou",
]


def __getattr__(name: str):
    """`occvae.metrics` is imported when it is asked for: what it needs, kernels do without."""
    if name == "metrics":
        return importlib.import_module("occvae.metrics")
    raise AttributeError(f"module 'occvae' has no attribute {name!r}")

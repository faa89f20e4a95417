"""Images of an object into 3D: voxels, or an implicit occupancy field and a watertight mesh.

Each public name is imported on first use. A command can therefore start, and configure the threads
of torch, before torch is loaded.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from occvae import metrics as metrics
    from occvae.errors import UserError as UserError
    from occvae.geometry.extract_mesh import ProgressBar as ProgressBar
    from occvae.geometry.extract_mesh import extract_mesh as extract_mesh
    from occvae.models.inputs import load_image as load_image
    from occvae.models.pretrained import from_pretrained as from_pretrained
    from occvae.models.pretrained import list_pretrained as list_pretrained
    from occvae.models.publishing import push_to_hub as push_to_hub
    from occvae.models.registry import create_model as create_model
    from occvae.models.registry import list_models as list_models
    from occvae.ops.inside_mesh import inside_mesh as inside_mesh
    from occvae.ops.marching_cubes import marching_cubes as marching_cubes
    from occvae.ops.mise import mise as mise
    from occvae.ops.query_occupancy import PackedDecoder as PackedDecoder
    from occvae.ops.query_occupancy import query_occupancy as query_occupancy
    from occvae.ops.query_occupancy import query_shapes as query_shapes
    from occvae.ops.query_triplane import PackedTriplane as PackedTriplane
    from occvae.ops.query_triplane import pack_triplane as pack_triplane
    from occvae.ops.query_triplane import query_triplane as query_triplane
    from occvae.ops.query_triplane import query_triplane_shapes as query_triplane_shapes
    from occvae.ops.sparse_grid import SparseGrid as SparseGrid
    from occvae.ops.voxel_iou import voxel_iou as voxel_iou

__version__ = "0.2.0"

# The module that each public name is imported from. Importing occvae.models registers the
# architectures.
_HOMES = {
    "PackedDecoder": "occvae.ops.query_occupancy",
    "PackedTriplane": "occvae.ops.query_triplane",
    "ProgressBar": "occvae.geometry.extract_mesh",
    "SparseGrid": "occvae.ops.sparse_grid",
    "UserError": "occvae.errors",
    "create_model": "occvae.models",
    "extract_mesh": "occvae.geometry.extract_mesh",
    "from_pretrained": "occvae.models",
    "inside_mesh": "occvae.ops.inside_mesh",
    "list_models": "occvae.models",
    "list_pretrained": "occvae.models",
    "load_image": "occvae.models",
    "marching_cubes": "occvae.ops.marching_cubes",
    "mise": "occvae.ops.mise",
    "pack_triplane": "occvae.ops.query_triplane",
    "push_to_hub": "occvae.models",
    "query_occupancy": "occvae.ops.query_occupancy",
    "query_shapes": "occvae.ops.query_occupancy",
    "query_triplane": "occvae.ops.query_triplane",
    "query_triplane_shapes": "occvae.ops.query_triplane",
    "voxel_iou": "occvae.ops.voxel_iou",
}
_PACKAGES = ("metrics",)

__all__ = [*_HOMES, *_PACKAGES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"occvae.{name}")
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'occvae' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

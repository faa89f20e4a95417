"""The fused ops, one module per op: `from occvae.ops.voxel_iou import voxel_iou`.

Nothing is re-exported here, because a function would hide the module of the same name.
"""

"""The fused ops, one file each: `from occvae.ops.voxel_iou import voxel_iou`.

Nothing is re-exported here, for a function of the same name would hide its module.
"""

"""A stand-in for the decoders of vector-set models, which needs no training."""

import numpy as np
import torch
import trimesh
from torch import Tensor, nn
from torch.nn import functional as F


class VectorSetDecoder(nn.Module):
    """Points (B, N, 3) attend to a set of latents (B, M, 6), to signed distances (B, N, 1).

    A latent is a point of a surface and its normal. Its key is chosen so that the weights of the
    attention are softmax(-sharpness * squared distance). The value is the plane through the point.
    The result is positive inside, as logits are.
    """

    def __init__(self, sharpness: float):
        super().__init__()
        self.sharpness = sharpness

    def forward(self, queries: Tensor, latents: Tensor) -> Tensor:
        positions, normals = latents.split(3, dim=-1)
        ones = torch.ones_like(queries[..., :1])
        query = torch.cat([queries, ones], dim=-1)
        key = torch.cat([2 * positions, -(positions**2).sum(-1, keepdim=True)], dim=-1)
        value = torch.cat([-normals, (normals * positions).sum(-1, keepdim=True)], dim=-1)
        plane = F.scaled_dot_product_attention(query, self.sharpness * key, value, scale=1.0)
        return (plane * query).sum(-1, keepdim=True)


def encode(mesh: trimesh.Trimesh, count: int) -> Tensor:
    """Latents (1, M, 6) of a mesh, about `count` of them, evenly on its surface."""
    points, faces = trimesh.sample.sample_surface_even(mesh, count, seed=0)
    latents = np.concatenate([points, mesh.face_normals[faces]], axis=1)
    return torch.from_numpy(latents).float()[None]

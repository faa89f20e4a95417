"""Queries of a vector-set decoder for one mesh: extract_mesh against the dense lattice.

python benchmarks/vector_set_queries.py              # about a minute on 2 cores
python benchmarks/vector_set_queries.py --resolution 96 --coarse-resolution 24

The decoder is the stand-in of tests/vector_set.py with 2,048 latents. Its shapes are sampled from
meshes. The number of queries depends on the shape and the lattice, not on the size of a decoder.
"""

from __future__ import annotations

import argparse

import torch
import trimesh
from torch import Tensor

from timing import environment, header
from occvae.data.procedural import make_shape
from occvae.geometry.extract_mesh import extract_mesh
from tests.vector_set import VectorSetDecoder, encode

BOUND = 1.01  # Hunyuan3D-2 evaluates the cube (-1.01, 1.01)
LATENTS = 2048


def make_meshes() -> dict[str, trimesh.Trimesh]:
    """Meshes that fill the cube (-0.95, 0.95) along their longest side."""
    meshes = {
        "ball": trimesh.creation.icosphere(subdivisions=4),
        "torus": trimesh.creation.torus(0.7, 0.25),
    }
    for category in ("vase", "sofa", "airplane"):
        meshes[category] = trimesh.Trimesh(*make_shape(category, 0).mesh())
    for mesh in meshes.values():
        mesh.apply_translation(-mesh.bounds.mean(axis=0))
        mesh.apply_scale(1.9 / mesh.extents.max())
    return meshes


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options.add_argument("--resolution", type=int, default=384)
    options.add_argument("--coarse-resolution", type=int, default=48)
    args = options.parse_args()
    print(header("vector_set_queries", environment(args.device)))
    dense = (args.resolution + 1) ** 3
    print(f"dense lattice at {args.resolution}: {dense:,} queries")
    print(f"{'shape':<10}{'queries':>12}{'of dense':>10}{'fewer':>8}{'vertices':>10}  watertight")
    for name, mesh in make_meshes().items():
        latents = encode(mesh, LATENTS).to(args.device)
        decoder = VectorSetDecoder(sharpness=20_000)
        queries = 0

        def field(points: Tensor, latents=latents, decoder=decoder) -> Tensor:
            nonlocal queries
            queries += len(points)
            return decoder(points[None], latents)[0]

        (found,) = extract_mesh(
            field,
            bounds=(-BOUND, BOUND),
            resolution=args.resolution,
            coarse_resolution=args.coarse_resolution,
            max_points_per_call=8_000,
            device=torch.device(args.device),
        )
        print(
            f"{name:<10}{queries:>12,}{queries / dense:>10.2%}{dense / queries:>7.0f}x"
            f"{len(found.vertices):>10,}  {found.is_watertight}",
            flush=True,
        )


if __name__ == "__main__":
    main()

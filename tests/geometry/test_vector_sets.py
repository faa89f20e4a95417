"""Tests of extract_mesh() as the volume decoder of a vector-set model, on a stand-in."""

import numpy as np
import pytest
import torch
import trimesh

from occvae.geometry.extract_mesh import extract_mesh
from tests.vector_set import VectorSetDecoder, encode

RING = trimesh.creation.torus(0.6, 0.25)
CUBE = {"bounds": (-1.01, 1.01), "resolution": 64}


class Decoder:
    """The recipe of the guide. Counts queries and calls."""

    def __init__(self, dtype: torch.dtype = torch.float32):
        self.latents = encode(RING, 512).to(dtype)
        self.decoder = VectorSetDecoder(sharpness=2000)
        self.calls: list[int] = []

    def __call__(self, points):
        self.calls.append(len(points))
        return self.decoder(points[None].to(self.latents.dtype), self.latents)[0]


def test_the_mesh_is_that_of_all_queries():
    sparse, dense = Decoder(), Decoder()
    (mesh,) = extract_mesh(sparse, **CUBE, coarse_resolution=16, max_points_per_call=8000)
    (expected,) = extract_mesh(dense, **CUBE, coarse_resolution=64)
    assert sum(dense.calls) == 65**3
    assert sum(sparse.calls) < 0.15 * 65**3 and max(sparse.calls) <= 8000
    assert mesh.is_watertight and mesh.euler_number == 0
    assert len(mesh.faces) == len(expected.faces)
    # Products of matrices may round differently in batches of another size.
    assert mesh.volume == pytest.approx(expected.volume, rel=1e-5)
    assert mesh.volume == pytest.approx(RING.volume, rel=0.02)


def test_a_box_around_the_object_takes_fewer_queries():
    cube, box = Decoder(), Decoder()
    (expected,) = extract_mesh(cube, **CUBE, coarse_resolution=16)
    bounds = ((-1.01, -1.01, -0.505), (1.01, 1.01, 0.505))  # the torus is flat
    (mesh,) = extract_mesh(box, bounds=bounds, resolution=64, coarse_resolution=16)
    assert sum(box.calls) < 0.95 * sum(cube.calls)
    assert mesh.volume == pytest.approx(expected.volume, rel=1e-4)


def test_half_precision_decoders_give_a_closed_mesh():
    (mesh,) = extract_mesh(Decoder(torch.float16), **CUBE, coarse_resolution=16)
    assert mesh.is_watertight and mesh.euler_number == 0
    assert mesh.volume == pytest.approx(RING.volume, rel=0.05)


def test_several_objects_share_calls():
    decoder = VectorSetDecoder(sharpness=2000)
    ball = trimesh.creation.icosphere(radius=0.7)
    latents = [encode(mesh, 512) for mesh in (RING, ball)]

    def field(points, shape_index):
        values = points.new_empty(len(points))
        for shape in range(len(latents)):
            mine = shape_index == shape
            values[mine] = decoder(points[mine][None], latents[shape])[0, :, 0]
        return values

    meshes = extract_mesh(field, **CUBE, coarse_resolution=16, num_shapes=2)
    volumes = [mesh.volume for mesh in meshes]
    np.testing.assert_allclose(volumes, [RING.volume, ball.volume], rtol=0.03)

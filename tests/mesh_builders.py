"""Builds triangle meshes, (vertices float64, faces int64), for tests and benchmarks."""

import itertools

import torch
from torch import Tensor

Mesh = tuple[Tensor, Tensor]


def box(low=(0.0, 0.0, 0.0), high=(1.0, 1.0, 1.0), *, flip: int = 0) -> Mesh:
    """A box of 12 outward faces. Bit f of `flip` chooses the other diagonal for side f."""
    bounds = (low, high)
    vertices = [
        [float(bounds[i][axis]) for axis, i in enumerate(corner)]
        for corner in itertools.product((0, 1), repeat=3)
    ]
    faces = []
    for face in range(6):
        axis, side = divmod(face, 2)
        quad = []
        for u, v in ((0, 0), (1, 0), (1, 1), (0, 1)):
            corner = [0, 0, 0]
            corner[axis], corner[(axis + 1) % 3], corner[(axis + 2) % 3] = side, u, v
            quad.append(corner[0] * 4 + corner[1] * 2 + corner[2])
        if side == 0:
            quad.reverse()
        turn = flip >> face & 1
        quad = quad[turn:] + quad[:turn]
        faces += [[quad[0], quad[1], quad[2]], [quad[0], quad[2], quad[3]]]
    return torch.tensor(vertices, dtype=torch.float64), torch.tensor(faces)


def sphere(subdivisions: int = 3, radius: float = 0.5) -> Mesh:
    """A sphere made from an octahedron by splitting each face into four, `subdivisions` times."""
    vertices = torch.tensor(
        [[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]],
        dtype=torch.float64,
    )
    faces = torch.tensor(
        [[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]]
    )
    for _ in range(subdivisions):
        edges = faces[:, [[0, 1], [1, 2], [2, 0]]].sort(-1).values.reshape(-1, 2)
        edges, place = edges.unique(dim=0, return_inverse=True)
        middles = (len(vertices) + place).view(-1, 3)
        vertices = torch.cat([vertices, vertices[edges].mean(1)])
        vertices = vertices / vertices.norm(dim=1, keepdim=True)
        (a, b, c), (ab, bc, ca) = faces.T, middles.T
        faces = torch.stack([a, ab, ca, b, bc, ab, c, ca, bc, ab, bc, ca], 1).view(-1, 3)
    return vertices * radius, faces


def torus(around: int = 40, across: int = 20, major: float = 0.35, minor: float = 0.12) -> Mesh:
    u = torch.arange(around, dtype=torch.float64) * (2 * torch.pi / around)
    v = torch.arange(across, dtype=torch.float64) * (2 * torch.pi / across)
    u, v = torch.meshgrid(u, v, indexing="ij")
    ring = major + minor * v.cos()
    vertices = torch.stack([ring * u.cos(), ring * u.sin(), minor * v.sin()], -1).view(-1, 3)
    i, j = torch.meshgrid(torch.arange(around), torch.arange(across), indexing="ij")
    a, b = i * across + j, (i + 1) % around * across + j
    c, d = (i + 1) % around * across + (j + 1) % across, i * across + (j + 1) % across
    return vertices, torch.stack([a, b, c, a, c, d], -1).view(-1, 3)


def join(*meshes: Mesh) -> Mesh:
    offsets = itertools.accumulate((len(v) for v, _ in meshes[:-1]), initial=0)
    return (
        torch.cat([v for v, _ in meshes]),
        torch.cat([f + offset for (_, f), offset in zip(meshes, offsets, strict=True)]),
    )


def random_rotation(seed: int) -> Tensor:
    """Returns a random rotation matrix (3, 3) in float64."""
    generator = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    q = q * r.diagonal().sign()
    return q * q.det()


def shuffle(mesh: Mesh, seed: int) -> Mesh:
    """Returns the same surface with vertices, faces and corners of faces in another order."""
    vertices, faces = mesh
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(vertices), generator=generator)
    faces = order.argsort()[faces][torch.randperm(len(faces), generator=generator)]
    turns = torch.rand(faces.shape, generator=generator).argsort(1)
    return vertices[order], faces.gather(1, turns)

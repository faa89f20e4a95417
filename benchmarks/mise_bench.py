"""MISE against evaluating every lattice point: points, rounds and time to triangles.

python benchmarks/mise_bench.py [--field sphere chair] [--resolution 128 256] [--device cuda]

The analytic fields cost next to nothing a point, so the times show bookkeeping; with a network in
their place the time of the field follows the share of points.
"""

import mcubes
import numpy as np
import torch

from timing import environment, header, interleave, parser, table, write_json
from occvae.ops.marching_cubes import marching_cubes
from occvae.ops.mise import Field, mise
from occvae.sparse_grid import DEFAULT_BOUNDS, SparseGrid, lattice_to_world
from tests.fields import gyroid, sphere, thin_chair, torus

FIELDS = {"sphere": sphere(), "torus": torus(), "chair": thin_chair, "gyroid": gyroid}
CHUNK = 262_144


def evaluate_all(field: Field, resolution: int, device: str) -> np.ndarray:
    """The field on every lattice point, (R + 1)^3, in chunks as MISE takes them."""
    axis = torch.arange(resolution + 1, device=device, dtype=torch.int32)
    lattice = torch.cartesian_prod(axis, axis, axis)
    shape_index = torch.zeros(CHUNK, dtype=torch.int64, device=device)
    values = [
        field(lattice_to_world(part, resolution, DEFAULT_BOUNDS), shape_index[: len(part)])
        for part in lattice.split(CHUNK)
    ]
    return torch.cat(values).view([resolution + 1] * 3).cpu().numpy()


def mesh_all(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and faces as the 2019 code makes them: one layer of padding, then PyMCubes."""
    return mcubes.marching_cubes(np.pad(values, 1, constant_values=-1e6), 0.0)


def candidates(field: Field, resolution: int, coarse_resolution: int, device: str) -> dict:
    def refine() -> SparseGrid:
        return mise(
            field,
            resolution=resolution,
            coarse_resolution=coarse_resolution,
            max_points_per_call=CHUNK,
            device=device,
        )

    grid = refine()
    values = evaluate_all(field, resolution, device)
    return {
        "mise + marching_cubes": lambda: marching_cubes(refine()),
        "mise": refine,
        "marching_cubes": lambda: marching_cubes(grid),
        "every point + PyMCubes": lambda: mesh_all(evaluate_all(field, resolution, device)),
        "every point": lambda: evaluate_all(field, resolution, device),
        "PyMCubes": lambda: mesh_all(values),
    }


def measure(name: str, resolution: int, args) -> list[dict]:
    runs = candidates(FIELDS[name], resolution, args.coarse_resolution, args.device)
    grid = runs["mise"]()
    triangles, expected = len(runs["marching_cubes"]()[0][1]), len(runs["PyMCubes"]()[1])
    points, share = len(grid.points), len(grid.points) / (resolution + 1) ** 3
    print(f"\n{name}  {args.coarse_resolution} -> {resolution}  {points:,} points ({share:.1%})")
    print(f"  rounds {' '.join(map(str, grid.rounds))}  triangles {triangles:,} of {expected:,}")
    results = interleave(runs, repeats=args.repeats, device=args.device, warmup=1)
    print(table(results, fastest_of="mise + marching_cubes"), flush=True)
    size = dict(field=name, resolution=resolution, coarse_resolution=args.coarse_resolution)
    size |= dict(points=points, rounds=grid.rounds, triangles=triangles, device=args.device)
    return [dict(candidate=candidate, **size, **row) for candidate, row in results.items()]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--field", nargs="+", choices=FIELDS, default=list(FIELDS))
    options.add_argument("--resolution", nargs="+", type=int, default=[128])
    options.add_argument("--coarse-resolution", type=int, default=32)
    args = options.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    facts = environment(args.device)
    print(header("mise_bench", facts))
    for resolution in args.resolution:
        for name in args.field:
            rows = measure(name, resolution, args)
            if args.json:
                write_json(args.json, "mise", facts, rows)


if __name__ == "__main__":
    main()

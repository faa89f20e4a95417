"""Surface metrics of one shape: sampling points, nearest neighbors both ways, all of `conv_onet`.

python benchmarks/metrics_bench.py [--points 100000] [--case near] [--device cuda] [--json FILE]

Case near is a good prediction. Case apart misses the object, so a tree can prune only little.
"""

import numpy as np
import torch
import trimesh
from scipy.spatial import cKDTree

from timing import environment, header, interleave, parser, table, write_json
from occvae.geometry.nearest_neighbors import nearest_neighbors
from occvae.metrics import Surface, compare_surfaces, protocols, sample_surface

CASES = {"near": (0.44, 0.0), "apart": (0.2, 0.5)}


def sphere(radius: float, center: float) -> trimesh.Trimesh:
    """A sphere of 81,920 faces."""
    mesh = trimesh.creation.icosphere(6, radius=radius)
    mesh.apply_translation([center, 0.0, 0.0])
    return mesh


def scipy_defaults(first: np.ndarray, second: np.ndarray) -> None:
    cKDTree(first).query(second)
    cKDTree(second).query(first)


def candidates(mesh: trimesh.Trimesh, truth: Surface, points: int, device: str) -> dict:
    prediction = sample_surface(mesh.vertices, mesh.faces, points, 1)
    first, second = prediction.points, truth.points

    def whole():
        surface = sample_surface(mesh.vertices, mesh.faces, points, 1)
        return protocols.PROTOCOLS["conv_onet"].surface_metrics(
            compare_surfaces(surface, truth, device)
        )

    return {
        "sample and all metrics": whole,
        "sample": lambda: sample_surface(mesh.vertices, mesh.faces, points, 1),
        "neighbors both ways": lambda: compare_surfaces(prediction, truth, device),
        "SciPy's defaults, one thread": lambda: scipy_defaults(first, second),
    }


def check(queries: np.ndarray, references: np.ndarray, device: str) -> float:
    """Returns the largest difference from brute-force distances in float64, over 500 queries."""
    some = queries[:: max(1, len(queries) // 500)]
    distances, _ = nearest_neighbors(some, references, device)
    least = [np.linalg.norm(references - query, axis=1).min() for query in some]
    worst = float(np.abs(distances - least).max())
    if not worst < 1e-6:
        raise SystemExit(f"distances differ by {worst}: no times")
    return worst


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--points", type=int, default=100_000, help="points per surface")
    options.add_argument("--case", choices=CASES, default="near")
    args = options.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    facts = environment(args.device)
    print(header("metrics_bench", facts))
    print(f"  {args.points} against {args.points} points of two spheres, case {args.case}")

    true_mesh, mesh = sphere(0.45, 0.0), sphere(*CASES[args.case])
    truth = sample_surface(true_mesh.vertices, true_mesh.faces, args.points, 0)
    runs = candidates(mesh, truth, args.points, args.device)
    queries = runs["sample"]().points
    print(f"check  largest difference {check(queries, truth.points, args.device):.1e}")
    results = interleave(runs, repeats=args.repeats, device=args.device)
    print(table(results, unit="sample and all metrics"))
    if args.json:
        size = dict(points=args.points, case=args.case)
        rows = [dict(candidate=name, device=args.device, **size, **results[name]) for name in runs]
        write_json(args.json, "metrics", facts, rows)


if __name__ == "__main__":
    main()

"""Points inside a mesh: crossing parity over a grid of columns against ray casting and others.

python benchmarks/inside_mesh_bench.py [MESH ...] [--points 1000000] [--device cuda] [--json FILE]

Without a mesh file, a sphere of 131,072 faces and a torus of 160,000, turned at random. Each call
starts from vertices, faces and points: the time of making the grid, or the tree, is in it.
"""

import torch

from timing import environment, header, interleave, parser, table, write_json
from occvae import inside_mesh
from tests.mesh_builders import random_rotation, sphere, torus

OURS = "kernel, float32"


def load(path: str):
    """Vertices and faces of a mesh file, scaled to a longest edge of 1 around the origin."""
    import trimesh

    mesh = trimesh.load(path, force="mesh", process=False)
    vertices, faces = torch.tensor(mesh.vertices), torch.tensor(mesh.faces)
    low, high = vertices.aminmax(dim=0)
    return (vertices - (low + high) / 2) / (high - low).max(), faces


def default_meshes() -> dict:
    turn = random_rotation(0)
    shapes = {"sphere": sphere(7), "torus": torus(400, 200)}
    return {name: (vertices @ turn, faces) for name, (vertices, faces) in shapes.items()}


def trimesh_embree(vertices, faces, points):
    """trimesh's contains(), by Embree: rays in float32."""
    import trimesh
    from trimesh.ray.ray_pyembree import RayMeshIntersector

    mesh = trimesh.Trimesh(vertices, faces, process=False)
    return torch.from_numpy(RayMeshIntersector(mesh).contains_points(points))


def libigl(vertices, faces, points):
    """The fast winding number of libigl (Barill et al. 2018)."""
    import igl

    return torch.from_numpy(igl.fast_winding_number(vertices, faces, points) >= 0.5)


def candidates(vertices, faces, points, reference_up_to: int) -> dict:
    narrow = vertices.float(), faces, points.float()
    runs = {OURS: lambda: inside_mesh(*narrow, backend="native")}
    runs["kernel, float64"] = lambda: inside_mesh(vertices, faces, points, backend="native")
    if len(points) <= reference_up_to:
        runs["reference twin"] = lambda: inside_mesh(vertices, faces, points, backend="reference")
    if vertices.device.type == "cpu":
        arrays = vertices.numpy(), faces.numpy(), points.numpy()
        for name, run, module in (
            ("trimesh + Embree", trimesh_embree, "embreex"),
            ("libigl, fast winding number", libigl, "igl"),
        ):
            try:
                __import__(module)
            except ImportError:
                print(f"  {name}: {module} is not installed")
                continue
            runs[name] = lambda run=run: run(*arrays)
    return runs


def check(runs: dict) -> dict[str, int]:
    """Points on which a candidate differs from the kernel on the same float64 input."""
    expected = runs["kernel, float64"]().cpu()
    differ = {name: int((run().cpu() != expected).sum()) for name, run in runs.items()}
    print("check  differ from float64:  " + "  ".join(f"{k} {v}" for k, v in differ.items()))
    if differ.get("reference twin") or differ[OURS] > 1e-4 * len(expected):
        raise SystemExit("the kernel is wrong")
    return differ


def main() -> None:
    options = parser(__doc__)
    options.add_argument("meshes", nargs="*", help="files that trimesh reads")
    options.add_argument("--points", type=int, nargs="+", default=[100_000, 1_000_000])
    options.add_argument("--reference-up-to", type=int, default=100_000, metavar="POINTS")
    args = options.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    facts = environment(args.device)
    print(header("inside_mesh_bench", facts))
    meshes = {path: load(path) for path in args.meshes} or default_meshes()
    for name, mesh in meshes.items():
        for count in args.points:
            generator = torch.Generator().manual_seed(0)
            points = 1.1 * torch.rand(count, 3, generator=generator, dtype=torch.float64) - 0.55
            arguments = [x.to(args.device) for x in (*mesh, points)]
            print(f"{name}: {len(mesh[1])} faces, {count} points")
            runs = candidates(*arguments, args.reference_up_to)
            differ = check(runs)
            results = interleave(runs, repeats=args.repeats, device=args.device, warmup=1)
            print(table(results, unit=OURS))
            rate = count / results[OURS]["median"]
            print(f"{OURS}: {rate / 1e6:.1f} M points/s, the grid included\n")
            if args.json:
                size = dict(mesh=name, faces=len(mesh[1]), points=count, device=args.device)
                rows = [dict(candidate=run, differ=differ[run], **size, **results[run])
                        for run in runs]  # fmt: skip
                write_json(args.json, "inside_mesh", facts, rows)


if __name__ == "__main__":
    main()

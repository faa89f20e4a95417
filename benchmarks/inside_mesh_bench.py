"""Points inside a mesh: crossing parity over a grid of columns, against other libraries.

Winding numbers are timed too, on few points, because the CUDA kernel visits all faces.

python benchmarks/inside_mesh_bench.py [MESH ...] [--points 1000000] [--device cuda] [--json FILE]
python benchmarks/inside_mesh_bench.py --meshes FOLDER [--points 100000]

Without a mesh file the meshes are a sphere of 131,072 faces and a torus of 160,000 faces, rotated
at random. Each call starts from vertices, faces and points, so its time includes building the grid
or the tree.

--meshes surveys a folder instead. For each mesh it prints the flaws of the mesh, the speeds, and
the number of points on which crossing parity differs from winding numbers.
"""

from pathlib import Path

import torch

from timing import environment, header, interleave, parser, table, write_json
from occvae import inside_mesh
from occvae.ops.inside_mesh import winding_number
from tests.mesh_builders import random_rotation, sphere, torus

OURS, WINDING = "kernel, float32", "winding number, float64"


def load(path: str):
    """Reads vertices and faces, and scales them to a longest edge of 1 around the origin."""
    import trimesh

    mesh = trimesh.load(path, force="mesh", process=False)
    vertices, faces = torch.tensor(mesh.vertices), torch.tensor(mesh.faces)
    low, high = vertices.aminmax(dim=0)
    return (vertices - (low + high) / 2) / (high - low).max(), faces


def survey(folder: str, count: int, repeats: int) -> None:
    """Prints verdict, speeds and differing points of each mesh in a folder.

    Exits if parity and winding differ on a mesh for which `occupancy_of_mesh` chose parity.
    """
    from occvae.geometry.mesh_io import mesh_endings, normalize_mesh, read_mesh
    from occvae.geometry.mesh_occupancy import occupancy_of_mesh

    files = [path for path in Path(folder).iterdir() if path.suffix.lower() in mesh_endings()]
    for path in sorted(files):
        mesh = normalize_mesh(*read_mesh(path))
        solid = occupancy_of_mesh(mesh)
        generator = torch.Generator().manual_seed(0)
        points = 1.1 * torch.rand(count, 3, generator=generator, dtype=torch.float64) - 0.55
        runs = candidates(torch.from_numpy(mesh.vertices), torch.from_numpy(mesh.faces), points, 0)
        parity, wound = runs["kernel, float64"]().numpy(), solid.winding(points.numpy()) >= 0.5
        results = interleave(runs, repeats=repeats, device="cpu", warmup=1)
        rates = [f"{run} {count / results[run]['median'] / 1e6:.2f}" for run in results]
        print(f"{path.name}: {len(mesh.faces)} faces; {solid.verdict}")
        print(f"  M points/s: {', '.join(rates)}")
        taken = int((solid.contains(points.numpy()) != wound).sum())
        print(
            f"  differ from |winding number| >= 0.5 on {count} points: crossing parity "
            f"{int((parity != wound).sum())}, {solid.method} (used for this mesh) {taken}"
        )
        if solid.method == "parity" and (parity != wound).any():
            raise SystemExit("parity and winding numbers differ, so one of them is wrong")


def default_meshes() -> dict:
    turn = random_rotation(0)
    shapes = {"sphere": sphere(7), "torus": torus(400, 200)}
    return {name: (vertices @ turn, faces) for name, (vertices, faces) in shapes.items()}


def trimesh_embree(vertices, faces, points):
    """Point test of trimesh with Embree, which casts rays in float32."""
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
        runs["reference implementation"] = lambda: inside_mesh(
            vertices, faces, points, backend="reference"
        )
        runs[WINDING] = lambda: winding_number(vertices, faces, points, backend="native")
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


def check(runs: dict, vertices, faces, points) -> dict[str, int]:
    """Counts the points on which each candidate differs from the CPU's kernel on float64 input."""
    inputs = [part.cpu() for part in (vertices, faces, points)]
    expected = inside_mesh(*inputs, backend="native")

    def found(name: str):
        answers = runs[name]().cpu()
        return answers >= 0.5 if name == WINDING else answers

    differ = {name: int((found(name) != expected).sum()) for name in runs}
    print("check  differ from float64:  " + "  ".join(f"{k} {v}" for k, v in differ.items()))
    exact = ("reference implementation", "kernel, float64", WINDING)
    if any(differ.get(name) for name in exact) or differ[OURS] > 1e-4 * len(expected):
        raise SystemExit("a kernel differs from the CPU or from float64: no times")
    return differ


def main() -> None:
    options = parser(__doc__)
    options.add_argument("meshes", nargs="*", help="files that trimesh reads")
    options.add_argument("--meshes", dest="folder", help="folder of meshes to survey instead")
    options.add_argument("--points", type=int, nargs="+", default=[100_000, 1_000_000])
    options.add_argument("--reference-up-to", type=int, default=100_000, metavar="POINTS")
    args = options.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    facts = environment(args.device)
    print(header("inside_mesh_bench", facts))
    if args.folder:
        return survey(args.folder, args.points[0], args.repeats)
    meshes = {path: load(path) for path in args.meshes} or default_meshes()
    for name, mesh in meshes.items():
        for count in args.points:
            generator = torch.Generator().manual_seed(0)
            points = 1.1 * torch.rand(count, 3, generator=generator, dtype=torch.float64) - 0.55
            arguments = [x.to(args.device) for x in (*mesh, points)]
            print(f"{name}: {len(mesh[1])} faces, {count} points")
            runs = candidates(*arguments, args.reference_up_to)
            differ = check(runs, *arguments)
            results = interleave(runs, repeats=args.repeats, device=args.device, warmup=1)
            print(table(results, unit=OURS))
            rate = count / results[OURS]["median"]
            print(f"{OURS}: {rate / 1e6:.1f} M points/s, including the grid\n")
            if args.json:
                size = dict(mesh=name, faces=len(mesh[1]), points=count, device=args.device)
                rows = [dict(candidate=run, differ=differ[run], **size, **results[run])
                        for run in runs]  # fmt: skip
                write_json(args.json, "inside_mesh", facts, rows)


if __name__ == "__main__":
    main()

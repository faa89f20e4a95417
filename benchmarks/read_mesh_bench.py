"""Reading mesh files: the readers of occvae against trimesh, on ordinary files of each format.

python benchmarks/read_mesh_bench.py [MESH ...] [--faces 131072] [--repeats 9] [--json FILE]

Without mesh files, a sphere is written in each format to a temporary folder. The check compares
the areas that both readers find.
"""

import tempfile
from pathlib import Path

from timing import environment, header, interleave, parser, table, write_json

OURS = "occvae"


def write_files(folder: Path, faces: int) -> list[Path]:
    """Writes a sphere of at least so many faces in each format, and as OBJ in three forms."""
    import numpy as np
    import trimesh

    from tests.mesh_builders import sphere

    levels = next(level for level in range(2, 12) if 8 * 4**level >= faces)
    vertices, corners = (array.numpy() for array in sphere(levels))
    mesh = trimesh.Trimesh(vertices, corners, process=False)
    paths = [folder / f"sphere.{ending}" for ending in ("obj", "off", "ply", "stl", "glb")]
    for path in paths:
        mesh.export(path)
    for name, kind, options in (
        ("ascii.ply", "ply", {"encoding": "ascii"}),
        ("ascii.stl", "stl_ascii", {}),
    ):
        text = mesh.export(file_type=kind, **options)
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        paths.append(folder / name)
    lines = {
        "normals.obj": [f"{a}//{a} {b}//{b} {c}//{c}" for a, b, c in corners + 1],
        "textures.obj": [f"{a}/{a}/{a} {b}/{b}/{b} {c}/{c}/{c}" for a, b, c in corners + 1],
    }
    for name, forms in lines.items():
        content = [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in vertices]
        content += [f"vt {x:.4f} {y:.4f}" for x, y in np.abs(vertices[:, :2])]
        content += [f"vn {x:.4f} {y:.4f} {z:.4f}" for x, y, z in vertices]
        content += [f"f {form}" for form in forms]
        (folder / name).write_text("\n".join(content) + "\n")
        paths.append(folder / name)
    return paths


def trimesh_alone(path: Path):
    """Reads a file with trimesh into vertices and faces."""
    import trimesh

    with path.open("rb") as file:
        scene = trimesh.load_scene(
            file, file_type=path.suffix[1:].lower(), process=False, skip_materials=True
        )
    mesh = scene.to_mesh()
    return mesh.vertices, mesh.faces


def area(vertices, faces) -> float:
    import trimesh

    return float(trimesh.Trimesh(vertices, faces, process=False).area)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("meshes", nargs="*", type=Path, help="files to read instead")
    options.add_argument("--faces", type=int, default=100_000)
    args = options.parse_args()
    from occvae.geometry.mesh_io import read_mesh

    facts = environment("cpu")
    print(header("read_mesh_bench", facts))
    with tempfile.TemporaryDirectory() as folder:
        for path in args.meshes or write_files(Path(folder), args.faces):
            runs = {
                OURS: lambda path=path: read_mesh(path),
                "trimesh": lambda path=path: trimesh_alone(path),
            }
            ours, theirs = area(*runs[OURS]()), area(*runs["trimesh"]())
            if abs(ours - theirs) > 1e-3 * theirs:
                print(f"{path.name}: the areas differ: {ours:.6g}, {theirs:.6g} by trimesh")
            results = interleave(runs, repeats=args.repeats, device="cpu", warmup=1)
            print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")
            print(table(results, unit=OURS))
            if args.json:
                rows = [dict(candidate=run, file=path.name, **results[run]) for run in runs]
                write_json(args.json, "read_mesh", facts, rows)


if __name__ == "__main__":
    main()

"""Writes meshes as other programs expect them: named, with a material and vertex colors.

Meshes are in the unit frame: y is up, z is to the front, and the longest edge of the object is
about 1. Programs that read glTF take this as one meter.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from occvae.geometry.vertex_colors import srgb_to_linear
from occvae.system.atomic_write import write_whole, write_whole_text
from occvae.visualize.rendering import PREDICTION_ALBEDO

if TYPE_CHECKING:
    import trimesh

_MATERIAL, _ROUGHNESS = "surface", 0.7
_UNIT = "longest edge of the object"


def mesh_files(path: Path) -> list[Path]:
    """Returns the files of a mesh: itself, and the material of an .obj file beside it."""
    return [path, path.with_suffix(".mtl")] if path.suffix.lower() == ".obj" else [path]


def write_mesh(path: Path, mesh: trimesh.Trimesh, name: str, unit: str = _UNIT) -> None:
    """Writes a mesh in the format that the suffix names.

    Files of glTF and OBJ have the name and a material. Vertex colors are kept by .glb, .ply and
    .obj files, and vertex normals too.

    Args:
        path: file to write, see `mesh_files`.
        mesh: mesh with y up.
        name: name of the object, any text.
        unit: what the coordinates count.
    """
    name = _clean(name)
    ending = path.suffix.lower()
    if ending == ".glb":
        write_whole(path, _scene(mesh, name, unit).export)
    elif ending == ".obj":
        _, material = mesh_files(path)
        write_whole_text(material, _mtl(mesh))
        write_whole_text(path, _obj(mesh, name, material.name, unit))
    else:
        write_whole(path, mesh.export)


def _scene(mesh: trimesh.Trimesh, name: str, unit: str) -> trimesh.Scene:
    import trimesh
    from trimesh.visual import TextureVisuals
    from trimesh.visual.material import PBRMaterial

    colors = _vertex_colors(mesh)
    base = np.rint(255.0 * np.array([*_base_color(mesh), 1.0])).astype(np.uint8)
    base[:3] = srgb_to_linear(base[:3])  # colors of glTF are linear
    material = PBRMaterial(
        name=_MATERIAL, baseColorFactor=base, metallicFactor=0.0, roughnessFactor=_ROUGHNESS
    )
    copy = mesh.copy(include_cache=True)  # normals, if it has them, are in the cache
    visual: Any = TextureVisuals(material=material)
    if colors is not None:
        linear = np.concatenate([srgb_to_linear(colors[:, :3]), colors[:, 3:]], axis=1)
        visual.vertex_attributes["color"] = linear
    copy.visual = visual
    copy.metadata = {"unit": f"{unit}; y is up"}
    scene = trimesh.Scene()
    scene.add_geometry(copy, node_name=name, geom_name=name)
    return scene


def _obj(mesh: trimesh.Trimesh, name: str, material: str, unit: str) -> str:
    body = mesh.export(file_type="obj", header=None)
    assert isinstance(body, str)
    return f"# unit: {unit}; y is up\nmtllib {material}\no {name}\nusemtl {_MATERIAL}\n{body}\n"


def _clean(name: str) -> str:
    """Returns a name in one line of valid text, because file names may be neither."""
    return " ".join(name.encode("utf-8", "backslashreplace").decode().split()) or "object"


def _mtl(mesh: trimesh.Trimesh) -> str:
    color = " ".join(f"{value:.4f}" for value in _base_color(mesh))
    return f"newmtl {_MATERIAL}\nKd {color}\nKs 0 0 0\nillum 1\n"


def _base_color(mesh: trimesh.Trimesh) -> tuple[float, float, float]:
    """Returns the sRGB color of the material, white where vertices have colors."""
    return PREDICTION_ALBEDO if _vertex_colors(mesh) is None else (1.0, 1.0, 1.0)


def _vertex_colors(mesh: trimesh.Trimesh) -> np.ndarray | None:
    visual: Any = mesh.visual
    return np.asarray(visual.vertex_colors) if visual.kind == "vertex" else None

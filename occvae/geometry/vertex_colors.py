"""Colors of vertices in mesh files. Those of glTF are linear, those of other formats are sRGB."""

from pathlib import Path

import numpy as np

from occvae.geometry.mesh_io import load_scene

_LINEAR = {".glb", ".gltf"}
_COLORED = {".ply", ".obj", *_LINEAR}


def read_vertex_colors(path: Path, vertices: np.ndarray) -> np.ndarray | None:
    """Reads the vertex colors of a mesh file. Textures and colors of materials are not read.

    Args:
        path: a file that `read_mesh` has read.
        vertices: (V, 3), its vertices.

    Returns:
        (V, 3) uint8 sRGB. None if the file has no vertex colors, or not one per vertex.
    """
    ending = path.suffix.lower()
    if ending not in _COLORED:
        return None
    try:
        mesh = load_scene(path).to_mesh()
        found = np.asarray(mesh.visual.vertex_colors) if mesh.visual.kind == "vertex" else None
        positions = np.asarray(mesh.vertices)
    except Exception:  # trimesh's loaders raise anything, and the mesh itself has been read
        return None
    # trimesh may order the vertices otherwise.
    if found is None or positions.shape != vertices.shape:
        return None
    if not np.allclose(positions, vertices, rtol=1e-5, atol=1e-6 * np.ptp(vertices)):
        return None
    colors = found[:, :3].astype(np.uint8)
    return linear_to_srgb(colors) if ending in _LINEAR else colors


def linear_to_srgb(colors: np.ndarray) -> np.ndarray:
    """Encodes linear uint8 colors as sRGB (IEC 61966-2-1)."""
    values = colors / 255.0
    curve = 1.055 * values ** (1 / 2.4) - 0.055
    return np.rint(255.0 * np.where(values <= 0.0031308, 12.92 * values, curve)).astype(np.uint8)


def srgb_to_linear(colors: np.ndarray) -> np.ndarray:
    """Decodes sRGB uint8 colors (IEC 61966-2-1)."""
    values = colors / 255.0
    curve = ((values + 0.055) / 1.055) ** 2.4
    return np.rint(255.0 * np.where(values <= 0.04045, values / 12.92, curve)).astype(np.uint8)

"""Reads glTF 2.0: the triangles of a scene, placed by its nodes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from occvae.errors import UserError
from occvae.geometry.mesh_files.gltf_data import (
    GltfData,
    check_index,
    integers,
    mapping,
    numbers,
    objects_in,
)
from occvae.geometry.mesh_files.polygons import check_range, strip_faces

_DRACO = "KHR_draco_mesh_compression"
_INSTANCING = "EXT_mesh_gpu_instancing"
_READ_EXTENSIONS = {_DRACO, _INSTANCING, "KHR_mesh_quantization"}
# Extensions that can be required but say nothing about the geometry.
_APPEARANCE = re.compile(
    r"KHR_(materials|texture|lights|xmp|animation)_\w+|KHR_xmp|KHR_techniques_webgl"
    r"|EXT_(texture|lights|materials)_\w+|MSFT_(texture|packing)_\w+|VRMC?(_\w+)?"
)
_TRIANGLES, _STRIP, _FAN = 4, 5, 6
# More corners are a mistake of a small file that repeats a mesh, and would fill the memory.
_MOST_CORNERS = 2**30


@dataclass
class _Part:
    """One primitive of a mesh, in its own coordinates.

    Attributes:
        vertices: (V, 3) float64.
        faces: (F, 3) int64.
        joints: (V, J) int64 indices into the joints of a skin, or None.
        weights: (V, J) float64.
    """

    vertices: np.ndarray
    faces: np.ndarray
    joints: np.ndarray | None = None
    weights: np.ndarray | None = None


def read_gltf(data: bytes, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads the meshes of the default scene, as they are at rest, in scene coordinates.

    Default weights of morph targets and the pose of skins are applied. Points and lines are left
    out. A file without a default scene is read as a whole.

    Args:
        data: a .glb or a .gltf file.
        folder: where the buffers of a .gltf file lie.

    Returns:
        Vertices (V, 3) float64 and faces (F, 3) int64.

    Raises:
        UserError: the file is damaged, or it needs an extension that is not read.
    """
    gltf = GltfData(data, folder)
    _check_kind(gltf)
    placements, visible = _place_nodes(gltf)
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    corners = 0
    for node in visible:
        for vertices, faces in _read_node(gltf, node, placements):
            parts.append((vertices, faces))
            corners += len(vertices) + faces.size
            if corners > _MOST_CORNERS:
                raise UserError("the scene is too large: it repeats its meshes too often")
    return _join(parts)


def _check_kind(gltf: GltfData) -> None:
    version = mapping(gltf.root, "asset").get("version", "2.0")
    if not isinstance(version, str) or not version.startswith("2"):
        raise UserError(f"glTF {ascii(version)[:10]} is not read; convert it to glTF 2.0")
    for name in integers(gltf.root, "extensionsRequired"):
        if not isinstance(name, str):
            raise UserError("extensionsRequired is not a list of names")
        if name not in _READ_EXTENSIONS and not _APPEARANCE.fullmatch(name):
            raise UserError(
                f"the file needs the extension {ascii(name[:60])}, which is not read; "
                "export the mesh without it"
            )


def _join(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    counts = np.array([len(vertices) for vertices, _ in parts], np.int64)
    offsets = np.cumsum(counts) - counts
    faces = [faces + offset for (_, faces), offset in zip(parts, offsets, strict=True)]
    vertices = [vertices for vertices, _ in parts]
    none = np.empty((0, 3))
    return np.concatenate([none, *vertices]), np.concatenate([none.astype(np.int64), *faces])


def _place_nodes(gltf: GltfData) -> tuple[dict[int, np.ndarray], list[int]]:
    """Returns the placement (4, 4) of each node in the scene, and the nodes that are visible."""
    nodes = gltf.objects("nodes")
    parents: dict[int, int] = {}
    for number, node in enumerate(nodes):
        for child in integers(node, "children"):
            if check_index(child, len(nodes), "nodes") in parents:
                raise UserError(f"node {child} has two parents")
            parents[child] = number
    roots = [number for number in range(len(nodes)) if number not in parents]
    placements: dict[int, np.ndarray] = {}
    _descend(nodes, roots, placements)
    if len(placements) < len(nodes):
        raise UserError("a node is below itself")
    shown = _scene_roots(gltf, roots, parents)
    if not nodes:  # a library of meshes
        placements = {-1 - number: np.eye(4) for number in range(len(gltf.objects("meshes")))}
        return placements, list(placements)
    below: dict[int, np.ndarray] = {}
    return placements, _descend(nodes, shown, below)


def _descend(
    nodes: list[dict[str, Any]], roots: list[int], placements: dict[int, np.ndarray]
) -> list[int]:
    """Places the nodes below the roots, and returns them."""
    pending = [(root, np.eye(4)) for root in reversed(roots)]
    order = []
    while pending:
        number, above = pending.pop()
        placements[number] = above @ _local_placement(nodes[number], number)
        order.append(number)
        children = integers(nodes[number], "children")
        pending += [(child, placements[number]) for child in reversed(children)]
    return order


def _scene_roots(gltf: GltfData, roots: list[int], parents: dict[int, int]) -> list[int]:
    scenes = gltf.objects("scenes")
    if "scene" in gltf.root:
        scenes = [gltf.object("scenes", gltf.root["scene"])]
    elif not scenes:
        return roots
    count = len(gltf.objects("nodes"))
    chosen: list[int] = []
    for scene in scenes:
        chosen += [check_index(node, count, "nodes") for node in integers(scene, "nodes")]
    chosen = list(dict.fromkeys(chosen))
    for node in chosen:
        if node in parents:
            raise UserError(f"node {node} is both a root of a scene and a child of another node")
    return chosen


def _local_placement(node: dict[str, Any], number: int) -> np.ndarray:
    what = f"node {number}"
    if "matrix" in node:
        return numbers(node["matrix"], 16, f"the matrix of {what}").reshape(4, 4).T
    move = numbers(node.get("translation", [0, 0, 0]), 3, f"the translation of {what}")
    turn = numbers(node.get("rotation", [0, 0, 0, 1]), 4, f"the rotation of {what}")
    scale = numbers(node.get("scale", [1, 1, 1]), 3, f"the scale of {what}")
    return _compose(move[None], turn[None], scale[None])[0]


def _compose(move: np.ndarray, turn: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Matrices (N, 4, 4) that scale, then rotate by quaternions (x, y, z, w), then move."""
    x, y, z, w = (turn / np.linalg.norm(turn, axis=1, keepdims=True)).T
    matrices = np.zeros((len(move), 4, 4))
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    )
    for row, entries in enumerate(rows):
        matrices[:, row, :3] = np.stack(entries, axis=1)
    matrices[:, :3, :3] *= scale[:, None]
    matrices[:, :3, 3] = move
    matrices[:, 3, 3] = 1
    return matrices


def _read_node(
    gltf: GltfData, number: int, placements: dict[int, np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the primitives at a node, placed. Negative numbers are meshes without nodes."""
    node = gltf.objects("nodes")[number] if number >= 0 else {"mesh": -1 - number}
    if "mesh" not in node:
        return
    mesh = gltf.object("meshes", node["mesh"])
    instances = _instances(gltf, node)
    joints = None
    if "skin" in node:
        joints = _joint_matrices(gltf, node["skin"], placements)
    for primitive in objects_in(mesh, "primitives"):
        part = _read_primitive(gltf, primitive, node.get("weights", mesh.get("weights")))
        if part is None:
            continue
        if joints is not None and part.joints is not None:
            yield _skin(part, joints), part.faces
        else:
            yield from _repeat(part, placements[number] @ instances)


def _instances(gltf: GltfData, node: dict[str, Any]) -> np.ndarray:
    """Matrices (N, 4, 4) of the instances at a node, or the identity."""
    extensions = mapping(node, "extensions")
    if _INSTANCING not in extensions:
        return np.eye(4)[None]
    attributes = mapping(mapping(extensions, _INSTANCING), "attributes")
    sizes = {"TRANSLATION": "VEC3", "ROTATION": "VEC4", "SCALE": "VEC3"}
    found = {
        name: gltf.accessor(attributes[name], size).astype(np.float64)
        for name, size in sizes.items()
        if name in attributes
    }
    if len({len(values) for values in found.values()}) != 1:
        raise UserError("the attributes of instances differ in length, or there are none")
    count = len(next(iter(found.values())))
    return _compose(
        found.get("TRANSLATION", np.zeros((count, 3))),
        found.get("ROTATION", np.tile([0.0, 0, 0, 1], (count, 1))),
        found.get("SCALE", np.ones((count, 3))),
    )


def _repeat(part: _Part, placements: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    if len(placements) * (len(part.vertices) + part.faces.size) > _MOST_CORNERS:
        raise UserError("the scene is too large: it repeats its meshes too often")
    for placement in placements:
        mirrored = np.linalg.det(placement[:3, :3]) < 0
        faces = part.faces[:, ::-1] if mirrored else part.faces
        # Unlike a matrix product, einsum starts no threads, which would wait for one another.
        turned = np.einsum("vj,ij->vi", part.vertices, placement[:3, :3])
        yield turned + placement[:3, 3], faces


def _joint_matrices(gltf: GltfData, number: int, placements: dict[int, np.ndarray]) -> np.ndarray:
    """Matrices (J, 4, 4) from the coordinates of a mesh to the scene, one per joint."""
    skin = gltf.object("skins", number)
    nodes = len(gltf.objects("nodes"))
    joints = [check_index(joint, nodes, "nodes") for joint in integers(skin, "joints")]
    if not joints:
        raise UserError(f"skin {number} has no joints")
    matrices = np.stack([placements[joint] for joint in joints])
    if "inverseBindMatrices" in skin:
        inverse = gltf.accessor(skin["inverseBindMatrices"], "MAT4").astype(np.float64)
        if len(inverse) < len(joints):
            raise UserError(f"skin {number} has fewer matrices than joints")
        matrices = matrices @ inverse[: len(joints)].reshape(-1, 4, 4).swapaxes(1, 2)
    return matrices


def _skin(part: _Part, matrices: np.ndarray) -> np.ndarray:
    """Positions of a skinned part. The node that the part is at has no influence on them."""
    assert part.joints is not None and part.weights is not None
    if (part.joints < 0).any() or (part.joints >= len(matrices)).any():
        raise UserError("a vertex refers to a joint that its skin does not have")
    total = part.weights.sum(1, keepdims=True)
    if not (total > 0).all():
        raise UserError("a vertex of a skin has no weights")
    weights = part.weights / total
    positions = np.zeros_like(part.vertices)
    for column in range(part.joints.shape[1]):
        chosen = matrices[part.joints[:, column]]
        moved = np.einsum("vij,vj->vi", chosen[:, :3, :3], part.vertices) + chosen[:, :3, 3]
        positions += weights[:, column : column + 1] * moved
    return positions


def _read_primitive(gltf: GltfData, primitive: dict[str, Any], morph_weights: Any) -> _Part | None:
    """Reads one primitive, or returns None for points, lines and what has no positions."""
    mode = primitive.get("mode", _TRIANGLES)
    if type(mode) is not int or not 0 <= mode <= _FAN:
        raise UserError(f"a primitive has the unknown mode {ascii(mode)[:20]}")
    attributes = mapping(primitive, "attributes")
    if mode < _TRIANGLES or "POSITION" not in attributes:
        return None
    unpacked = _unpack_draco(gltf, primitive)

    def attribute(name: str, size: str) -> np.ndarray:
        if name in unpacked:
            return gltf.normalize(unpacked[name], attributes[name])
        return gltf.accessor(attributes[name], size)

    vertices = attribute("POSITION", "VEC3").astype(np.float64)
    vertices = _morph(gltf, vertices, primitive, morph_weights)
    if "" in unpacked:
        indices = unpacked[""].reshape(-1).astype(np.int64)
    elif "indices" in primitive:
        indices = gltf.accessor(primitive["indices"], "SCALAR")[:, 0].astype(np.int64)
    else:
        indices = np.arange(len(vertices))
    faces = indices.reshape(-1, 3) if "" in unpacked else _assemble(indices, mode)
    check_range(faces, len(vertices))
    part = _Part(vertices, faces)
    sets = [number for number in range(len(attributes)) if f"JOINTS_{number}" in attributes]
    if sets and all(f"WEIGHTS_{number}" in attributes for number in sets):
        part.joints = np.hstack([attribute(f"JOINTS_{n}", "VEC4") for n in sets]).astype(np.int64)
        part.weights = np.hstack([attribute(f"WEIGHTS_{n}", "VEC4") for n in sets]).astype(float)
        if not len(part.joints) == len(part.weights) == len(vertices):
            raise UserError("a primitive has not as many joints and weights as vertices")
    return part


def _assemble(indices: np.ndarray, mode: int) -> np.ndarray:
    """Faces from the indices of triangles, a strip or a fan."""
    if mode == _TRIANGLES:
        if len(indices) % 3:
            raise UserError(f"a primitive has {len(indices)} corners, which are no whole triangles")
        return indices.reshape(-1, 3)
    if mode == _STRIP:
        return strip_faces(indices, np.array([len(indices)]))
    first = np.broadcast_to(indices[:1], max(len(indices) - 2, 0))
    return np.stack([first, indices[1:-1][: len(first)], indices[2:]], axis=1)


def _morph(
    gltf: GltfData, vertices: np.ndarray, primitive: dict[str, Any], weights: Any
) -> np.ndarray:
    """Moves vertices by the morph targets at their default weights."""
    targets = objects_in(primitive, "targets")
    if weights is None or not targets:
        return vertices
    for target, weight in zip(
        targets, numbers(weights, len(targets), "the weights of morph targets"), strict=True
    ):
        if weight and "POSITION" in target:
            offsets = gltf.accessor(target["POSITION"], "VEC3")
            if len(offsets) != len(vertices):
                raise UserError("a morph target has not as many positions as its mesh")
            vertices = vertices + weight * offsets
    return vertices


def _unpack_draco(gltf: GltfData, primitive: dict[str, Any]) -> dict[str, np.ndarray]:
    """Attributes by name, and the corners as "". Empty if the primitive is not compressed."""
    extensions = mapping(primitive, "extensions")
    if _DRACO not in extensions:
        return {}
    packed = mapping(extensions, _DRACO)
    try:
        import DracoPy
    except ImportError:
        if _has_copy(gltf, primitive):
            return {}
        raise UserError("compressed with Draco, which needs DracoPy: pip install DracoPy") from None
    view = packed.get("bufferView")
    data = gltf.view_bytes(check_index(view, len(gltf.objects("bufferViews")), "bufferViews"))
    try:
        decoded = DracoPy.decode(data)
        names = {number: name for name, number in mapping(packed, "attributes").items()}
        found = {
            names[each["unique_id"]]: np.asarray(each["data"])
            for each in decoded.attributes
            if each["unique_id"] in names
        }
        found[""] = np.asarray(decoded.faces).reshape(-1, 3)
    except Exception as error:  # DracoPy raises anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:100]
        raise UserError(f"DracoPy cannot decompress it ({reason})") from None
    if "POSITION" not in found or found["POSITION"].shape[1:] != (3,):
        raise UserError("the Draco data have no positions")
    return found


def _has_copy(gltf: GltfData, primitive: dict[str, Any]) -> bool:
    """Tells whether a compressed primitive is in the file without compression, too."""
    used = [mapping(primitive, "attributes")["POSITION"], primitive.get("indices")]
    return all(
        number is not None and "bufferView" in gltf.object("accessors", number) for number in used
    )

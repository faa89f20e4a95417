"""Tests of glTF files as programs write them."""

import base64
import json
import struct

import numpy as np
import pytest

from occvae.errors import UserError
from occvae.geometry.mesh_files.gltf import read_gltf
from tests.geometry.mesh_files.measures import area, volume
from tests.mesh_file_writers import CUBE, CUBE_QUADS, CUBE_STRIP, CUBE_TRIANGLES, Gltf

INDICES = np.array(CUBE_TRIANGLES).reshape(-1)
QUARTER_TURN = [0, 0, 0.5**0.5, 0.5**0.5]  # around z


def one_cube(**node) -> Gltf:
    gltf = Gltf()
    gltf.node(mesh=gltf.mesh(gltf.cube()), **node)
    return gltf.scene(0)


def read(gltf: Gltf, folder="."):
    return read_gltf(gltf.glb(), folder)


def assert_cubes(mesh, cubes, extent):
    vertices, faces = mesh
    assert len(faces) == 12 * cubes and volume(vertices, faces) == pytest.approx(cubes)
    assert np.ptp(vertices[faces.reshape(-1)], axis=0) == pytest.approx(np.array(extent))


def refuse(gltf: Gltf, message: str):
    with pytest.raises(UserError, match=message):
        read(gltf)


def test_a_cube_is_read(tmp_path):
    assert_cubes(read(one_cube()), 1, [1, 1, 1])


@pytest.mark.parametrize("name", ["a b.bin", "a%20b.bin", "\u00e9.bin", "b#1.bin"])
@pytest.mark.parametrize("quoted", [True, False])
def test_buffers_are_found_by_escaped_and_plain_names(tmp_path, name, quoted):
    from urllib.parse import quote

    gltf = one_cube()
    (tmp_path / name).write_bytes(gltf.data)
    text = gltf.text(quote(name) if quoted else name)
    assert_cubes(read_gltf(text, tmp_path), 1, [1, 1, 1])


def test_buffers_can_be_in_the_file(tmp_path):
    gltf = one_cube()
    data = base64.b64encode(gltf.data).decode()
    for head in ("data:application/octet-stream;base64,", "data:;base64,"):
        assert_cubes(read_gltf(b"\xef\xbb\xbf" + gltf.text(head + data), tmp_path), 1, [1, 1, 1])
    with pytest.raises(UserError, match="damaged base64"):
        read_gltf(gltf.text("data:;base64,A"), tmp_path)


@pytest.mark.parametrize("uri", ["none.bin", "http://localhost/a.bin", "x" * 5000, "a\0b", "."])
def test_a_missing_buffer_is_named(tmp_path, uri):
    with pytest.raises(UserError, match="buffer 0 is in .*, which is not beside the file"):
        read_gltf(one_cube().text(uri), tmp_path)


def test_a_cut_buffer_is_refused(tmp_path):
    gltf = one_cube()
    (tmp_path / "a.bin").write_bytes(gltf.data[:-1])
    with pytest.raises(UserError, match="buffer 0 has 167 of 168 bytes: the file is cut"):
        read_gltf(gltf.text("a.bin"), tmp_path)


def test_every_cut_is_refused():
    data = one_cube().glb()
    for length in range(4, len(data)):
        with pytest.raises(UserError):
            read_gltf(data[:length], ".")


def test_strips_and_fans_are_read():
    gltf = Gltf()
    positions = {"POSITION": gltf.accessor(CUBE)}
    strip = {"attributes": positions, "indices": gltf.accessor(CUBE_STRIP, "u1"), "mode": 5}
    fans = [{"attributes": positions, "indices": gltf.accessor(quad, "u4"), "mode": 6}
            for quad in CUBE_QUADS]  # fmt: skip
    gltf.node(mesh=gltf.mesh(strip))
    gltf.node(mesh=gltf.mesh(*fans), translation=[2, 0, 0], children=[2])
    gltf.node(mesh=0, translation=[2, 0, 0])
    assert_cubes(read(gltf.scene(0, 1)), 3, [5, 1, 1])


def test_strips_and_fans_without_indices_are_read():
    gltf = Gltf()
    strip = gltf.accessor(CUBE[CUBE_STRIP])
    fans = [gltf.accessor(CUBE[quad]) for quad in CUBE_QUADS]
    gltf.node(mesh=gltf.mesh({"attributes": {"POSITION": strip}, "mode": 5}))
    primitives = [{"attributes": {"POSITION": fan}, "mode": 6} for fan in fans]
    gltf.node(mesh=gltf.mesh(*primitives), translation=[2, 0, 0])
    assert_cubes(read(gltf.scene(0, 1)), 2, [3, 1, 1])


def test_points_and_lines_are_left_out():
    gltf = Gltf()
    cube = gltf.cube()
    others = [cube | {"mode": mode} for mode in range(4)]
    gltf.node(mesh=gltf.mesh(*others, cube, {"attributes": {}}))
    assert_cubes(read(gltf.scene(0)), 1, [1, 1, 1])


@pytest.mark.parametrize("base", [True, False])
def test_sparse_positions_are_read(base):
    gltf = Gltf()
    places = np.arange(8) if not base else np.flatnonzero(CUBE[:, 0])
    sparse = {
        "count": len(places),
        "indices": {"bufferView": gltf.view(places, "u2"), "componentType": 5123},
        "values": {"bufferView": gltf.view(CUBE[places] * [3, 1, 1], "f4")},
    }
    view = {"bufferView": gltf.view(CUBE, "f4")} if base else {}
    positions = gltf.bare_accessor(8, "VEC3", sparse=sparse, **view)
    primitive = gltf.cube() | {"attributes": {"POSITION": positions}}
    gltf.node(mesh=gltf.mesh(primitive))
    assert volume(*read(gltf.scene(0))) == pytest.approx(3)


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2"])
@pytest.mark.parametrize("normalized", [True, False])
def test_quantized_positions_are_read(dtype, normalized):
    gltf = Gltf()
    scale = np.iinfo(dtype).max if normalized else 1
    positions = gltf.accessor(CUBE * scale, dtype, row_bytes=8, normalized=normalized)
    gltf.node(mesh=gltf.mesh(gltf.cube() | {"attributes": {"POSITION": positions}}))
    gltf.node(mesh=0, translation=[2, 0, 0])
    gltf.root["extensionsRequired"] = ["KHR_mesh_quantization"]
    assert_cubes(read(gltf.scene(0, 1)), 2, [3, 1, 1])


def test_the_lowest_normalized_integer_is_minus_one():
    gltf = Gltf()
    positions = gltf.accessor([[-128, -127, 127]] * 3, "i1", row_bytes=4, normalized=True)
    gltf.node(mesh=gltf.mesh({"attributes": {"POSITION": positions}}))
    assert read(gltf.scene(0))[0][0].tolist() == [-1, -1, 1]


def test_placements_of_all_kinds_are_applied():
    gltf = one_cube(translation=[0, 2, 0], rotation=QUARTER_TURN, scale=[3, 1, 1], children=[1])
    matrix = np.diag([1.0, 1, -1, 1])
    matrix[:3, 3] = [1, 0, 0]
    gltf.node(mesh=0, matrix=matrix.T.reshape(-1).tolist())
    vertices, faces = read(gltf)
    # The first cube spans 3 along y. The second one is mirrored, and one edge further away.
    assert volume(vertices, faces) == pytest.approx(6)
    low, high = vertices[8:].min(0), vertices[8:].max(0)
    assert low == pytest.approx([-1, 5, -1]) and high == pytest.approx([0, 8, 0])


def test_meshes_at_and_below_cameras_and_empty_nodes_are_read():
    gltf = one_cube(children=[1])
    gltf.node(camera=0, mesh=0, translation=[2, 0, 0], children=[2])
    gltf.node(translation=[2, 0, 0], children=[3])
    gltf.node(mesh=0)
    assert_cubes(read(gltf), 3, [5, 1, 1])


def test_only_the_default_scene_is_read():
    gltf = one_cube()
    gltf.node(mesh=0, translation=[2, 0, 0])
    assert_cubes(read(gltf), 1, [1, 1, 1])
    gltf.root["scenes"] = [{"nodes": [0]}, {"nodes": [0, 1]}]
    gltf.root["scene"] = 1
    assert_cubes(read(gltf), 2, [3, 1, 1])


@pytest.mark.parametrize("scenes", [None, [{"nodes": [0]}, {"nodes": [1]}]])
def test_files_without_a_default_scene_are_read_as_a_whole(scenes):
    gltf = Gltf()
    gltf.node(mesh=gltf.mesh(gltf.cube()), children=[2])
    gltf.node(mesh=0, translation=[2, 0, 0])
    gltf.node(mesh=0, translation=[4, 0, 0])
    gltf.root |= {"scenes": scenes} if scenes else {}
    assert_cubes(read(gltf), 3, [5, 1, 1])


def test_meshes_without_nodes_are_read():
    gltf = Gltf()
    gltf.mesh(gltf.cube())
    assert_cubes(read(gltf), 1, [1, 1, 1])


@pytest.mark.parametrize("dtype", ["f4", "i2"])
def test_instances_are_read(dtype):
    gltf = one_cube(translation=[10, 0, 0])
    scale = 1 if dtype == "f4" else 32767
    turns = gltf.accessor(np.array([[0, 0, 0, 1]] * 2 + [[0, 0, 1, 0]]) * scale, dtype,
                          normalized=dtype != "f4")  # fmt: skip
    attributes = {
        "TRANSLATION": gltf.accessor([[0, 0, 0], [2, 0, 0], [5.0, 1, 0]]),
        "ROTATION": turns,
        "SCALE": gltf.accessor([[1, 1, 1], [1.0, 1, 1], [1, 1, 1]]),
        "_COLOR": 99,
    }
    gltf.root["nodes"][0]["extensions"] = {"EXT_mesh_gpu_instancing": {"attributes": attributes}}
    gltf.root["extensionsRequired"] = ["EXT_mesh_gpu_instancing"]
    assert_cubes(read(gltf), 3, [5, 1, 1])
    attributes["SCALE"] = gltf.accessor([[1.0, 1, 1]])
    refuse(gltf, "the attributes of instances differ in length")


def test_default_weights_of_morph_targets_are_applied():
    gltf = Gltf()
    longer = gltf.accessor(CUBE * [4, 0, 0])
    higher = gltf.accessor(CUBE * [0, 9, 0])
    targets = [{"POSITION": longer}, {"POSITION": higher}, {}]
    mesh = gltf.mesh(gltf.cube(targets=targets), weights=[0.5, 0, 1])
    gltf.node(mesh=mesh)
    assert volume(*read(gltf.scene(0))) == pytest.approx(3)
    gltf.root["nodes"][0]["weights"] = [1, 1, 0]
    assert volume(*read(gltf)) == pytest.approx(50)
    del gltf.root["nodes"][0]["weights"], gltf.root["meshes"][0]["weights"]
    assert volume(*read(gltf)) == pytest.approx(1)
    gltf.root["nodes"][0]["weights"] = [1]
    refuse(gltf, "the weights of morph targets must be 3 numbers")


def skinned(joints, weights, weight_type="f4") -> Gltf:
    """A cube at a scaled node, whose skin has a joint at x = 0 and one moved to x = 5."""
    gltf = Gltf()
    cube = gltf.cube()
    cube["attributes"]["JOINTS_0"] = gltf.accessor(joints, "u1")
    cube["attributes"]["WEIGHTS_0"] = gltf.accessor(weights, weight_type, normalized=True)
    inverse = np.stack([np.eye(4), np.eye(4)])
    inverse[1, 0, 3] = -1  # at rest, the second joint is at x = 1
    matrices = gltf.accessor(inverse.swapaxes(1, 2).reshape(2, 16))
    gltf.root["skins"] = [{"joints": [1, 2], "inverseBindMatrices": matrices}]
    gltf.node(mesh=gltf.mesh(cube), skin=0, scale=[100, 100, 100])
    gltf.node(children=[2])
    gltf.node(translation=[5, 0, 0])
    return gltf.scene(0, 1)


@pytest.mark.parametrize("weight_type, one", [("f4", 1.0), ("u1", 255), ("u2", 65535)])
def test_skins_are_posed(weight_type, one):
    joints = np.zeros((8, 4), int)
    joints[:, 0] = CUBE[:, 0]
    weights = np.zeros((8, 4))
    weights[:, 0] = one
    # Vertices at x = 1 follow the second joint by 4.
    assert volume(*read(skinned(joints, weights, weight_type))) == pytest.approx(5)


def test_weights_of_a_skin_blend():
    weights = np.tile([0.75, 0.25, 0, 0], (8, 1))
    vertices, faces = read(skinned(np.tile([0, 1, 0, 0], (8, 1)), weights))
    assert volume(vertices, faces) == pytest.approx(1) and vertices.min(0).tolist() == [1, 0, 0]


def test_wrong_skins_are_refused():
    ones = np.tile([1.0, 0, 0, 0], (8, 1))
    refuse(skinned(np.full((8, 4), 2), ones), "a joint that its skin does not have")
    refuse(skinned(np.zeros((8, 4), int), 0 * ones), "a vertex of a skin has no weights")
    refuse(skinned(np.zeros((7, 4), int), ones), "not as many joints and weights as vertices")


def test_extensions_that_say_nothing_about_geometry_can_be_required():
    gltf = one_cube()
    gltf.root["extensionsRequired"] = ["KHR_materials_unlit", "KHR_texture_basisu", "VRM",
                                       "EXT_texture_webp", "KHR_lights_punctual"]  # fmt: skip
    assert_cubes(read(gltf), 1, [1, 1, 1])
    gltf.root["extensionsRequired"].append("ACME_geometry")
    refuse(gltf, "the file needs the extension 'ACME_geometry', which is not read")


def test_meshopt_is_refused_unless_there_is_a_copy():
    gltf = one_cube()
    packed = {"buffer": 1, "byteOffset": 0, "byteLength": 1}
    gltf.root["bufferViews"][0]["extensions"] = {"EXT_meshopt_compression": packed}
    assert_cubes(read(gltf), 1, [1, 1, 1])
    gltf.root["bufferViews"][0]["buffer"] = 1
    text = json.loads(gltf.text("data:;base64," + base64.b64encode(gltf.data).decode()))
    text["buffers"].append({"byteLength": 96, "extensions": {"EXT_meshopt_compression": {}}})
    with pytest.raises(UserError, match="compressed with meshopt, which is not read"):
        read_gltf(json.dumps(text).encode(), ".")
    gltf.root["extensionsRequired"] = ["EXT_meshopt_compression"]
    refuse(gltf, "the file needs the extension 'EXT_meshopt_compression'")


def draco_cube(data: bytes) -> Gltf:
    """Two cubes, the second one as Draco data alone."""
    gltf = Gltf()
    view = gltf.view(np.frombuffer(data, np.uint8), "u1")
    packed = {"bufferView": view, "attributes": {"POSITION": 0}}
    primitive = {
        "attributes": {"POSITION": gltf.bare_accessor(8, "VEC3")},
        "indices": gltf.bare_accessor(36, "SCALAR", "u2"),
        "extensions": {"KHR_draco_mesh_compression": packed},
    }
    gltf.node(mesh=gltf.mesh(gltf.cube()))
    gltf.node(mesh=gltf.mesh(primitive), translation=[2, 0, 0])
    gltf.root["extensionsRequired"] = ["KHR_draco_mesh_compression"]
    return gltf.scene(0, 1)


def test_draco_without_its_package_is_refused(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "DracoPy", None)
    refuse(draco_cube(b"DRACO"), "compressed with Draco, which needs DracoPy: pip install DracoPy")
    gltf = Gltf()
    cube = gltf.cube(extensions={"KHR_draco_mesh_compression": {"bufferView": 0}})
    gltf.node(mesh=gltf.mesh(cube))
    assert_cubes(read(gltf.scene(0)), 1, [1, 1, 1])


def test_draco_is_read():
    DracoPy = pytest.importorskip("DracoPy")
    data = DracoPy.encode(CUBE.astype(np.float32), np.array(CUBE_TRIANGLES, np.uint32))
    vertices, faces = read(draco_cube(data))
    assert len(faces) == 24 and volume(vertices, faces) == pytest.approx(2, rel=1e-3)
    assert area(vertices, faces) == pytest.approx(12, rel=1e-3)
    refuse(draco_cube(data[:20]), "DracoPy cannot decompress it")


def change_root(**values):
    return lambda gltf: gltf.root.update(values)


def change_accessor(number, **values):
    return lambda gltf: gltf.root["accessors"][number].update(values)


def change_node(**values):
    return lambda gltf: gltf.root["nodes"][0].update(values)


def change_primitive(**values):
    return lambda gltf: gltf.root["meshes"][0]["primitives"][0].update(values)


@pytest.mark.parametrize("change, message", [
    (change_root(asset={"version": "1.0"}), "glTF '1.0' is not read; convert it to glTF 2.0"),
    (change_root(nodes=5), "nodes is not a list of objects"),
    (change_root(scene=3), "refers to 3 in scenes, which has 1 entries"),
    (change_root(scenes=[{"nodes": [True]}]), "refers to True in nodes"),
    (change_node(children=[0]), "a node is below itself"),
    (change_node(children=[-1]), "refers to -1 in nodes"),
    (change_root(nodes=[{"children": [1]}, {"children": [2]}, {"children": [1]}]), "two parents"),
    (change_root(nodes=[{"mesh": 0}, {"children": [0]}]), "both a root of a scene and a child"),
    (change_node(mesh=1), "refers to 1 in meshes"),
    (change_node(mesh="0"), "refers to '0' in meshes"),
    (change_node(matrix=[1, 0, 0]), "the matrix of node 0 must be 16 numbers"),
    (change_node(translation=["1", 0, 0]), "the translation of node 0 must be 3 numbers"),
    (change_node(scale=[10**400, 1, 1]), "a number that is too large"),
    (change_primitive(mode=7), "unknown mode 7"),
    (change_primitive(attributes={"POSITION": 1}), "must have the type VEC3, not 'SCALAR'"),
    (change_primitive(indices=0), "must have the type SCALAR"),
    (change_accessor(0, count=7), "a face has index 7, but there are 7 vertices"),
    (change_accessor(0, count=9), "accessor 0 needs 108 bytes, but its buffer view has 96"),
    (change_accessor(0, count=10**30), "needs .* bytes"),
    (change_accessor(0, byteOffset=-4), "accessor 0 has no valid byteOffset"),
    (change_accessor(0, bufferView=9), "refers to 9 in bufferViews"),
    (change_accessor(0, componentType=5124), "unknown component type 5124"),
    (change_accessor(1, count=35), "35 corners, which are no whole triangles"),
    (lambda gltf: gltf.root["bufferViews"][0].update(byteLength=9999), "needs 9999 bytes"),
    (lambda gltf: gltf.root["bufferViews"][0].update(byteStride=4), "has values that overlap"),
    (change_root(accessors=[{"componentType": 5126, "type": "VEC3", "count": 2**40}]),
     "no data for its 1099511627776 values"),
])  # fmt: skip
def test_damaged_objects_are_refused(change, message):
    gltf = one_cube()
    change(gltf)
    refuse(gltf, message)


@pytest.mark.parametrize("data, message", [
    (b"", "not a glTF file: it begins neither with glTF nor with {"),
    (b"[]", "not a glTF file"),
    (b"{}" * 2, "the JSON is damaged"),
    (b'{"a":' * 100000, "the JSON is damaged"),
    (b"{\xff}", "the JSON is damaged"),
    (struct.pack("<4s4I", b"glTF", 1, 20, 0, 0), "glTF 1 is not read; convert it to glTF 2.0"),
    (struct.pack("<4s4I", b"glTF", 2, 20, 0, 0), "the first chunk is not JSON"),
    (struct.pack("<4s4I", b"glTF", 2, 50, 0, 0), "its header says 50 bytes, it has 20"),
])  # fmt: skip
def test_damaged_containers_are_refused(data, message):
    with pytest.raises(UserError, match=message):
        read_gltf(data, ".")


def test_a_small_file_cannot_fill_the_memory():
    gltf = Gltf()
    large = gltf.bare_accessor(2**20, "VEC3")
    gltf.mesh({"attributes": {"POSITION": large}})
    count = 2000
    moves = gltf.accessor(np.zeros((count, 3)))
    instancing = {"EXT_mesh_gpu_instancing": {"attributes": {"TRANSLATION": moves}}}
    gltf.node(mesh=0, extensions=instancing)
    gltf.root["meshes"][0]["primitives"][0]["indices"] = gltf.accessor([0, 1, 2], "u2")
    refuse(gltf.scene(0), "the scene is too large")

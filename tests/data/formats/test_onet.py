"""Imports of ONet's folders, with files written by the definition of the format."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from occvae.data.build import build_dataset, verify_dataset
from occvae.data.formats.onet import OccupancyNetworksSource
from occvae.data.points import dequantize_points
from occvae.data.shards import Shard
from occvae.errors import UserError
from tests.data.formats.scenes import (
    SIZE,
    ball,
    blender_camera,
    centroid,
    chair_grid,
    chair_mesh,
    choy_intrinsics,
    inside_chair,
    iou,
    mask_of,
    project,
    render,
    silhouette,
)
from tests.data.readers.binvox_writer import write_binvox

LOCATION, SCALE = np.array([0.013, -0.021, 0.004]), 0.71
VIEWS = [(20, 26, 0, 0.8), (140.5, 29, 0, 0.95), (290, 25, 0, 0.7)]
CHAIR, PLANE = "03001627", "02691156"
METADATA = f"""{CHAIR}:
  id: '{CHAIR}'
  name: chair
'{PLANE}':
  id: '{PLANE}'
  name: airplane,aeroplane,plane
"""


def to_original(points: np.ndarray) -> np.ndarray:
    return points * SCALE + LOCATION


def points_of(seed: int, count: int = 4096) -> tuple[np.ndarray, np.ndarray]:
    points = np.random.default_rng(seed).uniform(-0.55, 0.55, (count, 3)).astype(np.float16)
    return points, inside_chair(points)


def surface_of(seed: int, count: int = 512) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    normals = rng.normal(size=(count, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return rng.uniform(-0.3, 0.3, (count, 3)).astype(np.float16), normals.astype(np.float16)


@pytest.fixture(scope="module")
def images() -> list[bytes]:
    cameras = np.array([blender_camera(*view) for view in VIEWS])
    return [encode(image) for image in render(chair_mesh(), to_original, cameras)]


def encode(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=95)
    return buffer.getvalue()


def write_points(folder: Path, points, occupancies, **more) -> None:
    content = {"loc": LOCATION, "scale": np.array(SCALE)} | more
    np.savez(folder / "points.npz", points=points, occupancies=occupancies, **content)


def write_model(folder: Path, seed: int, images: list[bytes]) -> None:
    (folder / "img_choy2016").mkdir(parents=True)
    points, inside = points_of(seed)
    write_points(folder, points, np.packbits(inside))
    surface, normals = surface_of(seed)
    np.savez(folder / "pointcloud.npz", points=surface, normals=normals, loc=LOCATION, scale=SCALE)
    write_binvox(folder / "model.binvox", chair_grid())
    for number, image in enumerate(images):
        (folder / "img_choy2016" / f"{number:03d}.jpg").write_bytes(image)
    write_cameras(folder)


def write_cameras(folder: Path) -> None:
    cameras = {f"world_mat_{i}": blender_camera(*view) for i, view in enumerate(VIEWS)}
    cameras |= {f"camera_mat_{i}": choy_intrinsics() for i in range(len(VIEWS))}
    np.savez(folder / "img_choy2016" / "cameras.npz", **cameras)


@pytest.fixture
def root(tmp_path, images) -> Path:
    root = tmp_path / "ShapeNet"
    for seed, model in enumerate([f"{CHAIR}/a1", f"{CHAIR}/b2", f"{PLANE}/c3", f"{PLANE}/d4"]):
        write_model(root / model, seed, images)
    (root / "metadata.yaml").write_text(METADATA)
    for name, lists in (
        (CHAIR, {"train": "a1\n", "val": "\n", "test": "b2\n\n"}),
        (PLANE, {"train": "d4\n", "val": "c3", "test": ""}),
    ):
        for split, text in lists.items():
            (root / name / f"{split}.lst").write_text(text)
    return root


def sample_of(root: Path, id: str):
    source = OccupancyNetworksSource(root)
    return source.sample([item.id for item in source.items].index(id))


def test_lists_may_have_blank_lines_and_classes_get_their_names(root):
    source = OccupancyNetworksSource(root)
    assert {(item.id, item.category, item.split) for item in source.items} == {
        (f"{CHAIR}/a1", "chair", "train"),
        (f"{CHAIR}/b2", "chair", "test"),
        (f"{PLANE}/d4", "airplane", "train"),
        (f"{PLANE}/c3", "airplane", "val"),
    }
    assert (source.name, source.splits, source.skipped) == ("onet", "onet", {})


def test_all_arrays_are_read_bit_for_bit(root, images):
    sample = sample_of(root, f"{CHAIR}/b2")
    sample.check()
    points, inside = points_of(1)
    surface, normals = surface_of(1)
    for found, expected in (
        (sample.points, points),
        (sample.surface_points, surface),
        (sample.surface_normals, normals),
    ):
        assert found.dtype == np.float16
        np.testing.assert_array_equal(found.view(np.uint16), expected.view(np.uint16))
    np.testing.assert_array_equal(sample.occupancies, inside)
    np.testing.assert_array_equal(sample.voxels[32], chair_grid())
    assert sample.images == images
    np.testing.assert_array_equal(sample.location, LOCATION)
    assert sample.scale == SCALE
    # Points and grid have the same axes.
    cells = np.floor((points.astype(float) + 0.5) * 32).astype(int)
    within = (np.abs(points) < 0.5).all(axis=1)
    np.testing.assert_array_equal(sample.voxels[32][tuple(cells[within].T)], inside[within])


def test_the_dataset_keeps_the_bits(root, tmp_path):
    source = OccupancyNetworksSource(root)
    manifest = build_dataset(source, tmp_path / "shards", num_workers=1)
    verify_dataset(tmp_path / "shards")
    assert (manifest.source, manifest.splits) == ("onet", "onet")
    assert manifest.count_shapes() == {"train": 2, "val": 1, "test": 1}
    (entry,) = [entry for entry in manifest.shards if entry.split == "test"]
    shard = Shard(tmp_path / "shards", entry)
    points, inside = points_of(1)
    stored, occupancies = shard.points(0, 0, 4096)
    np.testing.assert_array_equal(stored, points.astype(np.float32))
    np.testing.assert_array_equal(occupancies, inside)


def test_silhouettes_of_the_voxels_cover_the_images(root):
    sample = sample_of(root, f"{CHAIR}/a1")
    for view in range(len(VIEWS)):
        image = np.asarray(Image.open(io.BytesIO(sample.images[view])))
        camera = sample.extrinsics[view], sample.intrinsics[view]
        found = silhouette(sample.voxels[32], *camera, image.shape[:2])
        assert iou(found, mask_of(image, 235)) > 0.95
        # The check can fail: the same shape with its front at the back does not fit.
        wrong = silhouette(sample.voxels[32][:, :, ::-1], *camera, image.shape[:2])
        assert iou(wrong, mask_of(image, 235)) < 0.9


def test_a_point_projects_to_its_pixel(root):
    sample = sample_of(root, f"{CHAIR}/a1")
    point = np.array([0.2, -0.3, 0.25])
    cameras = np.array([blender_camera(*view) for view in VIEWS])
    for view, image in enumerate(render(ball(point, 0.02), to_original, cameras)):
        camera = sample.extrinsics[view], sample.intrinsics[view]
        expected = project(point[None], *camera)[:, 0]
        np.testing.assert_allclose(centroid(image), expected, atol=0.4)


def test_unpacked_occupancies_are_read(root):
    points, inside = points_of(0)
    for values in (inside, inside.astype(np.uint8), inside.astype(np.float32)):
        write_points(root / CHAIR / "a1", points, values)
        np.testing.assert_array_equal(sample_of(root, f"{CHAIR}/a1").occupancies, inside)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_finer_points_are_quantized(root, dtype):
    points = np.random.default_rng(0).uniform(-0.55, 0.55, (64, 3)).astype(dtype)
    write_points(root / CHAIR / "a1", points, inside_chair(points))
    found = sample_of(root, f"{CHAIR}/a1").points
    assert found.dtype == np.uint16
    np.testing.assert_allclose(dequantize_points(found), points, atol=0.9e-5)


def test_parts_that_no_shape_has_are_not_required(root):
    for model in root.glob("*/*/"):
        (model / "pointcloud.npz").unlink()
        (model / "model.binvox").unlink()
        (model / "img_choy2016" / "cameras.npz").unlink()
    source = OccupancyNetworksSource(root)
    assert source.parts == ("points.npz", "img_choy2016")
    sample = source.sample(0)
    sample.check()
    assert sample.extrinsics is None and not sample.voxels


def test_training_shapes_have_surface_points_only_on_request(root):
    (root / CHAIR / "a1" / "pointcloud.npz").unlink()
    sample = sample_of(root, f"{CHAIR}/a1")
    assert sample.surface_points is None and sample.surface_normals is None
    source = OccupancyNetworksSource(root, training_surface=True)
    with pytest.raises(UserError, match=r"pointcloud\.npz is missing"):
        source.sample([item.id for item in source.items].index(f"{CHAIR}/a1"))
    assert source.settings != OccupancyNetworksSource(root).settings


def test_differences_of_lists_and_folders_are_reported(root):
    (root / CHAIR / "train.lst").write_text("a1\n\nghost\na1\n")
    (root / CHAIR / "test.lst").write_text("b2\na1\n../a1\n")
    (root / CHAIR / "left").mkdir()
    (root / PLANE / "val.lst").unlink()
    (root / "notes").mkdir()
    source = OccupancyNetworksSource(root)
    assert [item.id for item in source.items] == [f"{PLANE}/d4", f"{CHAIR}/a1", f"{CHAIR}/b2"]
    assert source.skipped == {
        f"{CHAIR}/ghost": "is in train.lst but has no folder",
        f"{CHAIR}/a1 of train.lst": "is already in train.lst",
        f"{CHAIR}/a1 of test.lst": "is already in train.lst",
        f"{CHAIR}/../a1": "is in test.lst but has no folder",
        f"{CHAIR}/*": "1 folders are not in any list (left, ...)",
        f"{PLANE}/val.lst": source.skipped[f"{PLANE}/val.lst"],
        f"{PLANE}/*": "1 folders are not in any list (c3, ...)",
        "notes": "has no train.lst, val.lst or test.lst",
    }
    assert "No such file" in source.skipped[f"{PLANE}/val.lst"]


def test_classes_without_a_name_are_called_by_their_id(root):
    (root / "metadata.yaml").unlink()
    assert {item.category for item in OccupancyNetworksSource(root).items} == {CHAIR, PLANE}
    (root / "metadata.yaml").write_text(
        METADATA.replace("airplane,", "chair,")
    )  # the same name twice
    assert {item.category for item in OccupancyNetworksSource(root).items} == {CHAIR, PLANE}


@pytest.mark.parametrize("text", ["[1, 2]", "a: b", "a: {name: [3]}", "{", "3"])
def test_wrong_metadata_is_refused(root, text):
    (root / "metadata.yaml").write_text(text)
    with pytest.raises(UserError, match=r"metadata\.yaml: not a mapping") as caught:
        OccupancyNetworksSource(root)
    assert "\n" not in str(caught.value)


def test_wrong_folders_are_refused(root, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder, message in (
        (tmp_path / "none", "no such folder"),
        (tmp_path / "empty", r"no folder in it has train\.lst"),
        (root / CHAIR, "is the folder of one class; give its parent folder"),
        (tmp_path, f"give {root}"),
    ):
        with pytest.raises(UserError, match=message):
            OccupancyNetworksSource(folder)
    for path in root.glob("*/*.lst"):
        path.write_text("\n")
    with pytest.raises(UserError, match="no listed shape has a folder"):
        OccupancyNetworksSource(root)


def test_another_list_is_another_build(root):
    before = OccupancyNetworksSource(root).settings
    assert before == OccupancyNetworksSource(root).settings
    (root / CHAIR / "val.lst").write_text("a1\n")
    (root / CHAIR / "train.lst").write_text("")
    assert OccupancyNetworksSource(root).settings != before


POINTS, INSIDE = points_of(0)
BROKEN = np.where(np.arange(len(POINTS))[:, None] == 7, np.nan, POINTS).astype(np.float16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "points.npz").unlink(), r"points\.npz is missing"),
        (lambda f: (f / "pointcloud.npz").unlink(), r"pointcloud\.npz is missing"),
        (lambda f: (f / "model.binvox").unlink(), r"model\.binvox is missing"),
        (lambda f: shutil.rmtree(f / "img_choy2016"), "img_choy2016 is missing"),
        (lambda f: (f / "img_choy2016/cameras.npz").unlink(), r"cameras\.npz is missing"),
        (lambda f: (f / "img_choy2016/001.jpg").unlink(), "image 1 is missing"),
        (lambda f: (f / "img_choy2016/002.jpg").write_bytes(b"x"), r"002\.jpg cannot be read"),
        (lambda f: (f / "img_choy2016/old.jpg").write_bytes(b"x"), "images are not numbered"),
        (lambda f: (f / "points.npz").write_bytes(b"PK\x03\x04"), r"points\.npz: not a readable"),
        (lambda f: (f / "model.binvox").write_bytes(b"#bin"), r"model\.binvox: not a usable"),
        (lambda f: write_binvox(f / "model.binvox", np.ones((2, 3, 2), bool)), "expected a cube"),
        (lambda f: np.savez(f / "points.npz", points=POINTS), r"points\.npz has no 'occupancies'"),
        (lambda f: write_points(f, BROKEN, INSIDE), "points are not all finite"),
        (lambda f: write_points(f, POINTS.T, INSIDE), r"points are float16 \(3, 4096\)"),
        (lambda f: write_points(f, POINTS * 2, INSIDE), "expected at most 0.55"),
        (lambda f: write_points(f, (POINTS * 9).astype(int), INSIDE), "points are int64"),
        (lambda f: write_points(f, POINTS, INSIDE[:-1]), r"occupancies are bool \(4095,\)"),
        (lambda f: write_points(f, POINTS, INSIDE * 0.3), "occupancies are not all 0 or 1"),
        (lambda f: write_points(f, POINTS, INSIDE, loc=np.zeros(2)), r"loc is \(2,\)"),
        (lambda f: write_points(f, POINTS, INSIDE, scale=np.array(0.0)), "scale 0.0"),
        (lambda f: write_points(f, POINTS, INSIDE, loc=np.full(3, np.nan)), "loc is .*nan"),
        (lambda f: write_points(f, POINTS, INSIDE, loc=np.ones(3) * 9), "camera 0 shows 0% of"),
        (
            lambda f: (f / "img_choy2016/002.jpg").write_bytes(encode(np.zeros((9, 9, 3), "u1"))),
            "camera 2 is for 137x137 pixels, its image has 9x9",
        ),
        (
            lambda f: np.savez(f / "img_choy2016/cameras.npz", world_mat_0=np.eye(4)),
            r"cameras\.npz has no 'world_mat_1'",
        ),
    ],
)
def test_unusable_shapes_are_refused_with_the_reason(root, change, message):
    change(root / CHAIR / "a1")
    source = OccupancyNetworksSource(root, training_surface=True)
    index = [item.id for item in source.items].index(f"{CHAIR}/a1")
    with pytest.raises(UserError, match=message) as caught:
        source.sample(index)
    assert "\n" not in str(caught.value)
    for other in range(len(source.items)):
        if other != index:
            source.sample(other).check()


def test_a_build_skips_a_bad_shape(root, tmp_path):
    image = root / CHAIR / "a1" / "img_choy2016" / "001.jpg"
    image.write_bytes(image.read_bytes()[:1500])  # its header stays intact
    manifest = build_dataset(OccupancyNetworksSource(root), tmp_path / "shards", num_workers=1)
    assert "view 1 cannot be decoded" in manifest.skipped[f"{CHAIR}/a1"]
    assert manifest.count_shapes() == {"train": 1, "val": 1, "test": 1}


def test_scene_images_have_the_published_size(images):
    assert Image.open(io.BytesIO(images[0])).size == (SIZE, SIZE)

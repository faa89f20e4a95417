"""Imports of Pix3D, with files written by the axes, cameras and masks that its README defines."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from occvae.data.build import build_dataset
from occvae.data.formats.pix3d import Pix3DSource
from occvae.data.shards import Shard
from occvae.errors import UserError
from occvae.images.io import load_square_image
from tests.data.formats.scenes import (
    ball,
    centroid,
    chair_grid,
    chair_mesh,
    iou,
    mask_of,
    project,
    render,
    silhouette,
)

WIDTH, HEIGHT = 240, 180
FOCAL = 35.0  # millimeters, as in our renderer, for a sensor that is 32 mm wide
LOCATION, SCALE = np.array([0.02, 0.05, -0.04]), 0.6
TRANSLATION = np.array([0.12, -0.06, 1.4])
GRID = chair_grid(4)


def rotation() -> np.ndarray:
    """Rotation of the object in camera coordinates: about the vertical first, then tilted."""
    a, b = np.radians(35), np.radians(-20)
    turn = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    tip = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    return tip @ turn


def to_model(points: np.ndarray) -> np.ndarray:
    """Maps our axes (right, up, front) to those of the model (left, up, inwards)."""
    right, up, front = points.T
    return np.stack([-right, up, -front], axis=1) * SCALE + LOCATION


def pixel(point: np.ndarray) -> np.ndarray:
    """Pixel of a model point by the authors' formula, with u to the left and v upwards."""
    x, y, z = rotation() @ point + TRANSLATION
    focal = FOCAL / 32 * WIDTH
    u, v = focal * x / z + WIDTH / 2, focal * y / z + HEIGHT / 2
    return np.array([WIDTH - u, HEIGHT - v])


def photograph(mesh=None) -> np.ndarray:
    """Image (HEIGHT, WIDTH, 3) of a camera at the origin that looks along +z, x left and y up."""
    camera = np.concatenate([rotation(), TRANSLATION[:, None]], axis=1)
    camera = np.diag([-1.0, -1.0, 1.0]) @ camera
    square = render(mesh or chair_mesh(), to_model, camera[None], WIDTH)[0]
    margin = (WIDTH - HEIGHT) // 2
    return square[margin : margin + HEIGHT]


def voxel_file(grid: np.ndarray) -> np.ndarray:
    """A file of voxels whose axes point left, out of the front and up."""
    size = len(grid)
    voxels = np.zeros(grid.shape, np.uint8)
    for right, up, front in np.argwhere(grid):
        voxels[size - 1 - right, front, up] = 1
    return voxels


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    image = photograph()
    mask = mask_of(image)
    noise = np.random.default_rng(0).integers(0, 256, image.shape, np.uint8)
    buffer = io.BytesIO()
    savemat(buffer, {"voxel": voxel_file(GRID)}, do_compression=True)
    vertices, faces = chair_mesh()
    lines = ["# model", *(f"v {x} {y} {z}" for x, y, z in to_model(vertices))]
    lines += [f"f {a} {b} {c}" for a, b, c in faces + 1]
    return {
        "img/chair/0001.png": encode(np.where(mask[..., None], image, noise)),
        "mask/chair/0001.png": encode(mask * np.uint8(255)),
        "model/chair/one/voxel.mat": buffer.getvalue(),
        "model/chair/one/model.obj": "\n".join(lines).encode(),
    }


def encode(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def annotation(**changes) -> dict:
    rows, columns = np.nonzero(mask_of(photograph()))
    return {
        "img": "img/chair/0001.png",
        "category": "chair",
        "img_size": [WIDTH, HEIGHT],
        "mask": "mask/chair/0001.png",
        "voxel": "model/chair/one/voxel.mat",
        "model": "model/chair/one/model.obj",
        "rot_mat": rotation().tolist(),
        "trans_mat": TRANSLATION.tolist(),
        "focal_length": FOCAL,
        "bbox": [int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())],
        "truncated": False,
        "occluded": False,
        "slightly_occluded": False,
    } | changes


@pytest.fixture
def root(tmp_path, files) -> Path:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    write(tmp_path, annotation())
    return tmp_path


def write(root: Path, *annotations) -> None:
    (root / "pix3d.json").write_text(json.dumps(annotations))


def open_image(sample) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(sample.images[0])))


def test_voxels_are_read_on_our_axes(root):
    source = Pix3DSource(root)
    ((item,), sample) = source.items, source.sample(0)
    sample.check()
    assert (item.id, item.category, item.split) == ("chair/0001.png", "chair", "test")
    assert (source.name, source.splits, source.skipped) == ("pix3d", "pix3d", {})
    np.testing.assert_array_equal(sample.voxels[128], GRID)
    np.testing.assert_array_equal(sample.voxels[32], chair_grid())


def test_left_front_and_top_have_the_right_axes(root):
    voxels = np.zeros((128,) * 3, np.uint8)
    voxels[:, :, 0] = 1  # a floor, which fixes the bounding box
    voxels[0, 64, 64] = voxels[64, 127, 64] = voxels[64, 64, 127] = 1
    savemat(root / "model/chair/one/voxel.mat", {"voxel": voxels})
    grid = Pix3DSource(root).sample(0).voxels[128]
    found = {tuple(cell) for cell in np.argwhere(grid) if cell[1] > 0}
    # One voxel to the left, one in front, one on top.
    assert found == {(127, 64, 64), (63, 64, 127), (63, 127, 64)}


def test_grids_with_a_margin_fill_the_cube(root):
    voxels = np.zeros((128,) * 3, np.uint8)
    voxels[30:94, 1:65, 40:104] = voxel_file(chair_grid(2))
    savemat(root / "model/chair/one/voxel.mat", {"voxel": voxels})
    sample = Pix3DSource(root).sample(0)
    np.testing.assert_array_equal(sample.voxels[128], GRID)


def test_thin_parts_stay_in_coarse_grids(root):
    voxels = voxel_file(GRID)
    voxels[64, 64, :] = 1  # a pole, one voxel wide
    savemat(root / "model/chair/one/voxel.mat", {"voxel": voxels})
    assert Pix3DSource(root).sample(0).voxels[32][15, :, 16].all()


def test_the_silhouette_of_the_voxels_covers_the_mask(root):
    sample = Pix3DSource(root).sample(0)
    image = open_image(sample)
    camera = sample.extrinsics[0], sample.intrinsics[0]
    assert iou(silhouette(sample.voxels[32], *camera, image.shape[:2]), mask_of(image)) > 0.95
    wrong = silhouette(sample.voxels[32][:, :, ::-1], *camera, image.shape[:2])
    assert iou(wrong, mask_of(image)) < 0.9


def test_points_project_to_their_pixels(root):
    sample = Pix3DSource(root).sample(0)
    box = annotation()["bbox"]
    edge = open_image(sample).shape[0]
    corner = [round((box[0] + box[2] - edge) / 2), round((box[1] + box[3] - edge) / 2)]
    for point in np.array([(0.2, -0.3, 0.25), (-0.3, 0.4, -0.3)]):
        (expected,) = project(point[None], sample.extrinsics[0], sample.intrinsics[0]).T
        np.testing.assert_allclose(expected + corner, pixel(to_model(point[None])[0]), atol=1e-6)
        found = centroid(photograph(ball(point, 0.02)))
        np.testing.assert_allclose(found, pixel(to_model(point[None])[0]), atol=0.4)


def test_images_are_framed_as_in_training(root):
    image = open_image(Pix3DSource(root).sample(0))
    height, width, _ = image.shape
    assert height == width
    outside = ~mask_of(image)
    rows, columns = np.nonzero(~outside)
    assert outside[0].all() and outside[-1].all() and outside[:, 0].all() and outside[:, -1].all()
    assert 0.6 < max(np.ptp(rows), np.ptp(columns)) / width < 0.8
    assert abs(rows.mean() / height - 0.5) < 0.15
    # The noise around the object is removed.
    assert (image[outside] == 255).all()
    assert load_square_image(Pix3DSource(root).sample(0).images[0], 64).shape == (64, 64, 3)


def test_large_photographs_are_reduced_with_their_camera(root):
    factor = 3
    for kind in ("img", "mask"):
        path = root / kind / "chair/0001.png"
        with Image.open(path) as image:
            image.resize((WIDTH * factor, HEIGHT * factor), Image.Resampling.NEAREST).save(path)
    box = [edge * factor for edge in annotation()["bbox"]]
    write(root, annotation(img_size=[WIDTH * factor, HEIGHT * factor], bbox=box))
    sample = Pix3DSource(root).sample(0)
    image = open_image(sample)
    assert image.shape == (512, 512, 3)
    camera = sample.extrinsics[0], sample.intrinsics[0]
    # Finer cells, because their points must leave no holes in the larger image.
    assert iou(silhouette(GRID, *camera, image.shape[:2]), mask_of(image, 250)) > 0.95


def test_boxes_at_the_border_are_filled_with_white(root):
    box = annotation()["bbox"]
    write(root, annotation(bbox=[-50, -50, box[2], box[3]]))
    sample = Pix3DSource(root).sample(0)
    camera = sample.extrinsics[0], sample.intrinsics[0]
    image = open_image(sample)
    assert iou(silhouette(sample.voxels[32], *camera, image.shape[:2]), mask_of(image)) > 0.95


def test_hidden_repeated_and_incomplete_annotations_are_skipped_with_a_reason(root):
    incomplete = annotation()
    del incomplete["focal_length"]
    write(
        root,
        annotation(),
        annotation(),
        annotation(img="img/chair/0002.png", truncated="true"),
        annotation(img="img/chair/0003.png", slightly_occluded=True),
        incomplete,
        annotation(img="../../etc/0004.png"),
        annotation(img="img/chair/0005.png", rot_mat=np.ones((3, 3)).tolist()),
        annotation(img="img/chair/0006.png", trans_mat=[0, 0, None]),
        annotation(img="img/chair/0007.png", bbox=[1, 2, 3]),
        annotation(img=7),
        "text",
    )
    source = Pix3DSource(root)
    assert [item.id for item in source.items] == ["chair/0001.png"]
    assert source.skipped["annotation 1"] == "is a second annotation of img/chair/0001.png"
    assert source.skipped["chair/0002.png"] == "is truncated"
    assert source.skipped["chair/0003.png"] == "is slightly occluded"
    for number, reason in (
        (4, "focal_length"),
        (5, "is outside the folder"),
        (6, "rot_mat is not a rotation"),
        (7, "finite numbers"),
        (8, "finite numbers"),
        (9, "incomplete or invalid"),
        (10, "incomplete or invalid"),
    ):
        assert reason in source.skipped[f"annotation {number}"]
    assert len(source.skipped) == 10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a readable JSON file"),
        ("{}", "expected a list of annotations"),
        ("[]", "no annotation is usable"),
        ("[1]", "no annotation is usable .*annotation 0: is incomplete"),
    ],
)
def test_wrong_lists_are_refused(root, text, message):
    (root / "pix3d.json").write_text(text)
    with pytest.raises(UserError, match=message):
        Pix3DSource(root)


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"pix3d\.json: no such file; give the folder"):
        Pix3DSource(tmp_path)


IMAGE, MASK, VOXEL, MODEL = (
    "img/chair/0001.png",
    "mask/chair/0001.png",
    "model/chair/one/voxel.mat",
    "model/chair/one/model.obj",
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: (r / IMAGE).unlink(), r"0001\.png is missing"),
        (lambda r: (r / IMAGE).write_bytes(b"GIF"), "cannot be read as an image"),
        (
            lambda r: (r / MASK).write_bytes((r / MASK).read_bytes()[:90]),
            "cannot be read as an image",
        ),
        (lambda r: (r / MASK).write_bytes(encode(np.zeros((9, 9), np.uint8))), "json says"),
        (
            lambda r: (r / MASK).write_bytes(encode(np.zeros((HEIGHT, WIDTH), np.uint8))),
            "is empty around bbox ",
        ),
        (lambda r: (r / VOXEL).unlink(), r"voxel\.mat is missing"),
        (lambda r: (r / VOXEL).write_bytes(b"MATLAB"), r"voxel\.mat: not a usable MATLAB file"),
        (lambda r: savemat(r / VOXEL, {"x": 1}), r"voxel\.mat has no 'voxel'"),
        (lambda r: savemat(r / VOXEL, {"voxel": np.zeros((4, 4, 4))}), "shape is empty"),
        (lambda r: savemat(r / VOXEL, {"voxel": np.ones((4, 4, 3))}), "expected .R, R, R."),
        (lambda r: (r / MODEL).unlink(), r"model\.obj cannot be read"),
        (lambda r: (r / MODEL).write_text("f 1 2 3"), r"model\.obj has no vertices"),
        (lambda r: (r / MODEL).write_text("v 1 2\nv 1 2 3"), "has an invalid vertex"),
        (lambda r: (r / MODEL).write_text("v 0 nan 0\nv 1 2 3"), "has no vertices, or vertices"),
        (lambda r: (r / MODEL).write_text("v 1 2 3\nv 1 2 3"), "has no extent"),
        (lambda r: write(r, annotation(bbox=[9, 9, 9, 50])), "bbox .* is empty"),
        (lambda r: write(r, annotation(trans_mat=[0, 0, -2])), "camera 0 shows 0% of the shape"),
        (lambda r: write(r, annotation(trans_mat=[9, 0, 2])), "camera 0 shows 0% of the shape"),
    ],
)
def test_unusable_photographs_are_refused_with_the_reason(root, change, message):
    change(root)
    with pytest.raises(UserError, match=message) as caught:
        Pix3DSource(root).sample(0)
    assert "\n" not in str(caught.value)


def test_all_samples_are_test_samples(root, tmp_path):
    manifest = build_dataset(Pix3DSource(root), tmp_path / "shards", num_workers=1)
    assert (manifest.source, manifest.splits) == ("pix3d", "pix3d")
    assert manifest.count_shapes() == {"test": 1}
    shard = Shard(tmp_path / "shards", manifest.shards[0])
    np.testing.assert_array_equal(shard.voxels(0, 128), GRID)
    np.testing.assert_array_equal(shard.voxels(0, 32), chair_grid())

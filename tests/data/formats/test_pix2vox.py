"""Imports of 3D-R2N2's files with Pix2Vox's taxonomy, written by their definitions."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from occvae.data.build import build_dataset
from occvae.data.formats.pix2vox import Pix2VoxSource
from occvae.data.shards import Shard
from occvae.errors import UserError
from occvae.images.io import load_square_image
from tests.data.formats.scenes import (
    EXTENTS,
    SIZE,
    ball,
    blender_camera,
    centroid,
    chair_grid,
    chair_mesh,
    iou,
    mask_of,
    project,
    render,
    silhouette,
)
from tests.data.readers.binvox_writer import write_binvox

VIEWS = [(222.956664706, 28.6626066017, 0, 0.926673522361), (10, 26, 0, 0.75), (95, 30, 20, 0.85)]
# ShapeNet's meshes have their center at the origin and a diagonal of 1.
SCALE = 1 / np.linalg.norm(EXTENTS)
CHAIR, PLANE = "03001627", "02691156"
TAXONOMY = [
    {
        "taxonomy_id": CHAIR,
        "taxonomy_name": "chair",
        "baseline": {"1-view": 0.466, "5-view": 0.55},
        "train": ["a1"],
        "val": [],
        "test": ["b2"],
    },
    {"taxonomy_id": PLANE, "taxonomy_name": "aeroplane", "train": [], "val": ["c3"], "test": []},
]


def to_mesh(points: np.ndarray) -> np.ndarray:
    return points * SCALE


@pytest.fixture(scope="module")
def images() -> list[bytes]:
    """RGBA images with a transparent black background, as from Blender."""
    cameras = np.array([blender_camera(*view) for view in VIEWS])
    return [encode(image) for image in render(chair_mesh(), to_mesh, cameras)]


def encode(image: np.ndarray) -> bytes:
    alpha = mask_of(image)[..., None]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate([image * alpha, alpha * np.uint8(255)], 2)).save(buffer, "PNG")
    return buffer.getvalue()


def write_model(root: Path, id: str, images: list[bytes]) -> None:
    rendering, voxels = root / "ShapeNetRendering" / id / "rendering", root / "ShapeNetVox32" / id
    rendering.mkdir(parents=True)
    voxels.mkdir(parents=True)
    for number, image in enumerate(images):
        (rendering / f"{number:02d}.png").write_bytes(image)
    lines = [" ".join(map(str, view)) + " 25\n" for view in VIEWS]
    (rendering / "rendering_metadata.txt").write_text("".join(lines))
    (rendering / "renderings.txt").write_text("00.png\n01.png\n02.png\n")
    # The cube of the grid has the center of the mesh.
    write_binvox(voxels / "model.binvox", chair_grid(), (-SCALE / 2,) * 3, SCALE)


@pytest.fixture
def root(tmp_path, images) -> Path:
    for id in (f"{CHAIR}/a1", f"{CHAIR}/b2", f"{PLANE}/c3"):
        write_model(tmp_path, id, images)
    (tmp_path / "ShapeNet.json").write_text(json.dumps(TAXONOMY))
    return tmp_path


def grid_folder(root: Path) -> Path:
    return root / "ShapeNetVox32" / CHAIR / "a1"


def rendering_folder(root: Path) -> Path:
    return root / "ShapeNetRendering" / CHAIR / "a1" / "rendering"


def check_silhouettes(sample) -> None:
    for view, content in enumerate(sample.images):
        alpha = np.asarray(Image.open(io.BytesIO(content)))[..., 3] > 0
        camera = sample.extrinsics[view], sample.intrinsics[view]
        assert iou(silhouette(sample.voxels[32], *camera, alpha.shape), alpha) > 0.95
        wrong = silhouette(sample.voxels[32][:, :, ::-1], *camera, alpha.shape)
        assert iou(wrong, alpha) < 0.9


def test_classes_and_splits_follow_the_taxonomy(root):
    source = Pix2VoxSource.from_folder(root)
    assert [(item.id, item.category, item.split) for item in source.items] == [
        (f"{CHAIR}/a1", "chair", "train"),
        (f"{CHAIR}/b2", "chair", "test"),
        (f"{PLANE}/c3", "aeroplane", "val"),
    ]
    assert (source.name, source.splits, source.skipped) == ("pix2vox", "pix2vox", {})
    (root / "datasets").mkdir()
    shutil.move(root / "ShapeNet.json", root / "datasets")
    assert Pix2VoxSource.from_folder(root).items == source.items


def test_images_voxels_and_frame_are_read(root, images):
    sample = Pix2VoxSource.from_folder(root).sample(0)
    sample.check()
    assert sample.images == images
    np.testing.assert_array_equal(sample.voxels[32], chair_grid())
    np.testing.assert_allclose(sample.location, 0, atol=1e-9)
    assert sample.scale == pytest.approx(SCALE)
    # The import keeps transparency. ShapeDataset composites it over a background.
    np.testing.assert_array_equal(load_square_image(sample.images[0], SIZE)[0, 0], 255)


def test_the_dataset_keeps_bytes_and_voxels(root, tmp_path, images):
    manifest = build_dataset(Pix2VoxSource.from_folder(root), tmp_path / "shards", num_workers=1)
    assert (manifest.source, manifest.splits) == ("pix2vox", "pix2vox")
    assert manifest.count_shapes() == {"train": 1, "val": 1, "test": 1}
    (entry,) = [entry for entry in manifest.shards if entry.split == "test"]
    shard = Shard(tmp_path / "shards", entry)
    assert [shard.image(0, view) for view in range(3)] == images
    np.testing.assert_array_equal(shard.voxels(0, 32), chair_grid())


def test_silhouettes_of_the_voxels_cover_the_images(root):
    check_silhouettes(Pix2VoxSource.from_folder(root).sample(0))


def test_a_point_projects_to_its_pixel(root):
    sample = Pix2VoxSource.from_folder(root).sample(0)
    point = np.array([-0.25, 0.4, -0.3])
    cameras = np.array([blender_camera(*view) for view in VIEWS])
    for view, image in enumerate(render(ball(point, 0.02), to_mesh, cameras)):
        expected = project(point[None], sample.extrinsics[view], sample.intrinsics[view])[:, 0]
        np.testing.assert_allclose(centroid(image), expected, atol=0.4)


@pytest.mark.parametrize(
    ("translate", "scale"),
    [
        (tuple(-EXTENTS * SCALE / 2), SCALE),  # the header does not say that the grid was centered
        ((0, 0, 0), 1),
        ((-0.5, -0.5, -0.5), 1),
    ],
)
def test_headers_with_a_wrong_location_are_ignored(root, translate, scale):
    write_binvox(grid_folder(root) / "model.binvox", chair_grid(), translate, scale)
    check_silhouettes(Pix2VoxSource.from_folder(root).sample(0))


def test_a_single_cell_without_a_location_is_framed(root):
    grid = np.zeros((32,) * 3, bool)
    grid[3, 4, 5] = True
    mat(root, Volume=grid)
    sample = Pix2VoxSource.from_folder(root).sample(0)
    assert np.isfinite(sample.extrinsics).all() and sample.scale > 0


def test_a_grid_in_a_corner_of_its_cube_is_framed(root):
    corner = np.roll(chair_grid(), (-6, 0, -4), axis=(0, 1, 2))
    write_binvox(grid_folder(root) / "model.binvox", corner, tuple(-EXTENTS * SCALE / 2), SCALE)
    sample = Pix2VoxSource.from_folder(root).sample(0)
    np.testing.assert_array_equal(sample.voxels[32], corner)
    check_silhouettes(sample)


def test_matlab_volumes_are_read(root):
    (grid_folder(root) / "model.binvox").unlink()
    savemat(grid_folder(root) / "model.mat", {"Volume": chair_grid().astype(np.uint8)})
    sample = Pix2VoxSource.from_folder(root).sample(0)
    np.testing.assert_array_equal(sample.voxels[32], chair_grid())
    check_silhouettes(sample)


def test_differences_of_lists_and_folders_are_reported(root):
    taxonomy = [
        dict(TAXONOMY[0], train=["a1", "ghost", "a1", "flat"], test=["b2", "a1"]),
        dict(TAXONOMY[1], taxonomy_id="99999999"),
    ]
    (root / "ShapeNetRendering" / CHAIR / "flat").mkdir()
    for folder in ("ShapeNetRendering", "ShapeNetVox32"):
        (root / folder / CHAIR / "left").mkdir()
    (root / "ShapeNet.json").write_text(json.dumps(taxonomy))
    source = Pix2VoxSource.from_folder(root)
    assert [item.id for item in source.items] == [f"{CHAIR}/a1", f"{CHAIR}/b2"]
    assert source.skipped == {
        f"{CHAIR}/ghost": "has no folder in ShapeNetRendering",
        f"{CHAIR}/flat": "has no folder in ShapeNetVox32",
        f"{CHAIR}/*": "1 folders are not in any list (left, ...)",
        f"{CHAIR}/a1 of train": "is already in train",
        f"{CHAIR}/a1 of test": "is already in train",
        "99999999/c3": "has no folder in ShapeNetRendering",
    }


def test_wrong_folders_are_refused(root, tmp_path):
    with pytest.raises(UserError, match="has no ShapeNetRendering and no ShapeNetVox32 and no Sh"):
        Pix2VoxSource.from_folder(root / "ShapeNetVox32")
    with pytest.raises(UserError, match="no such folder"):
        Pix2VoxSource(root / "none", root / "ShapeNetVox32", root / "ShapeNet.json")
    (root / "ShapeNet.json").unlink()
    with pytest.raises(UserError, match=r"has no ShapeNet\.json; give the folder"):
        Pix2VoxSource.from_folder(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a readable JSON file"),
        ("[{]", "not a readable JSON file"),
        ("[" * 100_000, "not a readable JSON file"),
        ("{}", "expected a list of classes"),
        ("[]", "expected a list of classes"),
        ("[3]", "class 0 has no taxonomy_id"),
        ('[{"taxonomy_id": 3, "taxonomy_name": "chair"}]', "class 0 has no taxonomy_id"),
        (
            '[{"taxonomy_id": "3", "taxonomy_name": "chair", "val": "a1"}]',
            "'val' of class 0 is not a list of names",
        ),
        ('[{"taxonomy_id": "3", "taxonomy_name": "chair"}]', "no listed shape has its folders"),
    ],
)
def test_wrong_taxonomies_are_refused(root, text, message):
    (root / "ShapeNet.json").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        Pix2VoxSource.from_folder(root)
    assert "\n" not in str(caught.value)


def replace_metadata(root: Path, old: str, new: str) -> None:
    path = rendering_folder(root) / "rendering_metadata.txt"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def mat(root: Path, **content) -> None:
    (grid_folder(root) / "model.binvox").unlink()
    savemat(grid_folder(root) / "model.mat", content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: (rendering_folder(r) / "01.png").unlink(), "image 1 is missing"),
        (lambda r: (rendering_folder(r) / "02.png").unlink(), "3 lines for 2 images"),
        (lambda r: (rendering_folder(r) / "01.png").write_bytes(b""), r"01\.png cannot be read"),
        (lambda r: (rendering_folder(r) / "x.png").write_bytes(b""), "images are not numbered"),
        (lambda r: shutil.rmtree(rendering_folder(r)), r"rendering_metadata\.txt cannot be read"),
        (
            lambda r: (rendering_folder(r) / "rendering_metadata.txt").unlink(),
            r"rendering_metadata\.txt cannot be read",
        ),
        (lambda r: replace_metadata(r, "0.75", "nan"), "expected lines with azimuth"),
        (lambda r: replace_metadata(r, "0.75 25", ""), "cannot be read"),
        (lambda r: replace_metadata(r, "0.75", "far"), "cannot be read"),
        (lambda r: replace_metadata(r, "0.75", "0"), "distances above 0"),
        (lambda r: replace_metadata(r, " 26 ", " 90 "), "expected elevations below 90"),
        (lambda r: replace_metadata(r, "0.75", "0.01"), "camera 1 shows .* of the shape"),
        (lambda r: (grid_folder(r) / "model.binvox").unlink(), "has neither model.binvox nor"),
        (lambda r: (grid_folder(r) / "model.binvox").write_bytes(b"PNG"), "not a usable binvox"),
        (
            lambda r: write_binvox(grid_folder(r) / "model.binvox", np.zeros((32,) * 3, bool)),
            "shape is empty",
        ),
        (
            lambda r: write_binvox(grid_folder(r) / "model.binvox", np.ones((2, 2, 3), bool)),
            "expected a cube",
        ),
        (lambda r: mat(r, voxel=chair_grid()), r"model\.mat has no 'Volume' \(found voxel\)"),
        (lambda r: mat(r, Volume=np.ones((2, 3))), r"'Volume' is .* expected \(R, R, R\)"),
        (lambda r: mat(r, Volume="text"), r"model\.mat: not a usable MATLAB file"),
    ],
)
def test_unusable_shapes_are_refused_with_the_reason(root, change, message):
    change(root)
    source = Pix2VoxSource.from_folder(root)
    with pytest.raises(UserError, match=message) as caught:
        source.sample(0)
    assert "\n" not in str(caught.value)
    source.sample(1).check()


def test_a_build_skips_a_bad_shape(root, tmp_path):
    image = rendering_folder(root) / "01.png"
    image.write_bytes(image.read_bytes()[:500])  # its header stays intact
    manifest = build_dataset(Pix2VoxSource.from_folder(root), tmp_path / "shards", num_workers=1)
    assert "view 1 cannot be decoded" in manifest.skipped[f"{CHAIR}/a1"]
    assert manifest.count_shapes() == {"val": 1, "test": 1}

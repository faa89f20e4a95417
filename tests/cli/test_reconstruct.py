"""`occvae reconstruct`: its summary and exit status for folders of good and bad images."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import trimesh
from PIL import Image

from occvae.cli.main import main
from occvae.images.heif import register_heif
from occvae.models import save_pretrained
from occvae.reconstruction import FORMATS
from tests.fakes import CENTER, RADIUS, octahedron_model
from tests.photographs import ellipse, photograph


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("models") / "octahedron"
    save_pretrained(octahedron_model(), folder)
    return str(folder)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A working directory with a folder of images in several formats and color modes."""
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    scene = photograph(ellipse(120, (0.4, 0.5), (0.2, 0.15)), shadow=0.4)
    scene.save("in/photo.jpg")
    scene.convert("L").save("in/gray.png")
    scene.convert("CMYK").save("in/print.tif")
    scene.quantize(16).save("in/palette.gif")
    return tmp_path


def run(model: str, *arguments) -> int:
    words = ["reconstruct", "--model", model, "--resolution", "32", *map(str, arguments)]
    return main(words)


def refusal(capsys, model: str, *arguments) -> str:
    capsys.readouterr()
    assert run(model, *arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


def test_every_image_of_a_folder_gets_a_mesh(here, model, capsys):
    assert run(model, "in", "-o", "out", "--format", "stl") == 0
    assert sorted(path.name for path in Path("out").glob("*.stl")) == [
        "gray.stl",
        "palette.stl",
        "photo.stl",
        "print.stl",
    ]
    captured = capsys.readouterr()
    assert captured.err == "" and captured.out.endswith("all 4 objects reconstructed\n")
    # Written beside the images twice: previews and turntables do not count as images.
    assert run(model, "in", "-o", "in") == run(model, "in", "-o", "in") == 0
    assert len(list(Path("in").glob("*.glb"))) == 4


def test_images_of_other_formats_in_a_folder_are_counted(here, model, capsys, monkeypatch):
    Path("in/logo.svg").write_text("<svg/>")
    Path("in/raw.dng").write_bytes(b"II*\0")
    assert run(model, "in", "-o", "out") == 0
    assert capsys.readouterr().err == (
        "warning: 2 image(s) left out, because their formats are not read: logo.svg, raw.dng; "
        "convert them to PNG or JPEG\n"
    )
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    register_heif.cache_clear()
    Path("in/IMG_1.HEIC").write_bytes(b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic")
    assert run(model, "in", "-o", "out") == 2
    assert capsys.readouterr().err.splitlines()[0] == (
        "error: in/IMG_1.HEIC: HEIC: pip install pillow-heif"
    )
    register_heif.cache_clear()


def test_a_broken_image_does_not_stop_the_others(here, model, capsys):
    whole = Path("in/photo.jpg").read_bytes()
    Path("in/broken.jpg").write_bytes(whole[: len(whole) // 2])
    Image.new("RGBA", (9, 9)).save("in/clear.png")
    Image.new("RGB", (9, 9), "white").save("in/white.png")
    Image.new("RGB", (1, 1)).save("in/dot.png")
    assert run(model, "in", "-o", "out") == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("error: in/broken.jpg: cannot be read as an image (")
    assert lines[1:] == [
        "error: in/clear.png: is transparent everywhere",
        "error: in/dot.png: shows nothing but its background",
        "error: in/white.png: shows nothing but its background",
        "error: 4 of 8 objects have no mesh: in/broken.jpg, in/clear.png, in/dot.png, in/white.png",
    ]
    assert len(list(Path("out").glob("*.glb"))) == 4


def extent(tile: np.ndarray) -> tuple[int, int]:
    """Height and width in pixels of the part that is not white."""
    seen = (tile < 200).any(axis=-1)
    return int(seen.any(1).sum()), int(seen.any(0).sum())


def test_a_mixed_folder_of_photographs_is_framed_alike(tmp_path, model, monkeypatch, capsys):
    """One run gets a photograph, a cut-out, a gray, a rotated and a broken image."""
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    wide = ellipse(300, (0.4, 0.5), (0.12, 0.24))  # twice as wide as high
    photo = photograph(wide, shadow=0.2)
    photo.save("in/a photo.JPG", quality=88)
    cut_out = photo.copy()
    cut_out.putalpha(Image.fromarray(wide.astype(np.uint8) * 255))
    cut_out.save("in/cut out.png")
    photo.convert("L").save("in/gray.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn: the object is then much higher than wide
    photo.resize((4000, 3000)).save("in/phone.jpg", exif=exif, quality=88)
    Path("in/broken.jpg").write_bytes(Path("in/phone.jpg").read_bytes()[:5000])
    assert run(model, "in", "-o", "out") == 2
    captured = capsys.readouterr()
    first, last = captured.err.splitlines()
    assert first.startswith("error: in/broken.jpg: cannot be read as an image (")
    assert last == "error: 1 of 5 objects have no mesh: in/broken.jpg"
    done = {line.split(" -> ")[0] for line in captured.out.splitlines()}
    assert done == {
        f"in/{name}" for name in ("a photo.JPG", "cut out.png", "gray.png", "phone.jpg")
    }
    for stem, ratio in (("a photo", 2), ("cut out", 2), ("gray", 2), ("phone", 0.75 / 2)):
        mesh = trimesh.load(f"out/{stem}.glb", force="mesh")
        assert mesh.is_watertight and len(mesh.faces) > 500
        seen = np.asarray(Image.open(f"out/{stem}.preview.png"))[:, :224]
        height, width = extent(seen)
        assert width / height == pytest.approx(ratio, rel=0.15), stem
        assert max(height, width) == pytest.approx(0.7 * 224, rel=0.1), stem


@pytest.mark.parametrize("suffix", FORMATS)
def test_all_options_of_the_mesh_work_together(here, model, suffix):
    pytest.importorskip("fast_simplification")
    output = f"out/photo.{suffix}"
    options = ["--refine", "--largest", "--smooth", 2, "--decimate", 300, "--turntable", "png"]
    assert run(model, "in/photo.jpg", "-o", output, *options, "--background", "remove") == 0
    mesh = trimesh.load(output, force="mesh")
    assert mesh.is_watertight and 200 < len(mesh.faces) <= 300
    distances = np.abs(mesh.vertices - CENTER).sum(axis=1)
    np.testing.assert_allclose(distances, RADIUS, atol=0.06)
    assert Image.open("out/photo.turntable.png").size == (12 * 224, 224)


@pytest.mark.parametrize("suffix", ["glb", "ply", "obj"])
def test_normals_are_written_into_the_file(here, model, suffix):
    output = Path(f"a.{suffix}")
    assert run(model, "in/photo.jpg", "-o", output, "--normals") == 0
    words = {"glb": b"NORMAL", "ply": b"nx", "obj": b"\nvn "}
    with_normals = output.read_bytes()
    assert words[suffix] in with_normals
    assert run(model, "in/photo.jpg", "-o", output) == 0
    assert words[suffix] not in output.read_bytes()


def test_together_makes_one_mesh_from_all_images(here, model, capsys):
    assert run(model, "in", "-o", "one.glb", "--together") == 0
    assert capsys.readouterr().out.startswith("in/gray.png -> one.glb (")
    assert Image.open("one.preview.png").size == (8 * 224, 224)


def test_the_image_of_the_camera_is_saved(here, model, monkeypatch, capsys):
    frame = np.asarray(Image.open("in/photo.jpg"))[:, :, ::-1]

    class Camera:
        isOpened = staticmethod(lambda: True)
        read = staticmethod(lambda: (True, frame))
        release = staticmethod(lambda: None)

    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(VideoCapture=lambda number: Camera))
    assert run(model, "--webcam", "-o", "out/me.glb") == 0
    assert run(model, "--webcam", 1, "-o", "out") == 0
    names = {path.name for path in Path("out").iterdir()}
    kinds = (".glb", ".preview.png")
    expected = {f"{stem}{kind}" for stem in ("me", "webcam") for kind in kinds}
    assert names == expected | {"me.webcam.png", "webcam.png"}
    stills = [np.asarray(Image.open(f"out/{name}")) for name in ("me.webcam.png", "webcam.png")]
    for still in stills:
        np.testing.assert_array_equal(still, frame[:, :, ::-1])
    assert "camera 1 -> out/webcam.png" in capsys.readouterr().out
    assert run(model, "--webcam") == 0
    assert refusal(capsys, model, "--webcam") == "error: webcam.png exists; name the mesh with -o"


def test_without_an_output_meshes_are_named_after_their_images(here, model, capsys):
    assert run(model, "in/photo.jpg", "in/gray.png", "--format", "ply") == 0
    assert {path.name for path in Path(".").glob("*.*")} == {
        f"{stem}{suffix}" for stem in ("photo", "gray") for suffix in (".ply", ".preview.png")
    }
    before = Path("photo.ply").stat().st_mtime_ns
    message = "error: photo.ply exists; replace it with -o photo.ply, or give another name"
    assert refusal(capsys, model, "in/photo.jpg", "--format", "ply") == message
    Path("photo.ply").unlink()
    line = refusal(capsys, model, "in/photo.jpg", "--format", "ply")  # the preview
    assert line.startswith("error: photo.preview.png exists; replace it with -o photo.ply")
    assert not Path("photo.ply").exists()
    assert run(model, "in/photo.jpg", "-o", "photo.ply") == 0
    assert run(model, "in/photo.jpg", "-o", "photo.ply") == 0
    assert Path("photo.ply").stat().st_mtime_ns > before


def test_a_background_that_is_not_removed_is_its_own_line(here, model, capsys):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save("street.png")
    reason = (
        "street.png: background not removed: the border of the image is not plain; cut the object "
        "out with --background rembg, or accept the image with --background keep"
    )
    assert run(model, "street.png", "in/photo.jpg", "-o", "out") == 0
    captured = capsys.readouterr()
    assert captured.err == f"warning: {reason}\n"
    assert "background not removed" not in captured.out
    assert run(model, "street.png", "-o", "out", "--background", "keep", "--strict") == 0
    assert capsys.readouterr().err == ""
    assert refusal(capsys, model, "street.png", "-o", "strict", "--strict") == f"error: {reason}"
    assert run(model, "street.png", "in/photo.jpg", "-o", "strict", "--strict") == 2
    assert {path.name for path in Path("strict").glob("*.glb")} == {"photo.glb"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["https://example.org/chair.jpg"], "is an address; download the image and give the file"),
        (["-"], "-: images are not read from standard input; save the image and give the file"),
        ([], "no images: give files, folders or --webcam"),
        (["empty"], "empty: no images in this folder"),
        (["in", "--webcam"], "--webcam takes the image"),
        (["--webcam"], "pip install opencv-python-headless"),
        (["in/photo.jpg", "-o", ""], "the name of the output is empty; give a file or a folder"),
        (["in/photo.jpg", "--format", "fbx"], "unknown mesh format 'fbx'"),
        (["in/photo.jpg", "--format", "ply"], "out.glb: is not a .ply file"),
        (["in/photo.jpg", "--threshold", "nan"], "threshold must be a probability"),
        (["in/photo.jpg", "--threshold", "1"], "threshold must be a probability"),
        (["in/photo.jpg", "--num-samples", "4"], "vitocc has one prediction per image: hypotheses"),
        (["in/photo.jpg", "--uncertainty"], "vitocc has one prediction per image: uncertainty"),
        (["in/photo.jpg", "--smooth", "-1"], "smooth must be from 0 to 1000; got -1"),
        (["in/photo.jpg", "--decimate", "0"], "decimate must be from 4"),
        (["in/photo.jpg", "--background", "blue"], "unknown background 'blue'"),
        (["in/photo.jpg", "--background", "rembg"], "pip install 'rembg[cpu]'"),
        (["in/photo.jpg", "--turntable", "avi"], "unknown turntable 'avi'"),
        (["in/photo.jpg", "--normals", "--smooth", "1"], "normals cannot be combined with smooth"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    here, model, monkeypatch, capsys, arguments, message
):
    Path("empty").mkdir()
    for library in ("cv2", "rembg"):
        monkeypatch.setitem(sys.modules, library, None)
    assert message in refusal(capsys, model, "-o", "out.glb", *arguments)
    assert not list(Path(".").glob("out*"))


@pytest.mark.parametrize("option", ["--smooth", "--decimate", "--refine", "--num-samples"])
def test_a_value_that_is_not_a_number_is_wrong_usage(here, model, capsys, option):
    with pytest.raises(SystemExit) as caught:
        run(model, "in", "-o", "out", option, "nan")
    assert caught.value.code == 2
    assert f"argument {option}" in capsys.readouterr().err

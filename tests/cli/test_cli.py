"""The `occvae` command: the files it writes, and one line on stderr for every mistake."""

import io
import json
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from occvae.cli import info
from occvae.cli.main import create_parser, main
from occvae.data.manifest import Manifest
from occvae.data.shards import Shard
from occvae.errors import UserError
from occvae.models import save_pretrained
from occvae.models.decoders import CbnDecoder
from occvae.reconstruction import FORMATS, output_paths
from occvae.system.verbosity import Verbosity, set_verbosity
from tests.fakes import CENTER, RADIUS, octahedron_model, tiny_model, tiny_voxel_model
from tests.fresh_process import run_fresh
from tests.tiny import write_archive

SMALL = ["--points", "64", "--views", "1", "--image-size", "16", "--workers", "1"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("models") / "octahedron"
    save_pretrained(octahedron_model(), folder)
    return str(folder)


@pytest.fixture(scope="module")
def blind(tmp_path_factory) -> str:
    """A model whose field is empty for every image."""
    folder = tmp_path_factory.mktemp("models") / "blind"
    model = octahedron_model()
    model.decoder.linear_out.bias.data.fill_(-50.0)
    save_pretrained(model, folder)
    return str(folder)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty working directory with one image."""
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).integers(0, 255, (30, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save("photo.png")
    return tmp_path


def run(*arguments) -> int:
    return main([str(argument) for argument in arguments])


def assert_refused(capsys, *arguments, message: str) -> None:
    capsys.readouterr()
    assert run(*arguments) == 2
    lines = capsys.readouterr().err.splitlines()  # a progress bar may come first
    assert [line.startswith("error: ") for line in lines].count(True) == 1
    assert lines[-1].startswith("error: ") and message in lines[-1], lines


def test_info_lists_packages_and_devices(capsys):
    assert run("info") == 0
    lines = capsys.readouterr().out.splitlines()
    assert {"occvae", "torch", "timm", "h5py", "gpu"} <= {line.split()[0] for line in lines}


def test_info_says_what_happens_without_packages_that_lack_wheels(capsys, monkeypatch):
    def version(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(info, "version", version)
    assert run("info") == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "not installed; images are rendered by a rasterizer" in lines["embreex"]
    assert "not installed; only the reference" in lines["PyMCubes"]
    assert lines["timm"].endswith("missing; run `pip install timm`")


@pytest.mark.slow
def test_the_exit_status_of_a_process_tells_success(here):
    for arguments, status in ((["info"], 0), (["data", "verify", "nowhere"], 2)):
        result = subprocess.run(
            [sys.executable, "-m", "occvae", *arguments], capture_output=True, text=True
        )
        assert result.returncode == status, result.stderr
    [line] = result.stderr.splitlines()
    assert line.startswith("error: nowhere/dataset.json: no dataset here")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one of the commands info, data, train"),
        (["paint"], "invalid choice: 'paint' (choose from "),
        (["data"], "give one of the actions build, download"),
        (["data", "build"], "required: source; see `occvae data build --help`"),
        (["evaluate", "x"], "unrecognized arguments: x; see `occvae evaluate --help`"),
        (["evaluate", "--modle", "x"], "unrecognized arguments: --modle x; did you mean --model?"),
        (["train", "--lr", "1"], "unrecognized arguments: --lr; did you mean optim.lr=VALUE?"),
        (["train", "--batch-size=1"], "--batch-size=1; did you mean optim.batch_size=VALUE?"),
        (["train", "--timeout", "soon"], "must be positive and less than a day, got soon"),
        (["info", "-q", "-v"], "not allowed with argument"),
        (["completion", "csh"], "choose from 'bash', 'zsh', 'fish'"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message.replace("'", "") in line.replace("'", "")


def test_options_may_come_between_positional_arguments():
    options = create_parser().parse_args(["reconstruct", "a.png", "-o", "b.glb", "c.png"])
    assert options.images == ["a.png", "c.png"]


def test_info_as_json(capsys):
    assert run("info", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["torch"]["version"] == torch.__version__
    assert found["packages"]["numpy"] == np.__version__
    assert set(found["kernels"]) == {"cpu", "cuda"}


def test_verify_as_json(tiny_dataset, capsys):
    assert run("data", "verify", tiny_dataset, "--deep", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["num_shapes"] == {"train": 64, "val": 32} and found["problems"] == {}


def test_quiet_prints_no_notes(here, model, capsys, normal_verbosity):
    arguments = ["reconstruct", "photo.png", "--model", model, "--resolution", 32, "-o", "a.ply"]
    assert run(*arguments, "--quiet") == 0
    captured = capsys.readouterr()
    assert captured.out == "" and Path("a.ply").stat().st_size
    assert run(*arguments) == 0
    assert "photo.png -> a.ply" in capsys.readouterr().out


def test_quiet_shows_no_progress_bars(here):
    command = [sys.executable, "-m", "occvae", "data", "build", "procedural", "set", *SMALL]
    command += ["--shapes-per-category", "1", "--quiet"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert "build set" not in result.stderr and result.stdout.startswith("12 shapes")


def test_verbose_prints_the_traceback_of_an_error(capsys, normal_verbosity):
    assert run("data", "verify", "nowhere", "--verbose") == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback") and lines[-1].startswith("error: nowhere/dataset.json")


@pytest.fixture
def normal_verbosity():
    """Restores the verbosity after a test."""
    yield
    set_verbosity(Verbosity.NORMAL)


@pytest.mark.parametrize("command", ["reconstruct", "evaluate"])
def test_a_device_that_is_not_there_is_refused(here, capsys, model, command):
    arguments = ["--model", model, "--data", "x"][: 2 if command == "reconstruct" else 4]
    arguments += ["photo.png", "-o", "a.ply"] if command == "reconstruct" else []
    for device, message in (("gpu", "choose cpu, cuda"), ("cuda:99", "--device cuda:99: ")):
        assert_refused(capsys, command, *arguments, "--device", device, message=message)
    assert not Path("a.ply").exists()


def test_build_voxels_and_verify(here, capsys):
    write_archive(here / "boxes.npz", count=9, resolution=8)
    (here / "broken.npz").write_bytes(b"broken")
    build = ["data", "import", "voxels", "boxes.npz", "broken.npz", "set", *SMALL]
    assert run(*build) == 0
    out = capsys.readouterr().out
    assert "9 shapes (6 train, 3 val) in 2 shards, 1 skipped" in out
    assert "skipped broken.npz: broken.npz: not a readable .npz archive" in out
    assert run("data", "verify", "set") == 0
    assert run(*build) == 0  # nothing left to do
    shard = here / "set" / Manifest.load("set").shards[0].file
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    assert_refused(capsys, "data", "verify", "set", message=f"{shard.name}: SHA-256 differs")


def test_images_stay_in_their_folder(here, capsys):
    voxels = np.ones((3, 4, 4, 4), bool)
    np.savez("odd.npz", voxels=voxels, id=["../up", "a/b", "plain"], split=["train"] * 3)
    assert run("data", "import", "voxels", "odd.npz", "set", *SMALL) == 0
    assert run("data", "images", "set", "out", "--split", "train") == 0
    names = {path.name for path in Path("out").iterdir()}
    assert names == {".._up.png", "a_b.png", "plain.png"}
    assert Image.open("out/plain.png").size == (16, 16)
    assert not Path("up.png").exists()
    message = "set: has no shapes in split 'val'"
    assert_refused(capsys, "data", "images", "set", "out", message=message)


def test_images_of_ids_that_make_one_name_or_a_long_one(here, capsys):
    ids = ["a/b_c", "a_b/c", "\u6f22" * 100, "two\nlines"]
    np.savez("odd.npz", voxels=np.ones((4, 4, 4, 4), bool), id=ids, split=["train"] * 4)
    assert run("data", "import", "voxels", "odd.npz", "set", *SMALL) == 0
    assert run("data", "images", "set", "out", "--split", "train") == 0
    names = {path.name for path in Path("out").iterdir()}
    assert names == {"a_b_c.png", "a_b_c_.png", "two_lines.png", "\u6f22" * 66 + ".png"}


def test_too_few_voxels_to_hold_some_out(here, capsys):
    np.savez("few.npz", voxels=np.ones((3, 4, 4, 4), bool))
    assert run("data", "import", "voxels", "few.npz", "set", *SMALL) == 0
    message = "warning: no val shapes: there are too few shapes; `occvae data split`"
    assert message in capsys.readouterr().out


def test_what_files_say_is_printed_on_one_line(here, capsys):
    np.savez("odd.npz", voxels=np.zeros((2, 4, 4, 4)) + [[[[1]]], [[[0]]]], id=["a", "b\n\x1b[2J"])
    assert run("data", "import", "voxels", "odd.npz", "set", *SMALL) == 0
    text = "".join(capsys.readouterr())
    assert r"  skipped b\n\x1b[2J: shape is empty" in text.splitlines() and "\x1b[2J" not in text


def test_images_are_named_by_what_they_are(here, monkeypatch):
    np.savez("solid.npz", voxels=np.ones((1, 4, 4, 4), bool), id=["solid"], split=["train"])
    assert run("data", "import", "voxels", "solid.npz", "set", *SMALL) == 0
    photograph = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(photograph, "JPEG")
    monkeypatch.setattr(Shard, "image", lambda *_: photograph.getvalue())
    assert run("data", "images", "set", "out", "--split", "train") == 0
    assert [path.name for path in Path("out").iterdir()] == ["solid.jpeg"]


def test_build_procedural(here, capsys):
    assert run("data", "build", "procedural", "set", "--shapes-per-category", 1, *SMALL) == 0
    manifest = Manifest.load("set")
    assert sum(entry.num_shapes for entry in manifest.shards) == len(manifest.categories) == 12
    assert_refused(
        capsys,
        *("data", "build", "procedural", "set", "--shapes-per-category", 1, *SMALL, "--seed", 1),
        message="set: holds a dataset built with other settings",
    )


def test_shapes_of_another_generator_are_not_continued(here, capsys):
    build = ("data", "build", "procedural", "set", "--shapes-per-category", 1, *SMALL)
    assert run(*build) == 0
    manifest = Manifest.load("set")
    del manifest.settings["generator"]  # as in datasets of version 1
    manifest.complete = False
    manifest.save(Path("set"))
    assert_refused(capsys, *build, message="other settings or from other files (generator)")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["build", "procedural", "set", "--shapes-per-category", 0],
            "shapes_per_category must be at least 1",
        ),
        (
            ["build", "procedural", "set", "--points", 100],
            "num_points must be a multiple of 8, got 100",
        ),
        (["build", "procedural", "set", "--views", 0], "num_views must be at least 1"),
        (["build", "procedural", "set", "--image-size", -1], "image_size must be at least 1"),
        (["build", "procedural", "set", "--seed", -1], "seed must be at least 0"),
        (["build", "procedural", "set", "--workers", 0], "workers must be at least 1, got 0"),
        (["build", "procedural", "photo.png"], "File exists"),
        (["import", "voxels", "missing.npz", "set"], "missing.npz: no such file"),
        (["import", "voxels", "photo.png", "set"], "photo.png: not a voxel file; expected .npz"),
    ],
)
def test_wrong_builds(here, capsys, arguments, message):
    assert_refused(capsys, "data", *arguments, message=message)


@pytest.mark.parametrize("suffix", FORMATS)
def test_reconstruct_writes_every_format(here, capsys, model, suffix):
    output = here / "new" / f"photo.{suffix}"
    arguments = ["reconstruct", "photo.png", "-o", output, "--model", model, "--resolution", 32]
    assert run(*arguments, "--threshold", 0.5) == 0
    mesh = trimesh.load(output, force="mesh")
    assert mesh.is_watertight
    np.testing.assert_allclose(np.abs(mesh.vertices - CENTER).sum(axis=1), RADIUS, atol=0.04)
    preview = np.asarray(Image.open(output.with_suffix(".preview.png")))
    height = preview.shape[0]
    assert preview.shape == (height, 5 * height, 3)
    assert all((preview[:, i * height : (i + 1) * height] < 200).any() for i in range(5))
    assert f"photo.png -> {output}" in capsys.readouterr().out


def test_a_mesh_beside_the_image_does_not_change_the_image(here, model):
    before = (here / "photo.png").read_bytes()
    assert (
        run("reconstruct", "photo.png", "-o", "photo.GLB", "--model", model, "--resolution", 32)
        == 0
    )
    assert (here / "photo.png").read_bytes() == before
    assert len(trimesh.load(here / "photo.GLB", file_type="glb", force="mesh").faces) > 0


def test_the_decoder_is_packed_in_the_precision_of_the_option(here, model, monkeypatch):
    packed, pack = [], CbnDecoder.pack

    def watched(self, conditioning, precision=None):
        packed.append(precision)
        return pack(self, conditioning, precision)

    monkeypatch.setattr(CbnDecoder, "pack", watched)
    arguments = ["reconstruct", "photo.png", "-o", "a.ply", "--model", model, "--resolution", 32]
    for option in ([], ["--precision", "bf16"]):
        assert run(*arguments, *option) == 0
    assert packed == [None, "bf16"]


def test_precision_is_an_error_without_a_fused_decoder(here, capsys):
    arguments = ["reconstruct", "photo.png", "-o", "a.ply", "--precision", "fp16", "--model"]
    for unfused in (tiny_voxel_model(), tiny_model(decoder="cnn")):
        save_pretrained(unfused, here / unfused.arch)
        message = f"--precision: {unfused.arch} with these options has no fused decoder"
        assert_refused(capsys, *arguments, unfused.arch, message=message)


def test_reconstruct_writes_several_images_into_a_folder(here, model):
    shutil.copy("photo.png", "other.png")
    (here / "meshes.v1").mkdir()
    arguments = ["--model", model, "--resolution", 32]
    assert run("reconstruct", "photo.png", "other.png", "-o", "meshes.v1", *arguments) == 0
    assert run("reconstruct", "photo.png", "-o", "meshes.v1", *arguments) == 0
    names = {path.name for path in (here / "meshes.v1").iterdir()}
    assert names == {
        f"{stem}.{kind}" for stem in ("photo", "other") for kind in ("glb", "preview.png")
    }


def test_the_newest_run_is_the_default_model(here, model):
    shutil.copytree(model, here / "runs" / "one" / "last")
    assert run("reconstruct", "photo.png", "-o", "a.ply", "--resolution", 32) == 0


def test_output_paths_follow_the_images_and_the_format():
    assert output_paths(["a/b.jpg"], "out.OBJ") == [Path("out.OBJ")]
    assert output_paths(["a/b.jpg"], "out") == [Path("out/b.glb")]
    assert output_paths(["a.jpg", "b.jpg"], "out") == [Path("out/a.glb"), Path("out/b.glb")]
    with pytest.raises(UserError, match="unknown mesh format; choose from .glb, .obj"):
        output_paths(["a.jpg"], "out.fbx")
    with pytest.raises(UserError, match="2 images make 2 meshes; give a folder"):
        output_paths(["a.jpg", "b.jpg"], "out.glb")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.png"], "missing.png: no such file"),
        (["runs.txt"], "runs.txt: not an image"),
        (["photo.png", "--resolution", 101], "nearest valid are 100 and 102"),
        (["photo.png", "--resolution", 0], "resolution must be"),
        (["photo.png", "--resolution", 1 << 20], "choose a lower resolution"),
        (["photo.png", "--threshold", 2], "threshold must be a probability"),
        (["photo.png", "--threshold", "nan"], "threshold must be a probability"),
        (["photo.png", "--precision", "fp8"], "--precision fp8: choose from fp32, fp16, bf16"),
        (["photo.png", "--model", "nowhere"], "nowhere: no such run or export"),
        (["photo.png", "-o", "out.xyz"], "out.xyz: unknown mesh format"),
        (["photo.png", "-o", "photo.png/out.glb"], "photo.png"),
        (["photo.png", "photo.png"], "give a folder"),
    ],
)
def test_wrong_arguments_of_reconstruct_are_errors(here, capsys, model, arguments, message):
    (here / "runs.txt").write_text("text")
    defaults = ["-o", "out.glb", "--model", model, "--resolution", 32]
    assert_refused(capsys, "reconstruct", *defaults, *arguments, message=message)
    assert not list(here.glob("out*"))


def test_an_empty_field_is_an_error(here, capsys, blind):
    arguments = ["reconstruct", "photo.png", "-o", "out.glb", "--model", blind, "--resolution", 32]
    message = "photo.png: the prediction has no surface; try a lower --threshold"
    assert_refused(capsys, *arguments, message=message)


def test_without_a_run_the_built_in_model_is_used_and_named(here, capsys):
    assert run("reconstruct", "photo.png", "-o", "out.glb", "--resolution", 32) == 0
    note = "no run in runs/: using the built-in model vitocc-small, which knows the 12 categories"
    assert note in capsys.readouterr().err
    assert run("reconstruct", "photo.png", "-o", "out.glb", "--resolution", 32, "--quiet") == 0
    assert "built-in" not in capsys.readouterr().err


def test_evaluation_of_the_built_in_model_needs_a_dataset(here, capsys, tiny_dataset):
    assert_refused(capsys, "evaluate", message="give the dataset with --data")
    arguments = ["evaluate", "--data", tiny_dataset, "--no-meshes", "--shapes", 2]
    assert run(*arguments) == 0
    assert list(here.glob("evaluation-*.json"))  # not in the installed package


def test_evaluate_writes_the_report(here, capsys, model, tiny_dataset):
    arguments = ["evaluate", "--model", model, "--data", tiny_dataset, "--no-meshes"]
    assert run(*arguments, "--json", "deep/report.json") == 0
    out = capsys.readouterr().out
    report = json.loads((here / "deep" / "report.json").read_text())
    assert report["model"]["path"] == model and report["data"]["split"] == "val"
    assert f"{report['metrics']['iou_points']['micro']['mean']:.4f}" in out
    assert run(*arguments, "--split", "train") == 0
    beside = json.loads((Path(model) / "evaluation-data-train-no-meshes.json").read_text())
    assert beside["data"]["split"] == "train"
    assert beside["data"]["num_shapes"] > report["data"]["num_shapes"]
    # This model ignores its images.
    found = report["metrics"]["iou_voxels"]["micro"]["mean"]
    assert 0 < found < 1
    assert report["controls"]["mean_shape"]["micro"]["mean"] > found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", "test"], "has no shapes in split 'test'"),
        (["--data", "nowhere"], "nowhere/dataset.json: no dataset here"),
        (["--threshold", "high"], "--threshold high: expected a probability or val"),
        (["--resolution", "101", "--shapes", "1"], "nearest valid are 100 and 102"),
        (["--precision", "double"], "--precision double: choose from fp32, fp16, bf16"),
        (["--model", "nowhere"], "nowhere: no such run or export"),
    ],
)
def test_wrong_arguments_of_evaluate_are_errors(
    here, capsys, model, tiny_dataset, arguments, message
):
    defaults = ["evaluate", "--model", model, "--data", tiny_dataset]
    assert_refused(capsys, *defaults, *arguments, message=message)


def test_options_cannot_be_abbreviated(capsys):
    """Otherwise --view 4 would mean --views 4."""
    with pytest.raises(SystemExit):
        main(["data", "import", "meshes", "a", "b", "--view", "4"])
    errors = capsys.readouterr().err
    assert errors == "error: unrecognized arguments: --view 4; did you mean --views?\n"


def test_a_folder_is_not_imported_into_itself(tmp_path, capsys):
    trimesh.creation.box().export(tmp_path / "box.off")
    assert main(["data", "import", "meshes", str(tmp_path), str(tmp_path) + "/"]) == 2
    assert "is the folder to import; choose another" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["box.off"]


def test_a_closed_pipe_ends_the_command_without_an_error(tiny_dataset):
    command = f"{sys.executable} -m occvae data info {tiny_dataset} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert done.stderr == "" and done.stdout.strip() in ("0", "141")


def test_occvae_metrics_needs_no_import_of_its_own():
    run_fresh("import occvae; assert occvae.metrics.PROTOCOLS")


def test_evaluate_prints_json(here, capsys, model, tiny_dataset):
    arguments = ["evaluate", "--model", model, "--data", tiny_dataset, "--no-meshes", "--shapes", 4]
    assert run(*arguments, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(
        (Path(model) / "evaluation-data-val-no-meshes-shapes-4.json").read_text()
    )
    assert printed["data"]["num_shapes"] == 4

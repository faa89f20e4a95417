"""Voxel models use the same trainer, evaluation and files as implicit models."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import occvae
from occvae.cli.main import main
from occvae.evaluation import evaluate
from occvae.images.io import encode_png
from occvae.train.checkpoint import list_checkpoints
from occvae.train.config import apply_overrides
from occvae.train.objectives import create_objective
from occvae.train.presets import make_preset
from occvae.train.trainer import Trainer
from tests.fakes import tiny_voxel_model
from tests.tiny import TINY_VOXEL_RUN, build_tiny_dataset
from tests.train.runs import assert_refused, assert_same_weights, metrics, run, succeed


def arguments(arch: str, *more: str) -> list[str]:
    return ["--arch", arch, *TINY_VOXEL_RUN, *more]


@pytest.fixture(scope="module")
def trained(tiny_voxel_dataset, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "vae"
    steps = ["optim.steps=80", "validate_every=80", "save_every=80", "data.num_views=1"]
    succeed(
        tiny_voxel_dataset,
        out,
        *arguments("pix2vox-vae", *steps, "optim.batch_size=8"),
        sheets=True,
    )
    return out


@pytest.mark.slow
def test_training_learns_from_the_image(trained, tiny_voxel_dataset):
    model = occvae.from_pretrained(trained / "last")
    report = evaluate(model, tiny_voxel_dataset, mesh_resolution=None)
    metrics, controls = report["metrics"], report["controls"]
    found = metrics["iou_voxels"]["micro"]["mean"]
    assert found > controls["mean_shape"]["micro"]["mean"] + 0.03, report
    assert found > controls["shuffled_images"]["micro"]["mean"] + 0.08, report
    assert metrics["iou_points"]["micro"]["mean"] == pytest.approx(found, abs=0.1)


@pytest.mark.slow
def test_a_run_leaves_its_records(trained):
    lines = metrics(trained)
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert losses[-1] < losses[0]
    assert lines[-2]["train/active_units"] > 0 and lines[-2]["train/kl"] > 1, lines
    for name in ("step-0000080.png", "prior-0000080.png"):
        assert (trained / "samples" / name).stat().st_size > 1000


@pytest.mark.slow
def test_reconstruct_and_evaluate_commands(trained, tiny_voxel_dataset, tmp_path, capsys):
    images = tmp_path / "images"
    assert main(["data", "images", str(tiny_voxel_dataset), str(images), "--count", "2"]) == 0
    files = sorted(map(str, images.glob("*.png")))
    model = ["--model", str(trained), "--resolution", "32"]
    mesh = str(tmp_path / "mesh.glb")
    assert main(["reconstruct", *files, "-o", mesh, *model, "--together", "--blocks"]) == 0
    assert main(["reconstruct", *files, "-o", str(tmp_path / "meshes"), *model]) == 0
    assert len(list((tmp_path / "meshes").glob("*.glb"))) == 2
    report = tmp_path / "report.json"
    views = ["--views", "1,2", "--shapes", "6", "--json", str(report)]
    assert main(["evaluate", "--model", str(trained), *views]) == 0
    out = capsys.readouterr().out
    assert "F@1%, mean of shapes" in out
    assert "Pix2Vox++" not in out  # its figures are for other shapes
    assert set(json.loads(report.read_text())["views"]["by_views"]) == {"1", "2"}
    assert main(["evaluate", "--model", str(trained), "--views", "1,x"]) == 2


def test_transparent_images_get_the_background_of_the_model(tiny_voxel_dataset, monkeypatch):
    clear = encode_png(np.zeros((9, 9, 4), np.uint8))
    monkeypatch.setattr("occvae.data.shards.Shard.image", lambda *place: clear)
    trainer = object.__new__(Trainer)
    trainer.model = tiny_voxel_model(background_gray=240)
    data = [f"data.root={tiny_voxel_dataset}", "data.augment=false"]
    trainer.config = apply_overrides(make_preset("default", "pix2vox-a"), data)
    trainer.objective = create_objective(trainer.model, trainer.config.optim)
    for split in ("train", "val"):
        assert (trainer._dataset(split, 8, 1)[0]["images"] == 240).all()


def test_the_second_stage_trains_only_what_is_not_frozen(tiny_voxel_dataset, tmp_path):
    """The second stage starts from the first, keeps frozen parts, and trains the merger."""
    first, second = tmp_path / "first", tmp_path / "second"
    steps = ["optim.steps=2", "validate_every=2", "optim.batch_size=2", "validate_shapes=2"]
    succeed(tiny_voxel_dataset, first, *arguments("pix2voxpp-a", *steps))
    fusion = ["data.num_views=3", "data.min_views=1", f"initial_weights={first}"]
    frozen = 'frozen=["encoder","decoder"]'
    succeed(tiny_voxel_dataset, second, *arguments("pix2voxpp-a", *steps, *fusion, frozen))
    before, after = (load_file(run / "last" / "model.safetensors") for run in (first, second))
    for name in before:
        changed = not torch.equal(before[name], after[name])
        assert changed == name.startswith(("merger", "refiner")), name


@pytest.mark.parametrize(
    ("arch", "resolution"),
    [("pix2vox-vae", 64), pytest.param("pix2voxpp-f", 128, marks=pytest.mark.slow)],
)
def test_models_of_finer_grids_train_and_make_meshes(arch, resolution, tmp_path):
    build_tiny_dataset(tmp_path, voxel_resolution=resolution, count=6)
    steps = ["optim.steps=1", "log_every=1", "validate_shapes=1", "optim.batch_size=2"]
    finer = [*arguments(arch, *steps), f"model.resolution={resolution}", "data.num_views=1"]
    run_folder = tmp_path / "run"
    succeed(tmp_path / "data", run_folder, *finer, "data.min_views=null")
    assert metrics(run_folder)[0]["train/loss"] > 0
    model = occvae.from_pretrained(run_folder / "last")
    volume = model.predict_voxels(torch.rand(1, 1, 3, 64, 64))
    assert volume.shape == (1, resolution, resolution, resolution)
    # After one step the volume is noise with many equal values. A few voxels are enough.
    volume[:, 16:] = volume[:, :, 16:] = 0.0
    high = volume.flatten().topk(100).values[-1].item()
    [mesh] = model.mesh(volume, threshold=high, blocks=True)
    assert len(mesh.faces) and mesh.is_watertight


@pytest.mark.slow
def test_resume_continues_bit_for_bit(tiny_voxel_dataset, tmp_path):
    """This includes latent noise, numbers of views and augmentations."""
    options = ["validate_every=4", "save_every=2", "data.num_views=2", "data.min_views=1"]
    options += ["data.augment=true", "optim.steps=4"]
    succeed(tiny_voxel_dataset, tmp_path / "straight", *arguments("pix2vox-vae", *options))
    out = tmp_path / "resumed"
    (out / "samples" / "step-0000004.png").mkdir(parents=True)  # blocks the last contact sheet
    assert_refused(
        run(tiny_voxel_dataset, out, *arguments("pix2vox-vae", *options), sheets=True),
        "step-0000004.png",
    )
    assert [folder.name for folder in list_checkpoints(out)] == ["step-0", "step-2"]
    (out / "samples" / "step-0000004.png").rmdir()
    succeed(tiny_voxel_dataset, out, "--resume")
    assert_same_weights(tmp_path / "straight", out)


@pytest.mark.slow
def test_two_ranks_train_like_one_of_twice_the_batch(tiny_voxel_dataset, tmp_path):
    """With parameters that only some steps use, and separate learning rates, under ZeRO 2."""
    steps = ["optim.steps=2", "validate_every=2", "precision=fp32", "log_every=1"]
    steps += ["data.num_views=2", "frozen=[]", "zero_stage=2", "validate_shapes=2"]
    options = arguments("pix2voxpp-a", *steps, "optim.batch_size=2")
    succeed(tiny_voxel_dataset, tmp_path / "two", *options, "optim.batch_size=1", ranks=2)
    succeed(tiny_voxel_dataset, tmp_path / "one", *options)
    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert two[0]["train/loss"] == pytest.approx(one[0]["train/loss"], rel=1e-4)
    assert two[0]["train/grad_norm"] == pytest.approx(one[0]["train/grad_norm"], rel=1e-3)


def test_mistakes_end_in_one_line(tiny_dataset, tmp_path):
    out = tmp_path / "run"
    refused = run(tiny_dataset, out, *arguments("pix2vox-a"))
    assert_refused(refused, "has no voxels of 32^3 (stored: 16^3); make")
    refused = run(tiny_dataset, out, *arguments("pix2vox-a", 'frozen=["encode"]'))
    assert_refused(refused, "the model has no part 'encode'; its parts are encoder, decoder")
    refused = run(tiny_dataset, out, *arguments("pix2vox-a", f"initial_weights={tmp_path}"))
    assert_refused(refused, "holds no config.json")

"""Models of point clouds, voxel grids and labeled points use the same trainer as all others."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch

import occvae
from occvae.cli.main import main
from occvae.evaluation import evaluate
from occvae.evaluation.inputs import evaluate_inputs, parse_inputs
from tests.tiny import TINY_OBSERVING_MODELS, TINY_OBSERVING_RUN
from tests.train.ranks import no_rank_left
from tests.train.runs import assert_refused, assert_same_weights, metrics, run, succeed

pytestmark = pytest.mark.usefixtures(no_rank_left.__name__)
ARCHS = [
    arch if arch == "onet-points" else pytest.param(arch, marks=pytest.mark.slow)
    for arch in TINY_OBSERVING_MODELS
]

TRIPLANE = [
    "model.decoder=triplane",
    'model.plane_options={"size": 16, "patches": 4, "width": 32, "num_layers": 1}',
]
GENERATIVE = ("occvae", "onet-vae")


def arguments(arch: str, *more: str) -> list[str]:
    return ["--arch", arch, *TINY_OBSERVING_MODELS[arch], *TINY_OBSERVING_RUN, *more]


@pytest.fixture(scope="module", params=ARCHS)
def trained(request, tiny_cloud_dataset, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / request.param
    count = 240 if request.param == "onet-voxels" else 140
    steps = [f"optim.steps={count}", f"validate_every={count}", "save_every=500", "optim.lr=5e-3"]
    succeed(tiny_cloud_dataset, out, *arguments(request.param, *steps), sheets=True)
    return out


def test_training_learns_from_what_is_observed(trained, tiny_cloud_dataset):
    model = occvae.from_pretrained(trained / "last")
    report = evaluate(model, tiny_cloud_dataset, mesh_resolution=None)
    controls = report["controls"]
    if trained.name in GENERATIVE:  # they need more steps, see the next test
        return
    found = report["metrics"]["iou_voxels"]["micro"]["mean"]
    assert found > controls["mean_shape"]["micro"]["mean"] + 0.05, report
    assert found > controls["shuffled_inputs"]["micro"]["mean"] + 0.1, report


@pytest.mark.slow
@pytest.mark.parametrize("decoder", [[], TRIPLANE], ids=["cbn", "triplane"])
def test_a_mixture_learns_from_each_of_its_inputs(decoder, tiny_cloud_dataset, tmp_path):
    steps = ["optim.steps=800", "validate_every=800", "model.grid_encoder_channels=8"]
    succeed(tiny_cloud_dataset, tmp_path / "run", *arguments("occvae", *steps, *decoder))
    model = occvae.from_pretrained(tmp_path / "run")
    sets = parse_inputs("images:1,points:64,scan,voxels", model)
    report = evaluate_inputs(model, tiny_cloud_dataset, sets)
    for name, found in report["by_inputs"].items():
        iou, shuffled = (found[key]["micro"]["mean"] for key in ("iou_voxels", "shuffled_inputs"))
        assert iou > shuffled + 0.1, (name, report)


def test_a_mixture_with_a_triplane_trains_and_is_evaluated(tiny_cloud_dataset, tmp_path, capsys):
    out = tmp_path / "run"
    steps = ["optim.steps=4", "validate_every=4"]
    succeed(tiny_cloud_dataset, out, *arguments("occvae", *steps, *TRIPLANE), sheets=True)
    assert len(list((out / "samples").glob("prior-*.png"))) == 1
    words = ["--inputs", "images:1,voxels,images:1+scan", "--shapes", "4", "--no-meshes"]
    assert main(["evaluate", "--model", str(out), *words]) == 0
    assert "\nimages:1+scan  0." in capsys.readouterr().out


@pytest.mark.slow
def test_the_autoencoder_learns_from_labeled_points(tiny_cloud_dataset, tmp_path):
    """It has no norms, so it needs ten times as many steps as the others."""
    steps = ["optim.steps=1500", "validate_every=1500", "optim.lr=5e-3"]
    succeed(tiny_cloud_dataset, tmp_path / "run", *arguments("onet-vae", *steps))
    model = occvae.from_pretrained(tmp_path / "run")
    report = evaluate(model, tiny_cloud_dataset, mesh_resolution=None)
    found = report["metrics"]["iou_voxels"]["micro"]["mean"]
    assert found > report["controls"]["shuffled_inputs"]["micro"]["mean"] + 0.04, report


def test_a_run_leaves_its_records(trained):
    lines = metrics(trained)
    [sheet] = (trained / "samples").glob("step-*.png")
    assert sheet.stat().st_size > 1000
    generative = trained.name in GENERATIVE
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert losses[-1] < losses[0] or generative  # the weight of its KL term rises
    assert len(list((trained / "samples").glob("prior-*.png"))) == generative
    assert ("train/kl" in lines[-2]) == generative
    config = json.loads((trained / "best" / "config.json").read_text())
    assert config["arch"] == trained.name


def test_evaluate_writes_a_table_and_a_page(trained, tiny_cloud_dataset, tmp_path, capsys):
    report, page = tmp_path / "report.json", tmp_path / "report.html"
    files = ["--json", str(report), "--html", str(page), "--shapes", "4", "--resolution", "32"]
    assert main(["evaluate", "--model", str(trained), *files]) == 0
    out = capsys.readouterr().out
    noun = {
        "occvae": "input",
        "onet-points": "point cloud",
        "onet-voxels": "voxel grid",
        "onet-vae": "labeled point",
    }
    assert f"predictions that do not use the shape's {noun[trained.name]}" in out
    assert "shuffled" in out and page.stat().st_size > 10_000
    found = json.loads(report.read_text())
    assert {"shuffled_inputs", "mean_shape"} <= found["controls"].keys()
    assert main(["evaluate", "--model", str(trained), "--views", "1,2"]) == 2
    error = f"error: --views compares numbers of images, but {trained.name} observes "
    assert capsys.readouterr().err.startswith(error)


def test_evaluation_needs_no_surfaces_of_training_shapes(tiny_dataset):
    """The mean shapes of the controls come from the voxels of the training shapes."""
    torch.manual_seed(0)
    model = occvae.create_model("onet-points", encoder_size=8, hidden_size=8, num_blocks=1)
    report = evaluate(model, tiny_dataset, mesh_resolution=None, num_shapes=3)
    assert {"shuffled_inputs", "mean_shape"} <= report["controls"].keys()


def die_at_step_30() -> None:
    from occvae.train.trainer import Trainer

    take_step = Trainer._step

    def take_step_or_die(self, *arguments):
        take_step(self, *arguments)
        if self.progress.step == 30:
            os.kill(os.getpid(), signal.SIGKILL)

    Trainer._step = take_step_or_die


@pytest.mark.parametrize(
    ("arch", "more"),
    [
        ("onet-points", []),
        pytest.param("onet-voxels", [], marks=pytest.mark.slow),
        pytest.param("onet-vae", [], marks=pytest.mark.slow),
        pytest.param("occvae", [], marks=pytest.mark.slow),
        pytest.param("occvae", TRIPLANE, marks=pytest.mark.slow, id="occvae-triplane"),
    ],
)
def test_resume_continues_bit_for_bit(arch, more, tiny_cloud_dataset, tmp_path):
    steps = ["optim.steps=40", "save_every=20", "validate_every=1000", *more]
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    succeed(tiny_cloud_dataset, straight, *arguments(arch, *steps))
    loader = "data.num_workers=1"
    [rank] = run(
        tiny_cloud_dataset, resumed, *arguments(arch, *steps, loader), prepare=die_at_step_30
    )
    assert rank.status() == 128 + signal.SIGKILL, rank.text()
    succeed(tiny_cloud_dataset, resumed, "--resume")
    assert_same_weights(straight, resumed)


@pytest.mark.parametrize(
    ("arch", "stage"),
    [
        ("onet-points", 1),
        pytest.param("onet-points", 3, marks=pytest.mark.slow),
        pytest.param("onet-voxels", 1, marks=pytest.mark.slow),
    ],
)
def test_two_ranks_train_like_one_of_twice_the_batch(arch, stage, tiny_cloud_dataset, tmp_path):
    steps = ["optim.steps=2", "validate_every=2", "precision=fp32", "log_every=1"]
    words = arguments(arch, *steps)
    two = [*words, "optim.batch_size=2", f"zero_stage={stage}"]
    succeed(tiny_cloud_dataset, tmp_path / "two", *two, ranks=2)
    succeed(tiny_cloud_dataset, tmp_path / "one", *words)
    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert two[0]["train/loss"] == pytest.approx(one[0]["train/loss"], rel=1e-5)
    assert two[0]["train/grad_norm"] == pytest.approx(one[0]["train/grad_norm"], rel=1e-4)


@pytest.mark.parametrize(
    ("arch", "stage", "more"),
    [
        ("onet-vae", 1, []),
        ("occvae", 1, []),
        pytest.param("occvae", 2, [], marks=pytest.mark.slow),
        pytest.param("occvae", 3, [], marks=pytest.mark.slow),
        pytest.param("occvae", 3, TRIPLANE, marks=pytest.mark.slow),
    ],
)
def test_two_ranks_draw_latents_of_their_own(arch, stage, more, tiny_cloud_dataset, tmp_path):
    steps = ["optim.steps=4", "validate_every=4", "optim.batch_size=2", "log_every=1"]
    words = arguments(arch, *steps, f"zero_stage={stage}", *more)
    succeed(tiny_cloud_dataset, tmp_path / "two", *words, ranks=2)
    assert metrics(tmp_path / "two")[-1]["val/iou"] >= 0


def test_a_dataset_without_surfaces_is_refused(tiny_dataset, tmp_path):
    ranks = run(tiny_dataset, tmp_path / "run", *arguments("onet-points", "optim.steps=2"))
    assert_refused(ranks, "make the dataset again with --training-surface")

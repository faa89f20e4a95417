"""A new architecture needs one definition and one registration, and so does a new training target.

Training, export, evaluation and reconstruction then work without other changes.
docs/contributing/add_an_architecture.md explains the steps.
"""

import json

import pytest
import torch
import trimesh
from PIL import Image
from torch import Tensor, nn

from occvae.cli.main import main
from occvae.data.targets import VoxelTarget
from occvae.models import create_model, from_pretrained, registry
from occvae.models.decoders import CbnDecoder
from occvae.models.occupancy import OccupancyModel
from occvae.models.protocol import VoxelModel, VoxelOutput
from occvae.models.registry import register_model
from occvae.train import objectives
from tests.tiny import RESOLUTION
from tests.train.ranks import no_rank_left, start  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("no_rank_left")
SETTINGS = ["data.num_points=64", "data.num_workers=0", "optim.batch_size=4", "optim.steps=4"]
SETTINGS += ["validate_every=4", "validate_shapes=4", "validate_points=64", "log_every=2"]


class MeanColor(nn.Module):
    """Encodes images (B, 3, S, S) by their mean color, to embeddings (B, E)."""

    def __init__(self, embedding_size: int):
        super().__init__()
        self.linear = nn.Linear(3, embedding_size)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.mean(dim=(2, 3)))


def color_field(*, embedding_size: int = 8, threshold: float = 0.3) -> OccupancyModel:
    """An implicit architecture: an encoder and a decoder."""
    decoder = CbnDecoder(embedding_size, hidden_size=16, num_blocks=1)
    return OccupancyModel(MeanColor(embedding_size), decoder, image_size=8, threshold=threshold)


class ColorGrid(VoxelModel):
    """A voxel model defines only `forward`."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.encoder = MeanColor(self.resolution**3)

    def forward(self, images: Tensor) -> VoxelOutput:
        logits = self.encoder(images.mean(dim=1))
        volume = logits.float().sigmoid().view(-1, *3 * (self.resolution,))
        return VoxelOutput(volume, volume)


def color_grid(*, resolution: int = RESOLUTION, threshold: float = 0.3) -> ColorGrid:
    return ColorGrid(resolution=resolution, image_size=8, threshold=threshold)


class ColorShare(ColorGrid):
    """Predicts one probability for all voxels, and learns the occupied share of the cube."""

    target = "share"

    def __init__(self, **settings):
        super().__init__(**settings)
        self.encoder = MeanColor(1)

    def forward(self, images: Tensor) -> VoxelOutput:
        share = self.encoder(images.mean(dim=1)).float().sigmoid()
        volume = share[:, :, None, None].expand(-1, *3 * (self.resolution,))
        return VoxelOutput(volume, volume)


def color_share(*, resolution: int = RESOLUTION, threshold: float = 0.3) -> ColorShare:
    return ColorShare(resolution=resolution, image_size=8, threshold=threshold)


class ShareTarget(VoxelTarget):
    """Reads share (1,) float32, the occupied share of the voxels."""

    def layout(self, shard):
        return {"share": ((1,), torch.float32)}

    def read(self, *place, **options):
        return {"share": super().read(*place, **options)["voxels"].float().mean()[None]}


class ShareObjective(objectives.VoxelObjective):
    """Defines `target = "share"`, from the stored shape to the loss."""

    def data_target(self, model, num_points, num_near_points):
        return ShareTarget(model.resolution)

    def loss(self, output, batch, step):
        return (output.refined[:, 0, 0, :1] - batch["share"]).square().mean(), {}

    def iou_inputs(self, output, batch):
        return output.refined[:, 0, 0, :1].float(), batch["share"] > 0.1


ARCHITECTURES = {"color-field": color_field, "color-grid": color_grid, "color-share": color_share}


def register() -> None:
    """Registers the architectures and the target, one line each."""
    for build in ARCHITECTURES.values():
        register_model(build)
    objectives.OBJECTIVES["share"] = ShareObjective


@pytest.fixture(autouse=True)
def registered(monkeypatch) -> None:
    monkeypatch.setattr(registry, "_ARCHITECTURES", dict(registry._ARCHITECTURES))
    monkeypatch.setattr(objectives, "OBJECTIVES", dict(objectives.OBJECTIVES))
    register()


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_an_architecture_trains_exports_evaluates_and_reconstructs(arch, tiny_dataset, tmp_path):
    run, report, image = (tmp_path / name for name in ("run", "report.json", "red.png"))
    arguments = ["--arch", arch, "--preset", "cpu-small", "--data", tiny_dataset, "--out", run]
    [rank] = start(tmp_path, [*arguments, *SETTINGS], prepare=register)
    assert rank.status() == 0, rank.text()

    torch.manual_seed(0)  # the seed of the run
    trained, fresh = from_pretrained(run), create_model(arch)
    assert (trained.arch, trained.options) == (arch, fresh.options)
    assert not torch.equal(trained.encoder.linear.weight, fresh.encoder.linear.weight)

    model = ["--model", run, "--resolution", 32]
    assert occvae(["evaluate", *model, "--shapes", 2, "--json", report]) == 0
    found = json.loads(report.read_text())
    assert found["model"]["arch"] == arch and len(found["shapes"]) == 2
    assert {"iou_points", "iou_voxels", "iou_mesh"} <= found["metrics"].keys()

    Image.new("RGB", (8, 8), (200, 30, 30)).save(image)
    meshes = [tmp_path / "mesh.glb", "--background", "keep"]
    assert occvae(["reconstruct", image, *model, "-o", *meshes]) == 0
    assert len(trimesh.load(tmp_path / "mesh.glb", force="mesh").faces)


def occvae(words: list) -> int:
    return main([str(word) for word in words])

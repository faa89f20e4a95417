"""The contract that every registered architecture keeps, whichever they are."""

import json

import pytest
import torch

from occvae.models import create_model, list_models
from occvae.models.protocol import ImplicitModel, Model, VoxelModel
from occvae.train.objectives import OBJECTIVES
from tests.fakes import ball_model, tiny_model, tiny_voxel_model


@pytest.mark.parametrize("arch", list_models())
def test_every_architecture_keeps_the_contract(arch):
    with torch.device("meta"):
        model = create_model(arch)
    assert isinstance(model, Model) and model.training
    assert isinstance(model, ImplicitModel) != isinstance(model, VoxelModel)
    assert model.target in OBJECTIVES
    assert json.loads(json.dumps(model.options)) == model.options


def test_a_model_that_lacks_a_part_of_the_contract_is_not_made():
    class Blind(ImplicitModel):
        def predict_points(self, images, points):
            return points[..., 0]

    with pytest.raises(TypeError, match="abstract methods predict_voxels, reconstruct"):
        Blind(image_size=8, threshold=0.5)


def test_only_fused_decoders_know_a_precision():
    assert tiny_model().has_fused_decoder
    assert not tiny_model(decoder="cnn").has_fused_decoder
    assert not ball_model().has_fused_decoder
    assert not tiny_voxel_model().has_fused_decoder

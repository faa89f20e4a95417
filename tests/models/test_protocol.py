"""Every registered architecture fulfills the interface of `Model`."""

import json

import pytest
import torch

from occvae.models import create_model, list_models
from occvae.models.protocol import ImplicitModel, Model, VoxelModel
from occvae.train.objectives import OBJECTIVES
from tests.fakes import ball_model, tiny_model, tiny_voxel_model


@pytest.mark.parametrize("arch", list_models())
def test_every_architecture_fulfills_the_interface(arch):
    with torch.device("meta"):
        model = create_model(arch)
    assert isinstance(model, Model) and model.training
    assert isinstance(model, ImplicitModel) != isinstance(model, VoxelModel)
    assert model.target in OBJECTIVES
    assert json.loads(json.dumps(model.options)) == model.options


def test_a_model_without_an_abstract_method_cannot_be_built():
    class Blind(ImplicitModel):
        def predict_points(self, images, points):
            return points[..., 0]

    with pytest.raises(TypeError, match="abstract methods predict_voxels, reconstruct"):
        Blind(image_size=8, threshold=0.5)


def test_only_cbn_decoders_are_fused():
    assert tiny_model().has_fused_decoder
    assert not tiny_model(decoder="cnn").has_fused_decoder
    assert not ball_model().has_fused_decoder
    assert not tiny_voxel_model().has_fused_decoder

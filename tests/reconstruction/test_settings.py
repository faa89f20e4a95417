"""Settings out of range, or not supported by a model or format, give one line each."""

import math
import sys

import pytest

from occvae.errors import UserError
from occvae.reconstruction import ReconstructionSettings
from tests.fakes import tiny_model, tiny_voxel_model


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (dict(resolution=0), "resolution must be from 1 to 16777216; got 0"),
        (dict(resolution=-5), "resolution must be from"),
        (dict(threshold=0.0), "threshold must be a probability"),
        (dict(threshold=1.0), "threshold must be a probability"),
        (dict(threshold=math.nan), "threshold must be a probability"),
        (dict(refine_vertices=-1), "refine_vertices must be from 0 to 64; got -1"),
        (dict(refine_vertices=10**9), "refine_vertices must be from 0 to 64"),
        (dict(num_samples=0), "num_samples must be from 1 to 1000; got 0"),
        (dict(seed=-1), "seed must be from 0"),
        (dict(smooth=-1), "smooth must be from 0 to 1000"),
        (dict(decimate=3), "decimate must be from 4"),
        (dict(batch_size=0), "batch_size must be from 1"),
        (dict(background="magic"), "unknown background 'magic'; choose from auto, keep"),
        (dict(turntable="mp4"), "unknown turntable 'mp4'; choose from gif, png"),
        (dict(normals=True, smooth=1), "cannot be combined with smooth or decimate"),
        (dict(normals=True, decimate=100), "cannot be combined with smooth or decimate"),
        (dict(blocks=True, normals=True), "blocks cannot be combined"),
        (dict(blocks=True, refine_vertices=2), "blocks cannot be combined"),
    ],
)
def test_values_out_of_range_are_refused(wish, message):
    with pytest.raises(UserError) as caught:
        ReconstructionSettings(**wish)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("wish", "format", "message"),
    [
        (dict(blocks=True), "glb", "vitocc does not predict voxels"),
        (dict(num_samples=2), "glb", "vitocc has one prediction per image: hypotheses"),
        (dict(uncertainty=True), "glb", "vitocc has one prediction per image: uncertainty"),
        (dict(resolution=101), "glb", "nearest valid are 100 and 102"),
        (dict(normals=True), "stl", ".stl files have no vertex normals"),
        (dict(background="rembg"), "glb", "pip install 'rembg"),
        (dict(decimate=100), "glb", "pip install fast-simplification"),
    ],
)
def test_settings_that_implicit_models_lack_are_refused(monkeypatch, wish, format, message):
    for library in ("rembg", "fast_simplification"):
        monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError) as caught:
        ReconstructionSettings(**wish).check(tiny_model(), format)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_voxel_models_support_their_settings():
    variational, plain = tiny_voxel_model("pix2vox-vae"), tiny_voxel_model("pix2vox-a")
    everything = dict(num_samples=2, uncertainty=True, blocks=True)
    ReconstructionSettings(**everything).check(variational, "ply")
    ReconstructionSettings(blocks=True, resolution=101).check(plain, "stl")
    with pytest.raises(UserError, match="pix2vox-a has one prediction per image"):
        ReconstructionSettings(num_samples=2).check(plain, "glb")
    with pytest.raises(UserError, match=".stl files have no vertex colors"):
        ReconstructionSettings(uncertainty=True).check(variational, "stl")

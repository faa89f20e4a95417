"""The page offers what its model can do, under stable names."""

import inspect
from pathlib import Path

import pytest

pytest.importorskip("gradio")

from occvae import app
from occvae.app.page import create_page
from occvae.app.service import MeshService
from occvae.models import create_model
from tests.docs.pages import ROOT
from tests.fakes import EllipsoidVae, ball_model


def endpoints(model, folder: Path) -> dict[str, list[str]]:
    """Returns the parameters of each function of the HTTP API."""
    info = create_page(MeshService(model), folder).get_api_info()
    return {
        name: [parameter["parameter_name"] for parameter in function["parameters"]]
        for name, function in info["named_endpoints"].items()
    }


def test_the_api_has_the_documented_names_and_parameters(tmp_path):
    guide = (ROOT / "docs" / "guides" / "app.md").read_text()
    found = endpoints(EllipsoidVae(), tmp_path)
    assert list(found) == ["/cut_out", "/reconstruct", "/sample", "/walk", "/interpolate"]
    for name, parameters in found.items():
        [row] = [line for line in guide.splitlines() if line.startswith(f"| `{name}`")]
        if name == "/walk":
            parameters = [*parameters[:5], parameters[-1]]
            row = row.replace(" ...,", "")
        assert f"| {', '.join(f'`{parameter}`' for parameter in parameters)} |" in row


def test_a_model_without_latents_offers_less(tmp_path):
    assert list(endpoints(ball_model(), tmp_path)) == ["/cut_out", "/reconstruct"]


def test_the_upload_field_offers_what_the_model_observes(tmp_path):
    options = {"encoder": "levit_128s", "image_size": 128, "hidden_size": 32, "num_blocks": 1}
    page = create_page(MeshService(create_model("occvae", **options)), tmp_path)
    [field] = [block for block in page.blocks.values() if block.elem_id == "files"]
    assert field.label == "Images, scans and voxel grids of an object"
    assert {"image", ".ply", ".npy", ".binvox"} < set(field.file_types)
    assert len(set(field.file_types)) == len(field.file_types)


def test_gradio_writes_nothing_into_the_package():
    """It writes a .pyi file beside each module with a subclass of a component."""
    folder = Path(inspect.getfile(app)).parent
    assert [path.name for path in folder.glob("*.pyi")] == []

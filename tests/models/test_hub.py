"""Models are loaded from and published on a server that speaks the endpoints of the Hub."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from occvae.errors import UserError
from occvae.models import create_model, from_pretrained, model_card, push_to_hub, save_pretrained
from occvae.models.pretrained import CONFIG, DEFAULT_MODEL, WEIGHTS, find_export, list_pretrained
from tests.fakes import tiny_model
from tests.fresh_process import run_fresh
from tests.models.hub_server import TOKEN, Hub, running_hub
from tests.models.test_mixture import small_model

REPO = "owner/chairs"
FIND = f"from occvae.models.pretrained import find_export; print(find_export({REPO!r}))"
LOAD = f"import occvae; print(occvae.from_pretrained({REPO!r}).arch)"


@pytest.fixture(scope="module")
def export(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "export"
    data = {"source": "procedural", "categories": ["chair", "mug"], "num_shapes": 768}
    save_pretrained(tiny_model(), folder, step=7, splits="own", trained_on=data)
    return folder


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


@pytest.fixture
def stored(hub, export) -> Hub:
    hub.repos[REPO] = {name: (export / name).read_bytes() for name in (CONFIG, WEIGHTS)}
    return hub


def run(hub: Hub, home: Path, code: str, **environment: str) -> str:
    """Runs code in a process that knows only this server. Returns its last line of output.

    A UserError is printed.
    """
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1"}
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HOME": str(home), **quiet}
    # The Hub's client waits between its attempts.
    lines = ["import time; time.sleep = lambda seconds: None"]
    lines += ["from occvae.errors import UserError", "try:", f"    {code}"]
    lines += ["except UserError as error:", "    print('error:', error)"]
    return run_fresh("\n".join(lines), **settings | environment).splitlines()[-1]


def files(hub: Hub) -> set[str]:
    """Returns the names of the files whose content was requested."""
    start = f"GET /{REPO}/resolve/"
    return {line.rpartition("/")[2] for line in hub.requests if line.startswith(start)}


def test_a_model_is_downloaded_once_and_then_works_offline(stored, tmp_path):
    assert run(stored, tmp_path, LOAD) == "vitocc"
    assert files(stored) == {CONFIG, WEIGHTS}
    stored.requests.clear()
    assert run(stored, tmp_path, LOAD, HF_HUB_OFFLINE="1") == "vitocc"
    assert stored.requests == []
    folder = run(stored, tmp_path, FIND)  # asks only whether there is a newer commit
    assert files(stored) == set()
    stored.status = 503
    assert run(stored, tmp_path, FIND) == folder


def test_a_newer_commit_is_downloaded(stored, tmp_path):
    first = run(stored, tmp_path, FIND)
    stored.repos[REPO][CONFIG] += b"\n"
    second = run(stored, tmp_path, FIND)
    assert first != second and Path(second, CONFIG).read_bytes() == stored.repos[REPO][CONFIG]
    assert Path(second, WEIGHTS).is_file()


def test_a_missing_repository_is_one_line(hub, tmp_path):
    message = f"error: {REPO}: neither a local folder nor a model on the Hugging Face Hub; check"
    assert run(hub, tmp_path, FIND).startswith(message)


def test_a_repository_without_safetensors_is_refused(stored, tmp_path):
    weights = stored.repos[REPO].pop(WEIGHTS)
    stored.repos[REPO]["pytorch_model.bin"] = weights
    assert "lacks a file of an export (config.json, model.safetensors)" in run(
        stored, tmp_path, FIND
    )
    assert "pytorch_model.bin" not in files(stored)


def test_a_model_of_another_library_is_refused(stored, tmp_path):
    stored.repos[REPO][CONFIG] = b'{"model_type": "bert"}'
    line = run(stored, tmp_path, LOAD)
    assert line.startswith("error: ") and f"{CONFIG}: not a model description" in line


def test_a_gated_repository_is_one_line(stored, tmp_path):
    stored.gated.add(REPO)
    assert "needs permission; request it on its page, then run 'hf auth login'" in run(
        stored, tmp_path, FIND
    )


def test_without_cache_and_network_the_error_says_so(stored, tmp_path):
    message = "not in the cache, and the Hugging Face Hub cannot be reached"
    assert message in run(stored, tmp_path, FIND, HF_HUB_OFFLINE="1")
    assert stored.requests == []
    assert message in run(stored, tmp_path, FIND, HF_ENDPOINT="http://127.0.0.1:9")


def test_a_page_of_html_is_not_a_model(stored, tmp_path):
    stored.page = b"<html>log in to this network</html>"
    assert run(stored, tmp_path, FIND).startswith(f"error: {REPO}")
    stored.page = None
    assert run(stored, tmp_path, LOAD) == "vitocc"


def test_a_download_that_breaks_off_is_an_error_and_is_continued(stored, tmp_path):
    stored.served = 1000  # every answer ends after 1000 bytes
    line = run(stored, tmp_path, FIND)
    assert line.startswith(f"error: {REPO}") and "\n" not in line
    stored.served = None
    assert run(stored, tmp_path, LOAD) == "vitocc"


def test_options_of_a_config_that_name_weights_are_ignored(stored, tmp_path):
    config = json.loads(stored.repos[REPO][CONFIG])
    config["options"] |= {"pretrained": True, "encoder_weights": "/etc/passwd"}
    stored.repos[REPO][CONFIG] = json.dumps(config).encode()
    assert run(stored, tmp_path, LOAD) == "vitocc"
    assert files(stored) == {CONFIG, WEIGHTS}


@pytest.mark.parametrize("make", ["run", "runs/chairs", "owner"])
def test_local_paths_never_touch_the_network(stored, tmp_path, make):
    """Neither an export, nor a mistyped path in a folder that exists."""
    code = f"import os; os.chdir({str(tmp_path)!r}); import occvae; print(occvae.from_pretrained"
    if make == "run":
        save_pretrained(tiny_model(), tmp_path / REPO / "best")
        assert run(stored, tmp_path, f"{code}({REPO!r}).arch)") == "vitocc"
    else:
        (tmp_path / make).mkdir(parents=True)
        name = REPO if make == "owner" else "runs/chair"
        assert run(stored, tmp_path, f"{code}({name!r}))").startswith(f"error: {name}: no such run")
    assert stored.requests == []


def test_a_path_object_is_never_an_id(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no such run or export"):
        find_export(Path(REPO))


def test_an_unknown_name_lists_the_built_in_models(monkeypatch, tmp_path, export):
    with pytest.raises(UserError, match=rf"chairs: no such run .* \({DEFAULT_MODEL}\)"):
        from_pretrained("chairs")
    (tmp_path / "chairs").symlink_to(export)
    monkeypatch.setattr("occvae.models.pretrained._BUILT_IN", tmp_path)
    assert list_pretrained() == ["chairs"]
    assert from_pretrained("chairs").arch == "vitocc"
    with pytest.raises(UserError, match=r"chair: no such run .* \(chairs\)"):
        from_pretrained("chair")


PUSH = "import occvae; print(occvae.push_to_hub({path!r}, {repo!r}, license='mit', private=True))"


def test_a_published_model_loads_again(hub, tmp_path, export):
    code = PUSH.format(path=str(export), repo=REPO)
    assert run(hub, tmp_path, code, HF_TOKEN=TOKEN) == f"{hub.url}/{REPO}"
    assert hub.repos[REPO].keys() == {CONFIG, WEIGHTS, "README.md"}
    assert hub.repos[REPO][WEIGHTS] == (export / WEIGHTS).read_bytes()
    assert hub.repos[REPO]["README.md"].decode() == model_card(export, REPO, license="mit")
    assert run(hub, tmp_path, LOAD) == "vitocc"
    assert run(hub, tmp_path, code, HF_TOKEN=TOKEN) == f"{hub.url}/{REPO}"  # again


def test_publishing_needs_a_token_and_an_id(hub, tmp_path, export):
    line = run(hub, tmp_path, PUSH.format(path=str(export), repo=REPO))
    assert line.startswith(f"error: {REPO} on the Hugging Face Hub: ") and "hf auth login" in line
    with pytest.raises(UserError, match="'chairs' is not an id on the Hugging Face Hub; give own"):
        push_to_hub(export, "chairs", license="mit")
    assert hub.repos == {}


REPORT = {
    "version": 1,
    "data": {
        "root": "/home/someone/data/mine",
        "source": "meshes",
        "split": "val",
        "num_shapes": 50,
        "num_stored": 96,
    },
    "options": {
        "threshold": 0.31,
        "threshold_origin": "chosen on val",
        "seed": 3,
        "mesh_resolution": 64,
        "precision": None,
    },
    "metrics": {"iou_voxels": {"macro": {"mean": 0.38512, "interval": [0.37, 0.4]}}},
    "controls": {"mean_shape": {"macro": {"mean": 0.148, "interval": [0.14, 0.15]}}},
}


@pytest.fixture
def evaluated(export, tmp_path) -> Path:
    for name in (CONFIG, WEIGHTS):
        (tmp_path / name).write_bytes((export / name).read_bytes())
    (tmp_path / "evaluation.json").write_text(json.dumps(REPORT))
    return tmp_path


def test_the_card_has_training_data_figures_commands_and_license(evaluated):
    card = model_card(evaluated, REPO, license="cc-by-nc-4.0")
    assert card.startswith("---\nlicense: cc-by-nc-4.0\n")
    for line in (
        f'model = occvae.from_pretrained("{REPO}")',
        f"| vitocc | {sum(value.numel() for value in tiny_model().parameters()):,} |",
        "| source | procedural |",
        "| shapes | 768 |",
        "| categories | chair, mug |",
        "| steps | 7 |",
        "50 shapes of the split val, source meshes.",
        "| iou_voxels | 0.3851 | 0.3700 to 0.4000 |",
        "| control: mean_shape, voxel IoU | 0.1480 | 0.1400 to 0.1500 |",
        f"$ occvae evaluate --model {REPO} --data mine --split val --seed 3 --threshold val "
        "--resolution 64 --shapes 50\n",
        "The weights have the license `cc-by-nc-4.0`.",
    ):
        assert line in card
    assert "/home/someone" not in card


def test_the_card_says_when_there_are_no_figures(export):
    assert "This model has not been evaluated." in model_card(export, REPO, license="mit")


def test_figures_of_earlier_weights_are_refused(evaluated):
    report = evaluated / "evaluation.json"
    os.utime(report, (1e9, 1e9))
    with pytest.raises(UserError, match="evaluation.json: is older than the weights beside it"):
        model_card(evaluated, REPO, license="mit")


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"data": 3}', "\xff"])
def test_damaged_reports_are_refused(evaluated, content):
    (evaluated / "evaluation.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match="evaluation.json: not a report of 'occvae evaluate'"):
        model_card(evaluated, REPO, license="mit")


@pytest.mark.parametrize(
    ("arch", "call"),
    [
        ("onet-points", '[mesh] = model.reconstruct("scan.ply")'),
        ("onet-voxels", "[mesh] = model.reconstruct(grid)"),
        ("onet-vae", "[mesh] = model.sample_meshes(1)"),
    ],
)
def test_the_card_of_a_model_that_sees_no_images_shows_its_own_use(tmp_path, arch, call):
    save_pretrained(create_model(arch, hidden_size=8, num_blocks=1), tmp_path)
    card = model_card(tmp_path, REPO, license="mit")
    assert call in card and "image" not in card
    assert ("$ occvae reconstruct scan.ply" in card) == (arch == "onet-points")


def test_the_card_of_a_model_of_mixtures_shows_both(tmp_path):
    save_pretrained(small_model(), tmp_path)
    card = model_card(tmp_path, REPO, license="mit")
    assert "pipeline_tag: image-to-3d" in card
    assert '[mesh] = model.reconstruct(images="chair.jpg", points="scan.ply")' in card
    assert "$ occvae reconstruct chair.jpg scan.ply --together --model" in card

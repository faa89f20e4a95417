"""Encoders from torchvision ResNets and timm models, with weights from files."""

from pathlib import Path
from urllib.error import URLError

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from occvae.errors import UserError
from occvae.models import weights
from occvae.models.encoders import (
    IMAGENET_MEAN,
    ImageEncoder,
    hybrid_encoder,
    resnet_encoder,
    timm_encoder,
)
from tests.fresh_process import run_fresh

VIT = "vit_tiny_patch16_224"
OPTIONS = {"depth": 1, "embed_dim": 24, "num_heads": 2, "patch_size": 8}
LITE = "efficientnet_lite0"


def vit(image_size: int = 32, *, name: str = VIT, weights=None, **options) -> ImageEncoder:
    return timm_encoder(name, 16, image_size, False, weights, {**OPTIONS, **options})


def hybrid(
    trunk: str = LITE, *, name: str = VIT, pretrained=False, file=None, **options
) -> ImageEncoder:
    options = {"depth": 1, "embed_dim": 24, "num_heads": 2, **options}
    return hybrid_encoder(name, trunk, 16, 64, pretrained, file, options)


def save(state, path: Path) -> str:
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return str(path)


@pytest.fixture(scope="module")
def vit_state() -> dict[str, Tensor]:
    """Weights of a classifier with 1000 classes, as timm publishes them."""
    torch.manual_seed(0)
    return timm.create_model(VIT, img_size=32, **OPTIONS).state_dict()


@pytest.fixture(scope="module")
def resnet_state() -> dict[str, Tensor]:
    return torchvision.models.resnet18().state_dict()


@pytest.mark.parametrize(
    "encoder",
    [
        lambda: vit(),
        lambda: vit(48),
        lambda: vit(global_pool="avg"),
        # Not a transformer, and accepts any image size.
        lambda: timm_encoder("mobilenetv3_small_050", 16, 40, False, None, {}),
        lambda: resnet_encoder("resnet18", 16, False, None),
    ],
    ids=["vit", "vit-48", "vit-pooled", "mobilenet", "resnet"],
)
def test_images_become_embeddings(encoder):
    encoder = encoder().eval()
    size = 48 if getattr(encoder.backbone, "patch_embed", None) is None else None
    size = size or encoder.backbone.patch_embed.img_size[0]
    with torch.no_grad():
        black, white = encoder(torch.stack([torch.zeros(3, size, size), torch.ones(3, size, size)]))
    assert black.shape == (16,) and black.isfinite().all()
    assert not torch.allclose(black, white)


def test_tokens_of_a_hybrid_are_the_positions_of_the_last_feature_map_of_its_trunk():
    encoder = hybrid("resnet10t").eval()
    transformer = encoder.backbone
    with torch.no_grad():
        image = torch.rand(1, 3, 64, 64)
        features = encoder.trunk((image - encoder.mean) / encoder.std)[-1]
        tokens = transformer.patch_embed(features)
        projection = transformer.patch_embed.proj
        expected = torch.einsum("oc,chw->hwo", projection.weight[:, :, 0, 0], features[0])
    torch.testing.assert_close(tokens[0], (expected + projection.bias).flatten(0, 1))
    assert features.shape[-2:] == (2, 2) and transformer.pos_embed.shape == (1, 1 + 4, 24)
    with torch.no_grad():
        assert not torch.allclose(encoder(image), encoder(image.flip(-1)))


def test_the_trunk_of_a_hybrid_stays_in_fp32_under_autocast():
    encoder = hybrid("resnet10t").eval()
    seen = []
    encoder.trunk.register_forward_hook(lambda *call: seen.append(call[-1][-1].dtype))
    encoder.backbone.blocks[0].mlp.fc1.register_forward_hook(
        lambda *call: seen.append(call[-1].dtype)
    )
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        encoder(torch.rand(2, 3, 64, 64))
    assert seen == [torch.float32, torch.bfloat16]


def test_pretrained_weights_of_the_package_go_into_encoder_and_trunk():
    stored = list(weights.read_weights(str(weights.packaged_file())).values())
    trunk = hybrid(pretrained=True).trunk.network.state_dict()
    assert all(torch.equal(a, b) for a, b in zip(trunk.values(), stored, strict=False))
    whole = timm_encoder(LITE, 16, 64, True, None, {}).backbone.state_dict()
    assert whole.pop("classifier.weight").shape == (16, 1280)
    del whole["classifier.bias"]
    assert all(torch.equal(a, b) for a, b in zip(whole.values(), stored[:-2], strict=True))


def test_pretrained_weights_of_the_package_recognize_a_cat():
    from skimage import data

    classifier = timm.create_model(
        LITE, **weights.timm_arguments(LITE, True, None) | {"num_classes": 1000}
    )
    state = weights.read_weights(str(weights.packaged_file()))
    classifier.classifier.load_state_dict(
        dict(zip(("weight", "bias"), list(state.values())[-2:], strict=True))
    )
    image = torch.from_numpy(data.chelsea().copy()).permute(2, 0, 1)[None, :, :, 75:375] / 255
    encoder = ImageEncoder(classifier.eval(), IMAGENET_MEAN, (0.229, 0.224, 0.225))
    with torch.no_grad():
        scores = encoder(nn.functional.interpolate(image, (224, 224), mode="bilinear"))
    assert scores.argmax() in (281, 282, 285)  # tabby, tiger cat and Egyptian cat


def test_other_weights_in_the_package_are_refused(monkeypatch, tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"other")
    monkeypatch.setattr(weights, "packaged_file", lambda: path)
    with pytest.raises(UserError, match="weights.pth: not the expected weights; install"):
        hybrid(pretrained=True)


def test_weights_of_a_trunk_are_loaded_from_a_file(tmp_path):
    state = timm.create_model("resnet10t").state_dict()
    found = hybrid("resnet10t", file=save(state, tmp_path / "resnet.pth"))
    found = found.trunk.network.state_dict()
    assert found and all(torch.equal(value, state[name]) for name, value in found.items())


def test_images_are_normalized_and_the_state_dict_has_no_statistics():
    encoder = ImageEncoder(nn.Identity(), IMAGENET_MEAN, (0.5, 0.25, 0.2))
    found = encoder(torch.full((1, 3, 1, 1), 0.5)).flatten()
    expected = [(0.5 - 0.485) / 0.5, (0.5 - 0.456) / 0.25, (0.5 - 0.406) / 0.2]
    torch.testing.assert_close(found, torch.tensor(expected))
    assert not encoder.state_dict()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: vit(name="vit_tinny_patch16_224"), "near names: .*vit_tiny_patch16_224"),
        (lambda: vit(name="zzz"), "unknown timm model 'zzz'; near names: vit_small"),
        (lambda: vit(name=f"{VIT}.no_such_tag"), "cannot be built: .*no_such_tag"),
        (lambda: vit(depht=3), "rejects encoder_options .*unexpected keyword argument 'depht'"),
        (lambda: vit(num_heads=5), "rejects encoder_options .*divisible"),
        (lambda: vit(num_classes=5), "must not contain num_classes; set .*embedding_size"),
        (lambda: vit(img_size=64), "must not contain img_size; set image_size"),
        (lambda: hybrid("efficientnet_light0"), "near names: .*efficientnet_lite0"),
        (lambda: hybrid(name="levit_128s"), "levit_128s' .*only plain vision transformers take"),
        (lambda: hybrid(embed_layer=None), "must not contain embed_layer; set .*trunk"),
        (lambda: resnet_encoder("resnet-18", 16, False, None), "unknown ResNet .*resnet18"),
        (lambda: resnet_encoder("vgg16", 16, False, None), "unknown ResNet 'vgg16'"),
    ],
)
def test_mistakes_give_one_line(make, message):
    with pytest.raises(UserError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("image_size", [32, 48])
def test_timm_weights_are_loaded_from_a_file(vit_state, tmp_path, suffix, image_size):
    encoder = vit(image_size, weights=save(vit_state, tmp_path / f"vit{suffix}"))
    found = encoder.backbone.state_dict()
    assert found["head.weight"].shape == (16, 24)
    # The head is new, and positions are interpolated to another image size.
    own = {"head.weight", "head.bias"} | ({"pos_embed"} if image_size != 32 else set())
    for name in found.keys() - own:
        assert torch.equal(found[name], vit_state[name]), name
    grid = (image_size // 8) ** 2
    assert found["pos_embed"].shape == (1, grid + 1, 24)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_resnet_weights_are_loaded_from_a_file(resnet_state, tmp_path, suffix):
    path = save(resnet_state, tmp_path / f"resnet{suffix}")
    found = resnet_encoder("resnet18", 16, False, path).backbone.state_dict()
    assert found["fc.weight"].shape == (16, 512)
    for name in found.keys() - {"fc.weight", "fc.bias"}:
        assert torch.equal(found[name], resnet_state[name]), name


@pytest.mark.parametrize("wrap", ["state_dict", "model"])
def test_training_checkpoints_are_unwrapped(vit_state, tmp_path, wrap):
    parallel = {f"module.{key}": value for key, value in vit_state.items()}
    found = vit(weights=save({wrap: parallel, "epoch": 3}, tmp_path / "run.pth"))
    assert torch.equal(found.backbone.state_dict()["cls_token"], vit_state["cls_token"])


BROKEN = {
    "missing.pth": (None, "no such weights file"),
    "garbage.pth": (b"garbage" * 9, "not a readable weights file"),
    "garbage.safetensors": (b"garbage" * 9, "not a readable weights file"),
    "empty.pth": (b"", "not a readable weights file"),
    "tensor.pth": (torch.zeros(3), "contains a Tensor instead of named weights"),
    "list.pth": ([1, 2], "contains a list instead of named weights"),
    # timm would load nothing and report nothing.
    "other.pth": ({"a": torch.zeros(3)}, "not the weights of"),
    "none.pth": ({}, "not the weights of"),
    "pickle.pth": ({"net": nn.Linear(1, 1)}, "not a readable weights file"),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("family", ["timm", "resnet"])
def test_errors_name_broken_weights(tmp_path, name, family):
    content, message = BROKEN[name]
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match=f"{name}: {message}") as caught:
        if family == "timm":
            vit(weights=str(path))
        else:
            resnet_encoder("resnet18", 16, False, str(path))
    assert "\n" not in str(caught.value)


def test_weights_of_another_architecture_are_refused(vit_state, resnet_state, tmp_path):
    narrow = save(vit_state, tmp_path / "vit.pth")
    with pytest.raises(UserError, match=f"vit.pth: not the weights of {VIT} .*size mismatch"):
        vit(weights=narrow, embed_dim=32)
    small = save(resnet_state, tmp_path / "resnet.pth")
    with pytest.raises(UserError, match="resnet.pth: not the weights of resnet34"):
        resnet_encoder("resnet34", 16, False, small)
    with pytest.raises(UserError, match="resnet.pth: not the weights of resnet50 .*size mismatch"):
        resnet_encoder("resnet50", 16, False, small)


def test_pretrained_timm_weights_fail_offline_with_advice(tmp_path):
    # A separate process, because the hub's client reads its settings only once.
    code = (
        "import warnings\n"
        "warnings.simplefilter('ignore')\n"
        "from occvae.models.encoders import timm_encoder\n"
        "from occvae.errors import UserError\n"
        f"try: timm_encoder({VIT!r}, 16, 32, True, None, {{}})\n"
        "except UserError as error: print(error)\n"
    )
    settings = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path)}
    [line] = run_fresh(code, **settings).splitlines()
    assert line.startswith(f"pretrained weights of {VIT} are not available (")
    assert "pass a local file with encoder_weights=PATH" in line


def test_pretrained_weights_fail_offline_with_advice_to_install_the_package(tmp_path):
    code = (
        "import warnings\n"
        "warnings.simplefilter('ignore')\n"
        "from occvae.models import weights\n"
        "from occvae.models.encoders import timm_encoder\n"
        "from occvae.errors import UserError\n"
        "weights._PACKAGE = 'not_installed'\n"
        f"try: timm_encoder({LITE!r}, 16, 32, True, None, {{}})\n"
        "except UserError as error: print(error)\n"
    )
    settings = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path)}
    [line] = run_fresh(code, **settings).splitlines()
    assert line.startswith(f"pretrained weights of {LITE} are not available (")
    assert "install those of occvae[weights], pass a local file" in line


def test_pretrained_resnet_weights_fail_offline_with_advice(monkeypatch):
    def unreachable(*arguments, **options):
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", unreachable)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    with pytest.raises(
        UserError, match="pretrained weights of resnet18 are not available .*no route"
    ):
        resnet_encoder("resnet18", 16, True, None)

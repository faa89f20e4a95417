"""A user's DeepSpeed JSON is merged if it adds to the settings and refused if it contradicts."""

import json

import pytest
import torch

from occvae.errors import UserError
from occvae.train.config import apply_overrides, from_dict
from occvae.train.deepspeed_config import make_deepspeed_config, resolve_deepspeed
from occvae.train.precision import GradScalerState
from occvae.train.presets import make_preset


def config_with(content, tmp_path, *overrides):
    file = tmp_path / "ds.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    settings = ["optim.batch_size=8", f"deepspeed_config={file}", *overrides]
    return apply_overrides(make_preset("cpu-small", "vitocc"), settings)


def test_additional_keys_are_merged_and_stored_in_the_run(tmp_path):
    own = {
        "train_batch_size": 32,
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_clipping": 1.0,
        "zero_optimization": {"stage": 2, "reduce_bucket_size": 1000, "stage3_prefetch": "auto"},
        "optimizer": "auto",
        "fp16": {"enabled": False},
        "wall_clock_breakdown": True,
    }
    overrides = ["optim.accumulation_steps=2", "zero_stage=2"]
    config = config_with(own, tmp_path, *overrides)
    resolved = resolve_deepspeed(config, world_size=2, device_type="cpu")
    (tmp_path / "ds.json").unlink()
    again = from_dict(json.loads(json.dumps(resolved.to_dict())))
    assert resolve_deepspeed(again, 2, "cpu") == again == resolved
    made = make_deepspeed_config(resolved, stage=2, dtype=torch.bfloat16)
    assert made["zero_optimization"] == {"stage": 2, "reduce_bucket_size": 1000}
    assert made["wall_clock_breakdown"] is True
    assert (made["train_micro_batch_size_per_gpu"], made["gradient_accumulation_steps"]) == (8, 2)
    assert made["torch_autocast"] == {"enabled": True, "dtype": "bfloat16"}
    assert not {"train_batch_size", "optimizer", "fp16"} & made.keys()


def test_a_resume_may_change_settings_that_the_file_repeated(tmp_path):
    own = {"train_micro_batch_size_per_gpu": 8, "zero_optimization": {"stage": 1}}
    config = resolve_deepspeed(config_with(own, tmp_path), world_size=1, device_type="cpu")
    resumed = apply_overrides(config, ["optim.batch_size=4", "zero_stage=2"])
    assert resolve_deepspeed(resumed, 2, "cpu").deepspeed_config == {"zero_optimization": {}}


def test_offload_options_are_merged(tmp_path):
    own = {"zero_optimization": {"offload_optimizer": {"device": "cpu", "pin_memory": False}}}
    config = config_with(own, tmp_path, "offload_optimizer=true")
    made = make_deepspeed_config(resolve_deepspeed(config, 1, "cpu"), stage=1, dtype=None)
    assert made["zero_optimization"]["offload_optimizer"] == {"device": "cpu", "pin_memory": False}
    assert made["zero_force_ds_cpu_optimizer"] is False
    with pytest.raises(UserError, match="offload_optimizer needs zero_stage=1, 2 or 3"):
        apply_overrides(make_preset("default", "onet"), ["offload_optimizer=true", "zero_stage=0"])


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"train_batch_size": 20}, r"train_batch_size is 20, but optim.batch_size=8 .* 2 rank\(s"),
        ({"train_micro_batch_size_per_gpu": 4}, "_per_gpu is 4, but optim.batch_size=8"),
        ({"gradient_accumulation_steps": 3}, "is 3, but optim.accumulation_steps=1"),
        ({"gradient_clipping": 0.5}, "gradient_clipping is 0.5, but optim.clip_norm=1.0"),
        ({"zero_optimization": {"stage": 3}}, "zero_optimization.stage is 3, but zero_stage=1"),
        ({"zero_optimization": {"stge": 1}}, "zero_optimization.stge: extra inputs"),
        ({"zero_optimization": 2}, "zero_optimization must be an object"),
        ({"zero_optimization": {"offload_param": {"device": "cpu"}}}, "leave out .*offload_param"),
        ({"zero_optimization": {"offload_optimizer": {"device": "nvme"}}}, "'nvme', but offload_o"),
        ({"zero_optimization": {"offload_optimizer": {"ratio": 0.5}}}, "offload_optimizer.ratio"),
        (
            {"zero_optimization": {"zero_quantized_weights": True}},
            "quantized_weights: it needs a GPU",
        ),
        ({"communication_data_type": "fp99"}, "is 'fp99'; choose from fp32, fp16, bf16"),
        ({"optimizer": {"type": "Lamb"}}, "leave out optimizer: the optimizer is AdamW"),
        ({"scheduler": {"type": "WarmupLR"}}, "leave out scheduler: set optim.schedule"),
        ({"fp16": {"enabled": True}}, "leave out fp16: it needs a GPU"),
        ({"bf16": {"enabled": True}}, "leave out bf16: set precision=bf16"),
        ({"elasticity": {"enabled": True}}, "leave out elasticity: .* any number of ranks"),
        ({"zero_optimizer": {}}, "leave out zero_optimizer: only these are passed on"),
        ("{", "ds.json: not JSON"),
        ("[]", "ds.json: must hold a JSON object"),
    ],
)
def test_a_contradiction_is_one_line_that_names_both_settings(own, message, tmp_path):
    with pytest.raises(UserError, match=f"^deepspeed_config: .*{message}") as caught:
        resolve_deepspeed(config_with(own, tmp_path), world_size=2, device_type="cpu")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused():
    config = apply_overrides(make_preset("cpu-small", "onet"), ["deepspeed_config=nowhere.json"])
    with pytest.raises(UserError, match="nowhere.json: No such file"):
        resolve_deepspeed(config, 1, "cpu")


def test_fp16_needs_a_gpu():
    config = apply_overrides(make_preset("cpu-small", "onet"), ["precision=fp16"])
    with pytest.raises(UserError, match="precision fp16: needs a GPU; use fp32"):
        resolve_deepspeed(config, 1, "cpu")
    assert resolve_deepspeed(config, 1, "cuda") is config


def test_the_loss_scale_halves_and_doubles():
    scale = GradScalerState()
    scale.update(overflow=True)
    assert scale.value == GradScalerState.FIRST / 2
    for _ in range(GradScalerState.STEPS - 1):
        scale.update(overflow=False)
    assert scale.value == GradScalerState.FIRST / 2
    scale.update(overflow=False)
    assert scale.value == GradScalerState.FIRST

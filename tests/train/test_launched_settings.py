"""Settings of the engine and the profiler in complete runs."""

import json

from tests.tiny import TINY_RUN
from tests.train.runs import assert_refused, metrics, run, succeed


def test_a_run_with_deepspeed_json_offload_checkpointing_and_profile(tiny_dataset, tmp_path):
    file, out = tmp_path / "ds.json", tmp_path / "run"
    own = {"train_batch_size": 8, "zero_optimization": {"stage": 2, "reduce_bucket_size": 50000}}
    file.write_text(json.dumps(own))
    settings = ["zero_stage=2", f"deepspeed_config={file}", "optim.accumulation_steps=2"]
    settings += ["offload_optimizer=true", "activation_checkpointing=true", "profile_steps=2"]
    steps = ["optim.steps=8", "validate_every=8"]
    succeed(tiny_dataset, out, *TINY_RUN, *settings, *steps)
    kept = json.loads((out / "train_config.json").read_text())["deepspeed_config"]
    assert kept == {
        "zero_optimization": {"reduce_bucket_size": 50000}
    }  # the rest repeated settings
    lines = [line for line in metrics(out) if "train/loss" in line]
    assert lines[-1]["step"] == 8 and lines[-1]["train/loss"] < lines[0]["train/loss"]
    assert all(0.1 < line["memory/peak_rss_gib"] < 100 for line in lines)
    assert all(line["train/samples_per_s"] > 0 for line in lines)
    [trace] = (out / "profile").glob("steps-*-to-*.json")
    names = {event.get("name", "") for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"ProfilerStep#4", "ProfilerStep#5"} <= names
    assert any(name.startswith("aten::native_layer_norm") for name in names)


def test_a_contradicting_deepspeed_json_is_one_error(tiny_dataset, tmp_path):
    file = tmp_path / "ds.json"
    file.write_text(json.dumps({"train_batch_size": 5}))
    refused = run(tiny_dataset, tmp_path / "run", *TINY_RUN, f"deepspeed_config={file}")
    assert_refused(refused, "deepspeed_config: train_batch_size is 5, but optim.batch_size=4")

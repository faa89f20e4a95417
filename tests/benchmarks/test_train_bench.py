"""The benchmark of training: its clock adds up, and its paper obeys the arithmetic."""

import dataclasses
import time

import pytest
import torch
import torch.distributed as dist

import train_bench
from scaling_model import Machine, TrainingCost, assumptions, project
from step_clock import PHASES, StepClock

COST = TrainingCost(
    parameters=25_000_000,
    flops_per_sample=75e9,
    sample_bytes=200e3,
    loader_seconds_per_sample=2e-3,
    norm_layers=11,
    norm_channels=11 * 256,
)


def test_phases_add_up_and_collectives_are_taken_out(monkeypatch):
    monkeypatch.setattr(dist, "all_reduce", lambda tensor, async_op=False: time.sleep(0.02))
    clock = StepClock(torch.device("cpu"))
    with clock.watch_collectives():
        dist.all_reduce(torch.zeros(9))  # between steps: nobody's
        start = time.perf_counter()
        clock.enter("forward")
        time.sleep(0.01)
        dist.all_reduce(tensor=torch.zeros(10))
        clock.enter("backward")
        dist.all_reduce(torch.zeros(5, dtype=torch.float64))
        found = clock.finish()
        whole = time.perf_counter() - start
    assert found.keys() == set(PHASES)
    assert sum(found.values()) == pytest.approx(whole, abs=2e-3)
    assert found["communication"] >= 0.04 and found["forward"] >= 0.01
    assert found["backward"] < 0.5 * found["communication"]
    assert (clock.calls, clock.num_bytes) == (
        {"forward": 1, "backward": 1},
        {"forward": 40, "backward": 40},
    )
    assert clock.finish() == dict.fromkeys(PHASES, 0.0)


def test_one_gpu_only_computes():
    machine = Machine(peak_flops=1e15, utilization=0.5, loader_cores=1e6)
    row = project(COST, machine, gpus=1, batch_size=64)
    assert row.compute == pytest.approx(64 * 75e9 / 5e14)
    assert (row.all_reduce, row.norm_sync, row.binds_first) == (0, 0, "arithmetic")
    assert row.efficiency == pytest.approx(1)
    assert row.samples_per_second == pytest.approx(5e14 / 75e9)


def test_what_binds_first():
    slow_links = Machine(network_bytes=1e8, loader_cores=1e6)
    far = Machine(node_latency=1e-3, hop_latency=1e-3, loader_cores=1e6)
    assert project(COST, slow_links, 64, 64).binds_first == "all-reduce"
    assert project(COST, far, 64, 64).binds_first == "batch norm sync"
    assert project(COST, Machine(loader_cores=0.1), 64, 64).binds_first == "data"


def test_data_that_come_before_the_ranks_are_done_do_not_bind():
    machine = Machine(
        peak_flops=64 * 75e9,
        utilization=1,
        nvlink_bytes=2 * 7 / 8 * 50e6 / 0.4,
        link_efficiency=1,
        node_latency=0.3 / 22,
        loader_cores=64 * 2e-3 / 1.5,
    )
    row = project(COST, machine, gpus=8, batch_size=64)
    assert row.data == pytest.approx(1.5)
    seconds = row.compute, row.all_reduce, row.norm_sync
    assert seconds == pytest.approx((1, 0.4, 0.3), abs=1e-3)
    assert (row.binds_first, row.binds_next) == ("all-reduce", "data")


def test_the_gradients_of_two_nodes_by_hand():
    machine = Machine(nvlink_bytes=1e9, network_bytes=1e8, link_efficiency=1, gradient_bytes=4)
    inside = 2 * 7 / 8 * 1e8 / 1e9  # every GPU of a node has all gradients, 25 M of 4 bytes
    across = 2 * 1 / 2 * (1e8 / 8) / 1e8  # an eighth of them goes through each port
    assert project(COST, machine, 16, 64).all_reduce == pytest.approx(inside + across)
    there, back = 8 * (2 * 11 * 256 + 11), 4 * (2 * 11 * 256)  # bytes of the statistics
    norms = 2 * 11 * (20e-6 + 8e-6) + 2 * 15 / 16 * (there + back) / 1e8
    assert project(COST, machine, 16, 64).norm_sync == pytest.approx(norms)


def test_every_assumption_is_said():
    said = assumptions(Machine())
    assert len(said) == len(dataclasses.fields(Machine))
    assert "utilization 0.3: of the peak" in said[1]


def test_rows_take_the_slowest_memory_and_mean_times():
    def rank(seconds, memory):
        times = dict(median=seconds, p20=seconds, p80=seconds, minimum=seconds, n=3)
        phases = dict.fromkeys(PHASES, seconds / 5)
        moved = dict(collectives={"forward": 4}, collective_bytes={"forward": 2e6})
        return dict(times, phases=phases, samples=8, peak_rss=memory, peak_gpu=0, **moved)

    row = train_bench.make_row(2, 1, [rank(1.0, 2**20), rank(3.0, 2**22)])
    assert (row["median"], row["samples_per_second"], row["peak_rss_mib"]) == (2.0, 4.0, 4.0)
    assert "0.50x" in train_bench.line(row, dict(row, samples_per_second=8.0))

"""train_bench: the phases of its clock add up, and its rows combine the ranks."""

import time

import pytest
import torch
import torch.distributed as dist

import train_bench
from step_clock import PHASES, StepClock


def test_phases_add_up_without_the_time_of_collectives(monkeypatch):
    monkeypatch.setattr(dist, "all_reduce", lambda tensor, async_op=False: time.sleep(0.02))
    clock = StepClock(torch.device("cpu"))
    with clock.watch_collectives():
        dist.all_reduce(torch.zeros(9))  # between steps, so not counted
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


def test_rows_have_mean_times_and_the_largest_memory():
    def rank(seconds, memory):
        times = dict(median=seconds, p20=seconds, p80=seconds, minimum=seconds, n=3)
        phases = dict.fromkeys(PHASES, seconds / 5)
        moved = dict(collectives={"forward": 4}, collective_bytes={"forward": 2e6})
        return dict(times, phases=phases, samples=8, peak_rss=memory, peak_gpu=0, **moved)

    row = train_bench.make_row(2, 1, [rank(1.0, 2**20), rank(3.0, 2**22)])
    assert (row["median"], row["samples_per_second"], row["peak_rss_mib"]) == (2.0, 4.0, 4.0)
    assert "0.50x" in train_bench.line(row, dict(row, samples_per_second=8.0))

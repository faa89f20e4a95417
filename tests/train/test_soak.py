"""The short version of soak.py."""

from tests.tiny import TINY_RUN
from tests.train.soak import soak


def test_a_killed_and_resumed_run_equals_an_undisturbed_one(tiny_dataset, tmp_path):
    outcome = soak(tmp_path, tiny_dataset, TINY_RUN, cycles=3, steps=18, seed=1)
    assert outcome.largest_difference <= 1e-6
    assert outcome.wrong_samples == []

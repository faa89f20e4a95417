"""The short version of soak.py: killed and resumed, the training is the one left alone."""

from tests.tiny import TINY_RUN
from tests.train.soak import soak


def test_killed_and_resumed_on_other_ranks_and_zero_stages(tiny_dataset, tmp_path):
    outcome = soak(tmp_path, tiny_dataset, TINY_RUN, cycles=3, steps=18, seed=1)
    assert outcome.largest_difference <= 1e-6
    assert outcome.wrong_samples == []

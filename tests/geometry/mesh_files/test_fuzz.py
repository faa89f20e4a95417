"""A short run of the fuzzer over all readers."""

from tests.geometry.mesh_files.fuzz import fuzz, seeds


def test_damaged_files_are_read_whole_or_refused():
    outcomes = fuzz(0, range(3000))
    assert outcomes.total() == 3000
    for ending in seeds():
        assert outcomes[f"{ending} read"] > 9 and outcomes[f"{ending} refused"] > 9

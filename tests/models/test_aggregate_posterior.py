"""Moments of all posteriors on one rank and on two, and draws from them."""

import numpy as np
import torch
import torch.distributed as dist

from occvae.models.aggregate_posterior import AggregatePosterior
from occvae.models.posterior import Posterior

SIZE = 3
BATCHES = 6


def posteriors(count: int = 4, seed: int = 0, shift: float = 5.0) -> list[Posterior]:
    """Posteriors with correlated dimensions and means far from 0."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(SIZE, SIZE))
    means = shift + rng.normal(size=(BATCHES, count, SIZE)) @ mixing
    log_variances = rng.normal(size=(BATCHES, count, SIZE)) - 1.0
    return [
        Posterior(*(torch.tensor(part, dtype=torch.float32) for part in batch))
        for batch in zip(means, log_variances, strict=True)
    ]


def updated(batches: list[Posterior]) -> AggregatePosterior:
    aggregate = AggregatePosterior(SIZE)
    for batch in batches:
        aggregate.update(batch)
    return aggregate


def covariance(latents: torch.Tensor) -> np.ndarray:
    return np.cov(latents.double().numpy(), rowvar=False)


def test_before_the_first_update_it_is_the_standard_normal():
    drawn = AggregatePosterior(SIZE).draw(7, torch.Generator().manual_seed(1))
    expected = torch.randn(7, SIZE, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(drawn, expected)


def test_draws_have_the_moments_of_all_posteriors():
    """The oracle is the same number of latents from each posterior."""
    batches, generator = posteriors(), torch.Generator().manual_seed(0)
    drawn = updated(batches).draw(400_000, generator)
    samples = [batch.sample(generator) for batch in batches for _ in range(20_000)]
    expected = torch.cat(samples)
    np.testing.assert_allclose(drawn.mean(dim=0), expected.mean(dim=0), atol=0.03)
    np.testing.assert_allclose(covariance(drawn), covariance(expected), rtol=0.03, atol=0.03)


def test_old_batches_are_forgotten():
    aggregate = updated(posteriors(shift=-5000.0))
    recent = posteriors(seed=1)
    for _ in range(300):
        for batch in recent:
            aggregate.update(batch)
    mean = torch.cat([batch.mean for batch in recent]).mean(dim=0)
    torch.testing.assert_close(aggregate.mean, mean, rtol=0.05, atol=0.05)


def test_draws_from_a_single_object_equal_it():
    """Its variance is only rounding error, which is negative here."""
    mean = torch.tensor([[3.1, -40.3, 0.7]])
    aggregate = updated([Posterior(mean, torch.full((1, SIZE), -30.0))])
    drawn = aggregate.draw(5, torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn, mean.expand(5, SIZE), rtol=0, atol=0.05)


def rank_main(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    shares = [Posterior(*(part.chunk(2)[rank] for part in batch)) for batch in posteriors()]
    torch.save(updated(shares).state_dict(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_equal_one_with_twice_the_batch(tmp_path):
    torch.multiprocessing.spawn(rank_main, args=(str(tmp_path),), nprocs=2)
    expected = updated(posteriors()).state_dict()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value)

"""Auxiliary negatives have their frequencies, by a chi-square test with fixed keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dien_jax.steps.negatives import auxiliary_negatives, make_sampler

pytestmark = pytest.mark.long

POPULARITY = np.array([7, 1, 2, 3, 5, 8, 13])
"""Training events of the unknown item, which is never drawn, and of six others."""


@pytest.mark.parametrize("distribution", ["popularity", "uniform"])
def test_auxiliary_negatives_have_their_frequencies(distribution):
    weights = POPULARITY * (np.arange(7) > 0) if distribution == "popularity" else np.arange(7) > 0
    share = weights / weights.sum()
    history = np.tile(np.arange(1, 7, dtype=np.int32), (4000, 1))
    sampler = make_sampler(POPULARITY, distribution)
    drawn = auxiliary_negatives(sampler, jax.random.key(5), jnp.asarray(history), 2)
    for place, positive in enumerate(range(2, 7)):
        counts = np.bincount(np.asarray(drawn)[:, place].ravel(), minlength=7)
        # A draw that is the positive is drawn once more.
        expected = share * (1 + share[positive])
        expected[positive] = share[positive] ** 2
        assert counts[0] == 0
        found = stats.chisquare(counts[1:], 8000 * expected[1:])
        assert found.pvalue > 1e-3, positive

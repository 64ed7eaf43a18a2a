"""Auxiliary negatives: the table holds the distribution, and draws avoid the positive."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dien_jax.steps.negatives import auxiliary_negatives, drawn, make_sampler, random_columns


def distribution_of(sampler) -> np.ndarray:
    """The probability of every item, read off the table."""
    keep, alias = np.asarray(sampler.keep, np.float64), np.asarray(sampler.alias)
    mass = keep.copy()
    np.add.at(mass, alias, 1 - keep)
    return mass / len(keep)


@pytest.mark.parametrize(("most", "more"), [(1000, []), (2**40, [2**62 - 1])])
@settings(max_examples=50, deadline=None, derandomize=True)
@given(data=st.data())
def test_table_holds_the_popularity_exactly(most: int, more: list[int], data: Any) -> None:
    """Of counts beyond exact sums too."""
    counts = data.draw(st.lists(st.integers(0, most), min_size=2, max_size=40))
    assume(sum(counts[1:]) > 0)
    counts += more
    known = np.array([0, *counts[1:]], np.float64)
    found = distribution_of(make_sampler(np.array(counts)))
    np.testing.assert_allclose(found, known / known.sum(), atol=1e-6)


def test_draws_follow_the_table() -> None:
    sampler = make_sampler(np.array([0, 1, 2, 5]))
    random = random_columns(jax.random.key(0), 4, jnp.zeros((50, 1001), jnp.int32), 1)
    share = np.bincount(np.ravel(drawn(sampler, random)), minlength=4) / 100_000
    np.testing.assert_allclose(share, [0, 1 / 8, 2 / 8, 5 / 8], atol=0.006)  # 4 standard errors


def test_an_empty_popularity_draws_the_unknown_item_or_any() -> None:
    assert distribution_of(make_sampler(np.array([0]))) == [1]
    np.testing.assert_allclose(distribution_of(make_sampler(np.zeros(4, int))), 0.25)


@pytest.mark.parametrize("popularity", [[0, 0.5, 0.5], [0, 1, 2**0.75], [0, -1, 3]])
def test_numbers_that_count_no_events_are_refused(popularity: list[float]) -> None:
    with pytest.raises(ValueError, match="popularity: expected whole numbers of at least 0"):
        make_sampler(np.array(popularity))


@pytest.mark.parametrize("count", [1, 3])
def test_negatives_seldom_equal_their_positive(count: int) -> None:
    sampler = make_sampler(np.array([0, 1, 1]))
    history = jnp.asarray(np.random.default_rng(0).integers(1, 3, (50, 41)), jnp.int32)
    draw = jax.jit(auxiliary_negatives, static_argnums=3)
    found = draw(sampler, jax.random.key(1), history, count)
    assert found.shape == (50, 40, count)
    share = (np.asarray(found) == np.asarray(history)[:, 1:, None]).mean()
    assert 0.2 < share < 0.3  # one half a draw, drawn twice
    rare = draw(make_sampler(np.ones(1000)), jax.random.key(1), history, count)
    assert (np.asarray(rare) == np.asarray(history)[:, 1:, None]).mean() < 1e-3

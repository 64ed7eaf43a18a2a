"""Counts and factors of training events do not depend on how the events are sliced."""

import functools
from typing import Any

import jax
import numpy as np
import pytest
from support.random_log import random_log

from dien_jax.statistics import factors
from dien_jax.statistics.counting import Limits, count_values, first_occurrences
from dien_jax.statistics.factors import MAX_INTERACTIONS, factorise
from dien_jax.statistics.training_events import (
    map_slices,
    of_sequences,
    slices,
)

pytestmark = pytest.mark.fast

ITEMS, USERS = 150, 400
VALUES = {"item": np.arange(ITEMS), "category": np.arange(ITEMS) // 2}
LIMITS = {False: Limits(), True: Limits(distinct=8, pairs=3000, kept=300, chunk=500)}
"""The log exceeds the second ones."""


@pytest.mark.long
@pytest.mark.parametrize("is_long", [False, True])
@pytest.mark.parametrize("feature", VALUES)
def test_factors_are_those_of_the_whole_log(feature, is_long, monkeypatch) -> None:
    value_of = VALUES[feature]
    log, size = random_log(0, USERS, ITEMS), int(value_of.max()) + 1
    interactions = int(count_values(log, value_of, size)[0].count.sum())
    if is_long:  # says the count, so that every third user is read
        interactions = 3 * MAX_INTERACTIONS
    given: Any = {"interactions": interactions, "transitions": feature == "item"}
    expected = factorise(log, value_of, size, **given)
    monkeypatch.setattr(factors, "map_slices", functools.partial(map_slices, most=100))
    found = factorise(log, value_of, size, **given)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("is_ordered", [True, False])
@pytest.mark.parametrize("is_long", LIMITS)
@pytest.mark.parametrize("all_before", [False, True])
@pytest.mark.parametrize("feature", VALUES)
def test_counts_are_those_of_the_whole_log_whatever_the_slices_and_threads(
    feature, all_before, is_long, is_ordered, threads
) -> None:
    limits = LIMITS[is_long]._replace(slice=100)
    value_of, log = VALUES[feature], random_log(0, USERS, ITEMS, all_before=all_before)
    pieces = list(slices(log, limits.slice))
    assert len(pieces) > 20
    size = int(value_of.max()) + 1
    expected, own_of_whole = count_values(log, value_of, size, limits=LIMITS[is_long], threads=1)
    order = np.arange(len(log.item))
    if not is_ordered:
        place = np.random.default_rng(0).permutation(USERS)
        order = np.argsort(place[log.sequence], kind="stable")
        names = ("sequence", "history_end", "item", "label")  # of examples
        log = log._replace(**{name: getattr(log, name)[order] for name in names})
        assert len(list(slices(log, limits.slice))) == 1
    counts, own = count_values(log, value_of, size, limits=limits, threads=threads)
    np.testing.assert_array_equal(own[np.argsort(order)], own_of_whole)
    jax.tree.map(np.testing.assert_array_equal, counts, expected)


def test_a_long_sequence_is_a_slice_of_its_own() -> None:
    log = random_log(0, USERS, ITEMS)
    lengths = [np.diff(piece.offsets) for piece in slices(log, 6)]
    assert np.concatenate(lengths).tolist() == np.diff(log.offsets).tolist()
    assert all(own.sum() <= 6 or len(own) == 1 for own in lengths)
    assert 0 < sum(own.sum() > 6 for own in lengths) < len(lengths)


@pytest.mark.parametrize("all_before", [False, True])
def test_the_interactions_of_some_users_are_those_that_they_have_among_all(all_before) -> None:
    events, value_of = random_log(0, USERS, ITEMS, all_before=all_before), np.arange(ITEMS)
    chosen = np.arange(len(events.offsets) - 1) % 3 == 1
    of_all = first_occurrences(events, value_of)
    of_some = first_occurrences(of_sequences(events, chosen), value_of)
    assert 0 < len(of_some.value) < len(of_all.value)
    for ours, theirs in zip(of_some, of_all, strict=True):
        np.testing.assert_array_equal(ours, theirs[chosen[of_all.sequence]])

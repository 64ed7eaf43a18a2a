"""Negatives: what may be drawn, how often, and that drawing always ends."""

import tempfile
import weakref
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dien_jax.data.arrays import CHUNK_ROWS
from dien_jax.preparation.pipeline import target_negatives as negatives
from dien_jax.preparation.pipeline.splits import EventPart
from dien_jax.preparation.pipeline.target_negatives import (
    NONE,
    NegativeSampler,
    Pool,
    uniform_numbers,
)

pytestmark = pytest.mark.fast

OFFSETS = np.array([0, 3, 6], np.int64)
EVENTS = np.array([1, 2, 3, 2, 4, 5], np.int32)
PART = EventPart(0, 0, EVENTS, np.array([0, 1, 9, 0, 2, 9], np.int64), None, OFFSETS)
"""Two users; the later one chose 5 at the time when the first chose 3."""


def pool_of(items, times, distribution="popularity") -> Pool:
    """Return a pool of events in files that are removed with it."""
    columns = np.array(items, np.int32), np.array(times, np.int64)
    folder = tempfile.TemporaryDirectory()
    pool = Pool(Path(folder.name) / "pool", 300, distribution)
    weakref.finalize(pool, folder.cleanup)
    for start in range(0, len(items), 5):
        pool.add(*(column[start : start + 5] for column in columns))
    return pool


def draw(target, pool: Pool, *, count=4, seed=(7,), allow_own=False, first_event=0):
    sampler = NegativeSampler(PART._replace(first_event=first_event), 300, allow_own)
    target = np.array(target, np.int64)
    choices = pool.until(PART.timestamp[target])
    return sampler.draw(target, pool.item, choices, count=count, seed=seed)


@st.composite
def logs(draw):
    """Items and rising times of some users, and their offsets."""
    users = draw(
        st.lists(
            st.lists(st.tuples(st.integers(0, 6), st.integers(0, 7)), min_size=1, max_size=7),
            min_size=1,
            max_size=6,
        )
    )
    users = [sorted(events) for events in users]
    offsets = np.cumsum([0, *map(len, users)]).astype(np.int64)
    time, item = np.array([event for events in users for event in events], np.int64).T
    return item.astype(np.int32), time, offsets


@pytest.mark.long
@settings(deadline=None)
@given(
    logs(), st.integers(0, 5), st.booleans(), st.sampled_from(["popularity", "uniform"]), st.data()
)
def test_a_negative_existed_by_then_and_is_not_the_positive_nor_an_earlier_choice(
    log, seed, allow_own, distribution, data
):
    item, time, offsets = log
    inside = np.array(data.draw(st.lists(st.booleans(), min_size=len(item), max_size=len(item))))
    order = np.argsort(time, kind="stable")
    order = order[inside[order]]
    pool = pool_of(item[order], time[order], distribution)
    target = np.arange(data.draw(st.integers(0, len(item))))  # of no events too
    sampler = NegativeSampler(EventPart(0, 0, item, time, None, offsets), 7, allow_own)
    drawn = sampler.draw(target, pool.item, pool.until(time[target]), count=3, seed=(seed,))
    assert drawn.shape == (len(target), 3)
    for positive, column in np.argwhere(drawn != NONE):
        negative = drawn[positive, column]
        assert negative in item[inside & (time <= time[positive])]
        assert negative != item[positive]
        start = offsets[np.searchsorted(offsets, positive, side="right") - 1]
        assert allow_own or negative not in item[start:positive]


def test_what_the_user_chose_later_is_drawn_and_what_was_chosen_before_is_not():
    pool = pool_of([1, 2, 3, 4], [0, 0, 0, 0])
    assert set(draw([1], pool, count=50)[0].tolist()) == {3, 4}, "3 is the user's next choice"
    assert set(draw([2], pool, count=50)[0].tolist()) == {4}
    assert set(draw([2], pool, count=50, allow_own=True)[0].tolist()) == {1, 2, 4}


def test_threads_draw_what_one_does(monkeypatch):
    rng = np.random.default_rng(0)
    offsets = np.append(np.arange(0, 300, 2), 320)  # a long user and many of two events
    item, time = rng.integers(1, 30, 320).astype(np.int32), np.sort(rng.integers(0, 99, 320))
    pool = pool_of(item, time)
    sampler = NegativeSampler(EventPart(0, 0, item, time, None, offsets), 300)
    target = np.flatnonzero(rng.random(320) < 0.6)
    choices = pool.until(time[target])
    expected = sampler.draw(target, pool.item, choices, count=3, seed=(7,))
    monkeypatch.setattr(negatives, "thread_count", lambda: 5)
    found = sampler.draw(target, pool.item, choices, count=3, seed=(7,), chunk=150)
    np.testing.assert_array_equal(found, expected)


def test_a_draw_is_a_function_of_its_event_and_the_seed_alone():
    pool = pool_of([*range(1, 6)] * 10, [0] * 50)
    together = draw([1, 2, 4], pool, first_event=100)
    for target, items in zip([1, 2, 4], together, strict=True):
        assert draw([target], pool, first_event=100).tolist() == [items.tolist()]
    for other in ({"first_event": 0}, {"first_event": 100, "seed": (8,)}):
        assert draw([1], pool, **other).tolist() != [together[0].tolist()]


def test_a_pool_looks_up_times_in_any_order_and_across_blocks(tmp_path):
    """Time 2 is in three blocks, the last of which ends with 5; time 9 has one of its own."""
    times = np.repeat([1, 2, 5, 9], [CHUNK_ROWS - 2, 2 * CHUNK_ROWS + 1, 1, 2])
    pool = Pool(tmp_path / "pool", 300, "popularity")
    pool.add(np.arange(len(times)), times)
    asked = np.array([9, 0, 2, 1, 10, 5, 2, 8])
    assert pool.until(asked).tolist() == np.searchsorted(times, asked, side="right").tolist()
    places = np.array([3 * CHUNK_ROWS, 0, CHUNK_ROWS, CHUNK_ROWS, 2 * CHUNK_ROWS - 1])
    assert pool.item.take(places).tolist() == places.tolist()


def test_numbers_of_counters_are_uniform_and_independent_of_their_neighbours():
    numbers = uniform_numbers(np.arange(200_000), np.uint64(5))
    assert 0 <= numbers.min() < numbers.max() < 1
    counts = np.bincount((numbers * 50).astype(int), minlength=50)
    assert ((counts - 4000) ** 2 / 4000).sum() < 98, "chi-square, 49 degrees of freedom, p 4e-5"
    assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 0.01
    assert abs(np.corrcoef(numbers, uniform_numbers(np.arange(200_000), np.uint64(6)))[0, 1]) < 0.01

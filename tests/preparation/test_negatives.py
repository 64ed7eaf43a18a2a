"""Negatives: what may be drawn, how often, and that drawing always ends."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dien_jax.preparation.pipeline import target_negatives as negatives
from dien_jax.preparation.pipeline.target_negatives import NegativeSampler

OFFSETS = np.array([0, 2, 5], np.int64)
EVENTS = np.array([1, 2, 2, 3, 4], np.int32)


def draw(sequence, item, *, popularity, **changes):
    asked = {"count": changes.pop("count", 4), "seed": changes.pop("seed", (7,))}
    sampler = NegativeSampler(EVENTS, OFFSETS, np.array(popularity, np.int64), **changes)
    return sampler.draw(np.array(sequence, np.int32), np.array(item, np.int32), **asked)


@settings(deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=6), min_size=1, max_size=6),
    st.integers(0, 5),
    st.booleans(),
    st.sampled_from(["popularity", "uniform"]),
)
def test_a_negative_is_known_and_never_the_positive_nor_an_own_item(
    sequences, seed, allow_own, distribution
):
    offsets = np.cumsum([0, *map(len, sequences)]).astype(np.int64)
    events = np.array([item for items in sequences for item in items], np.int32)
    popularity = np.bincount(events, minlength=9)
    popularity[0] = 0
    last = offsets[1:] - 1
    sampler = NegativeSampler(events, offsets, popularity, distribution, allow_own)
    drawn = sampler.draw(
        np.arange(len(sequences), dtype=np.int32), events[last], count=3, seed=(seed,)
    )
    assert len(drawn.item) + drawn.missing == 3 * len(sequences)
    assert (np.diff(drawn.positive) >= 0).all()
    assert (popularity[drawn.item] > 0).all()
    for positive, item in zip(drawn.positive, drawn.item, strict=True):
        assert item != events[last[positive]]
        assert allow_own or item not in sequences[positive]


def test_popularity_is_followed():
    drawn = draw([0] * 6000, [1] * 6000, popularity=[0, 5, 5, 10, 30], allow_own=True)
    counts = np.bincount(drawn.item, minlength=5)
    np.testing.assert_allclose(
        counts / len(drawn.item), [0, 0, 5 / 45, 10 / 45, 30 / 45], atol=0.02
    )


def test_uniform_draws_every_known_item_alike():
    drawn = draw(
        [0] * 6000, [1] * 6000, popularity=[9, 5, 0, 10, 30], allow_own=True, distribution="uniform"
    )
    counts = np.bincount(drawn.item, minlength=5)
    np.testing.assert_allclose(counts / len(drawn.item), [0, 0, 0, 0.5, 0.5], atol=0.02)


def test_own_items_are_drawn_only_when_allowed():
    popularity = [0, 1, 1, 1, 1]
    assert set(draw([0] * 50, [1] * 50, popularity=popularity).item.tolist()) == {3, 4}
    allowed = draw([0] * 50, [1] * 50, popularity=popularity, allow_own=True)
    assert set(allowed.item.tolist()) == {2, 3, 4}


def test_a_user_who_chose_everything_gets_no_negative_and_is_counted():
    everything = draw([0, 1], [1, 2], popularity=[0, 0, 1, 1, 1])
    assert everything.positive.tolist() == [0, 0, 0, 0]
    assert set(everything.item.tolist()) <= {3, 4}
    assert everything.missing == 4


def test_nothing_to_draw_from_gives_no_negatives():
    assert draw([0], [1], popularity=[3, 0, 0, 0, 0]).missing == 4


def test_draws_are_a_function_of_the_seed():
    popularity = [0, *[1] * 200]
    first, same, other = (
        draw([0] * 20, [1] * 20, popularity=popularity, seed=seed).item.tolist()
        for seed in ((1, 2), (1, 2), (1, 3))
    )
    assert first == same
    assert first != other


def test_chunks_cover_all_positives_in_order(monkeypatch):
    monkeypatch.setattr(negatives, "CHUNK_POSITIVES", 3)
    drawn = draw([0, 0, 1, 1, 0, 1, 1], [1, 2, 2, 3, 1, 4, 2], popularity=[0, *[1] * 50], count=2)
    assert drawn.positive.tolist() == np.repeat(np.arange(7), 2).tolist()
    own = [EVENTS[OFFSETS[s] : OFFSETS[s + 1]] for s in (0, 0, 1, 1, 0, 1, 1)]
    for positive, item in zip(drawn.positive, drawn.item, strict=True):
        assert item not in own[positive]


@pytest.mark.parametrize("allow_own", [True, False])
def test_no_positives_need_no_negatives(allow_own):
    drawn = draw([], [], popularity=[0, 1], allow_own=allow_own)
    assert (len(drawn.item), drawn.missing) == (0, 0)

"""Splits: sides of random logs are those of plain Python, and none of them looks ahead."""

from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import plain_splits
from support.plain_splits import EARLIER, NONE, TRAIN

from dien_jax.data.metadata import SPLITS
from dien_jax.data.value_text import Clock
from dien_jax.preparation.options import ImplicitOptions
from dien_jax.preparation.pipeline import splits

pytestmark = pytest.mark.fast

NAMES = {splits.EARLIER: EARLIER, splits.NO_SIDE: NONE} | dict(enumerate(SPLITS))
TIMES = st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=8).map(sorted), min_size=1)
SETTINGS = st.one_of(
    st.just({"split": "last-event"}),
    st.builds(
        lambda policy, shares, seed: {
            "split": policy,
            "valid_share": shares[0],
            "test_share": shares[1],
            "seed": seed,
        },
        st.sampled_from(["by-user", "by-time"]),
        st.sampled_from([(0.1, 0.1), (0.3, 0.3), (0.0, 0.5), (0.0, 0.0)]),
        st.integers(0, 3),
    ),
    st.lists(st.integers(0, 7), min_size=3, max_size=3, unique=True).map(
        lambda times: dict(
            zip(("train_from", "valid_from", "test_from"), map(str, sorted(times)), strict=True),
            split="by-time",
        )
    ),
)


def log_of(users: list[list[int]], label: list[int] | None = None) -> splits.EventPart:
    """The log of users with rows at some times."""
    offsets = np.cumsum([0, *map(len, users)]).astype(np.int64)
    time = np.array([*chain(*users)], np.int64)
    labels = None if label is None else np.array(label, np.int8)
    return splits.EventPart(0, 0, np.zeros(len(time), np.int32), time, labels, offsets)


def split_of(log: splits.EventPart, **settings: Any) -> splits.Split:
    """The split of a log that is one part."""
    events: Any = SimpleNamespace(
        item=log.item,
        label=log.label,
        offsets=log.offsets,
        num_users=len(log.offsets) - 1,
        clock=Clock(False, "seconds"),
        times=(int(log.timestamp.min()), int(log.timestamp.max())),
        times_at=lambda places: np.sort(log.timestamp)[places].tolist(),
    )
    return splits.Split(ImplicitOptions(out=Path("data"), **settings), events)


@given(TIMES, SETTINGS, st.sampled_from([None, 1, 3]), st.booleans())
def test_sides_and_what_training_sees_are_those_of_plain_python(users, settings, most, impressions):
    log = log_of(users, [k % 2 for k in range(sum(map(len, users)))] if impressions else None)
    settings |= {"max_examples": most}
    split = split_of(log, **settings)
    found = [NAMES[side] for side in split.sides(log).tolist()]
    rows = zip(log.sequence.tolist(), found, strict=True)
    held_out = {user: side for user, side in rows if side in SPLITS[1:]}
    if settings["split"] == "by-user":
        able = sum(len(times) > (not impressions) for times in users)
        for name in ("valid", "test"):
            drawn = [*held_out.values()].count(name)
            assert drawn == round(settings[f"{name}_share"] * able)
    options = ImplicitOptions(out=Path("data"), **settings)
    expected = plain_splits.sides_of(
        dict(enumerate(users)), options, impressions=impressions, held_out=held_out
    )
    assert found == [*chain(*expected.values())]
    seen, past, chosen = split.marks(log)
    for marks, wanted in ((seen, [TRAIN]), (past, [TRAIN, EARLIER])):
        rows = (
            plain_splits.covered(s, *wanted, impressions=impressions) for s in expected.values()
        )
        assert marks.tolist() == [*chain(*rows)]
    assert (chosen == (past & (log.label == 1) if impressions else past)).all()


def test_by_user_draws_the_same_users_for_the_same_seed_and_others_for_another():
    log, shares = log_of([[1, 2]] * 100), {"valid_share": 0.2, "test_share": 0.2}
    first, again, other = (
        split_of(log, split="by-user", seed=seed, **shares).sides(log).tolist()
        for seed in (1, 1, 2)
    )
    assert first == again != other

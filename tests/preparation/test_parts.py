"""A log that is prepared in several parts gives the folder of one part, to the last bit."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.small_dataset import contents
from support.tiny_logs import SPLITS, log_of

from dien_jax.preparation.pipeline import events as pipeline_events
from dien_jax.preparation.pipeline import features as pipeline_features
from dien_jax.preparation.reading import array_files
from dien_jax.preparation.reading.array_files import ArrayFile
from dien_jax.preparation.sources import impressions, interactions

pytestmark = pytest.mark.long


@pytest.fixture
def small_blocks(monkeypatch):
    """Return a function that makes blocks of files small, and parts of so many events."""

    def small(events: int) -> None:
        monkeypatch.setattr(pipeline_events, "PART_EVENTS", events)
        monkeypatch.setattr(array_files, "BLOCK", 7)
        monkeypatch.setattr(pipeline_features, "BLOCK", 7)

    return small


@pytest.mark.parametrize("split", SPLITS)
def test_interactions_in_parts_equal_those_of_one(split, tmp_path, small_blocks):
    options = interactions.InteractionsOptions(
        file=log_of(tmp_path),
        out=tmp_path / "one",
        item_features=("kind", "tags:multivalued", "price:numeric"),
        user_features=("mood",),
        negatives=2,
        **SPLITS[split],
    )
    summary = interactions.prepare(options)
    small_blocks(25)
    parted = dataclasses.replace(options, out=tmp_path / "parts")
    assert interactions.prepare(parted) == summary
    assert contents(options.out) == contents(parted.out)


@pytest.mark.parametrize("split", SPLITS)
def test_impressions_in_parts_equal_those_of_one(split, tmp_path, small_blocks):
    shares = {name: value for name, value in SPLITS[split].items() if name != "max_examples"}
    options = impressions.ImpressionsOptions(
        file=log_of(tmp_path),
        out=tmp_path / "one",
        item_features=("kind",),
        context_features=("slot:multivalued", "price:numeric", "mood", "tags:multivalued"),
        max_values=3,
        min_count=2,
        **shares,
    )
    summary = impressions.prepare(options)
    small_blocks(40)
    parted = dataclasses.replace(options, out=tmp_path / "parts")
    assert impressions.prepare(parted) == summary
    assert contents(options.out) == contents(parted.out)


def stored(folder: Path, numbers) -> ArrayFile:
    file = ArrayFile(folder / "numbers", np.int64)
    for start in range(0, len(numbers), 4):
        file.append(numbers[start : start + 4])
    return file


@given(
    st.lists(st.integers(0, 10**6), min_size=1, max_size=40),
    st.lists(st.integers(0, 10**6), max_size=30),
)
def test_entries_of_a_file_are_taken_in_any_order(tmp_path_factory, numbers, places):
    places = np.array([place % len(numbers) for place in places], np.int64)
    file = stored(tmp_path_factory.mktemp("take"), np.array(numbers))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(array_files, "BLOCK", 3)
        assert file.take(places).tolist() == [numbers[place] for place in places]
        assert np.concatenate(list(file.blocks())).tolist() == numbers

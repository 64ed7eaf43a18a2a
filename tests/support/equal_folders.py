"""Comparison of dataset folders to the last bit."""

import numpy as np

from dien_jax.data.dataset import Dataset


def assert_equal(first: Dataset, other: Dataset) -> None:
    """The two have the same content, whatever their parts."""
    assert (first.schema, first.groups()) == (other.schema, other.groups())
    for feature in first.schema.features:
        if feature.size is not None:
            assert first.vocabulary(feature.name) == other.vocabulary(feature.name)
    for name in ("event_item", "event_timestamp", "event_offsets", "popularity"):
        np.testing.assert_array_equal(*(np.asarray(getattr(d, name)) for d in (first, other)))
    columns = [(d.items, d.users) for d in (first, other)]
    for mine, theirs in zip(*columns, strict=True):
        assert_equal_columns(mine, theirs)
    assert (first.event_negatives is None) == (other.event_negatives is None)
    if first.event_negatives is not None:
        negatives = ({"shown": d.event_negatives} for d in (first, other))
        assert_equal_columns(*negatives)
    for name, examples in first.splits.items():
        for column in ("sequence", "history_end", "user", "group", "item", "label"):
            both = (np.asarray(getattr(d.splits[name], column)) for d in (first, other))
            np.testing.assert_array_equal(*both)
        assert_equal_columns(examples.context, other.splits[name].context)


def assert_equal_columns(mine: dict, theirs: dict) -> None:
    assert mine.keys() == theirs.keys()
    for name, (values, offsets) in mine.items():
        np.testing.assert_array_equal(np.asarray(values), np.asarray(theirs[name].values))
        if offsets is not None:
            np.testing.assert_array_equal(np.asarray(offsets), np.asarray(theirs[name].offsets))

"""Impression logs: the summary, and columns that are refused."""

from pathlib import Path

import pytest
from support.source_samples import SHOWN as LOG
from support.tiny_logs import opened, write

from dien_jax.errors import UserError
from dien_jax.preparation.sources.impressions import ImpressionsOptions, prepare

pytestmark = pytest.mark.long


def options(file: Path, **changes) -> ImpressionsOptions:
    return ImpressionsOptions(**{"file": file, "out": file.parent / "data", **changes})


def make(file: Path, **changes):
    return opened(prepare, options(file, **changes))


def test_the_summary_counts_examples_clicks_and_empty_histories(tmp_path):
    _, summary = make(write(tmp_path, LOG), valid_from="3", test_from="4")
    (line,) = [line for line in summary if line.startswith("train: ")]
    assert line.startswith("train: 27 examples of 3 users, 9 positive")
    assert "9 empty" in line


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"label": "click"}, r"no column 'click' \(--label\)"),
        ({"context_features": ("hour",)}, r"no column 'hour' \(--context-features\)"),
        ({"valid_from": "0", "test_from": "1"}, "no training examples: --split by-time leaves"),
    ],
)
def test_what_cannot_be_prepared_is_told(tmp_path, changes, match):
    with pytest.raises(UserError, match=match):
        prepare(options(write(tmp_path, LOG), **changes))
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


@pytest.mark.parametrize("name", ["label", "sequence"])
def test_a_context_feature_cannot_take_the_name_of_a_column(tmp_path, name):
    with pytest.raises(UserError, match="that name is taken by a column of every example"):
        options(tmp_path / "log.csv", context_features=(name,))


def test_a_column_is_found_by_its_exact_case(tmp_path):
    header, *lines = LOG.splitlines()
    others = [f"User,{header},ITEM", *(f"other,{line},other" for line in lines)]
    dataset, _ = make(write(tmp_path, "\n".join(others)), valid_from="3", test_from="4")
    assert sorted(dataset.groups()) == ["ann", "bob", "cat"]
    assert "other" not in dataset.vocabulary("item")

"""Impression logs: the summary, and columns that are refused."""

import pytest
from support.source_samples import IMPRESSIONS, SHOWN

from dien_jax.errors import UserError

pytestmark = pytest.mark.long


def test_the_summary_counts_examples_clicks_and_empty_histories(tmp_path):
    _, summary = IMPRESSIONS.make(tmp_path, valid_from="3", test_from="4")
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
        IMPRESSIONS.make(tmp_path, **changes)
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_a_column_is_found_by_its_exact_case(tmp_path):
    header, *lines = SHOWN.splitlines()
    others = [f"User,{header},ITEM", *(f"other,{line},other" for line in lines)]
    sample = IMPRESSIONS._replace(files={"log.csv": "\n".join(others)})
    dataset, _ = sample.make(tmp_path, valid_from="3", test_from="4")
    assert sorted(dataset.groups()) == ["ann", "bob", "cat"]
    assert "other" not in dataset.vocabulary("item")

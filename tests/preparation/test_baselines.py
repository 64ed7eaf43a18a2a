"""What simple rules would score on the held-out examples, and how many candidates are unknown."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tiny_logs import HEADER, make, write

from dien_jax.preparation.pipeline.splits import (
    RuleCounts,
    describe_baselines,
    in_history,
)

pytestmark = pytest.mark.fast


def candidates(label, row, repeated) -> RuleCounts:
    counts = RuleCounts()
    for part in (slice(0, 1), slice(1, None)):
        columns = np.array(label, np.int8), np.array(row, np.int32), np.array(repeated, bool)
        counts.add(*(column[part] for column in columns))
    return counts


def test_rules_are_scored_with_ties_as_one_half():
    test = candidates([1, 1, 0, 0], [1, 2, 2, 3], [1, 0, 0, 0])
    assert describe_baselines({"valid": test, "test": test}) == [
        'AUC of the rule "the candidate is in the history": 0.7500 on valid, 0.7500 on test',
        "valid: 0 of 2 positives and 0 of 2 negatives are unknown in training",
        "test: 0 of 2 positives and 0 of 2 negatives are unknown in training",
    ]


@pytest.mark.parametrize(("in_history", "told"), [([1, 0, 0, 0], True), ([0, 0, 0, 0], False)])
def test_users_that_return_are_told_of_where_no_negative_is_in_the_history(in_history, told):
    test = {"test": candidates([1, 1, 0, 0], [1, 2, 2, 3], in_history)}
    line = describe_baselines(test, no_own_negatives=True)[0]
    assert line.endswith("; --allow-own-negatives draws negatives there too") == told
    assert describe_baselines(test)[0].endswith("00 on test")


@pytest.mark.parametrize(
    ("label", "counts", "advice"),
    [
        ([1, 1, 0, 0], "1 of 2 positives and 0 of 2 negatives", "first alone gives an AUC of 0.75"),
        ([0, 0, 1, 1], "0 of 2 positives and 1 of 2 negatives", "last alone gives an AUC of 0.75"),
        ([1, 0, 1, 0], "1 of 2 positives and 0 of 2 negatives", "first alone gives an AUC of 0.75"),
    ],
)
def test_unknown_candidates_are_counted_with_what_ranking_by_them_gives(label, counts, advice):
    line = describe_baselines({"test": candidates(label, [0, 1, 2, 3], [0] * 4)})[-1]
    assert line.startswith(f"test: {counts} are unknown in training; ranking these ")
    assert advice in line


def test_splits_that_define_no_auc_say_so_and_empty_ones_nothing():
    none, clicks = candidates([], [], []), candidates([1, 1], [1, 2], [0, 1])
    lines = describe_baselines({"valid": none, "test": clicks})
    assert lines[0].endswith(": undefined on test")
    assert lines[1:] == ["test: 0 of 2 positives and 0 of 0 negatives are unknown in training"]
    assert describe_baselines({"valid": none, "test": none}) == []


@given(
    st.lists(st.lists(st.integers(0, 4), max_size=6), min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6), st.integers(0, 5)), max_size=12),
)
def test_a_history_has_the_candidate_if_an_event_before_its_end_is_of_it(sequences, asked):
    offsets = np.cumsum([0, *map(len, sequences)]).astype(np.int64)
    events = np.array([item for items in sequences for item in items], np.int32)
    asked = [(s % len(sequences), n, item) for s, n, item in asked]
    sequence = np.array([s for s, _, _ in asked], np.int32)
    length = np.array([min(n, len(sequences[s])) for s, n, _ in asked], np.int64)
    item = np.array([item for _, _, item in asked], np.int32)
    expected = [i in sequences[s][:n] for s, n, i in zip(sequence, length, item, strict=True)]
    end = offsets[sequence] + length
    assert in_history(sequence, end, item, events, offsets, chunk=5).tolist() == expected


def test_preparing_interactions_reports_the_rules(tmp_path):
    again = "".join(f"u{user},i{user % 3},c,{time}\n" for user in range(9) for time in range(5))
    _, summary = make(write(tmp_path, HEADER + again))
    text = "\n".join(summary)
    assert 'AUC of the rule "the candidate is in the history": 1.0000 on valid, 1.0000 on' in text
    assert "--allow-own-negatives" in text
    assert "test: 0 of 9 positives and 0 of 9 negatives are unknown in training" in summary
    new = "".join(f"u{user},{'i' if time < 3 else 'n'}{user % 4},c,{time}\n" for user in range(9)
                  for time in range(5))  # fmt: skip
    _, summary = make(write(tmp_path, HEADER + new), out=tmp_path / "new")
    (line,) = [line for line in summary if line.startswith("valid: 9 of 9 positives and ")]
    assert "negatives are unknown in training; ranking these first alone gives an AUC of" in line

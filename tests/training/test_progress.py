"""The host's part of a checkpoint: edited ones are refused, and no default stands in for a key."""

import dataclasses
from typing import Any

import pytest
from support.json_files import REMOVED, edit

from dien_jax import UserError
from dien_jax.training.progress import EXAMPLES, Progress

BEFORE = Progress(step=8, evaluated_step=6, best_step=4, best_score=0.5, totals={EXAMPLES: 2.0})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("best_score", 1e30, r"Expected 'float' <= 1.0 - at '\$.best_score'"),
        ("best_score", None, "expected both of an evaluation or none, found"),
        ("later", 1, "unknown key 'later'"),
        ("step", 9, "best_step <= evaluated_step <= step == 8, found"),
        ("best_step", 7, "best_step <= evaluated_step <= step == 8, found"),
        ("worse_evaluations", -1, r"Expected 'int' >= 0 - at '\$.worse_evaluations'"),
        ("totals", {"loss": 1.0}, f"expected totals.{EXAMPLES} to be above 0"),
        ("network_from", 7, "expected network_from to be at most 6, found 7"),
    ],
)
def test_edited_progress_is_refused(name: str, value: Any, message: str) -> None:
    values = dataclasses.asdict(BEFORE)
    assert Progress.restored(values, 8, "host") == BEFORE
    with pytest.raises(UserError, match=f"^host: .*{message}"):
        Progress.restored(values | {name: value}, 8, "host")


FREE = [
    ("best_score", -7),  # a log loss, with its sign changed
    *((name, 10**30) for name in ("timed_examples", "timed_seconds", "wall_seconds")),
]
WRONG = [
    (name, value)
    for name in dataclasses.asdict(BEFORE)
    for value in (REMOVED, [[]], -7, 10**30)
    if (name, value) not in FREE
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_every_key_is_needed_and_has_its_type(name: str, value: Any) -> None:
    values = dataclasses.asdict(BEFORE)
    edit(values, [name], value)
    with pytest.raises(UserError, match=r"^host: "):
        Progress.restored(values, 8, "host")

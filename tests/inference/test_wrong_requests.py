"""Requests from Python that no model should see: each is refused, and the others are ranked.

As a program, the file ranks them where types are not checked. The argument is a run folder of the
small dataset. Each line of output is a name and, as JSON, an error or a result.
"""

import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support import small_dataset, untrained_run
from support.small_dataset import ITEMS

from dien_jax import Ranker, RankRequest, open_dataset
from dien_jax.data.schema import Feature
from dien_jax.data.value_text import whole_number
from dien_jax.data.vocabularies import Vocabularies
from dien_jax.errors import UserError

pd = pytest.importorskip("pandas")
pytestmark = pytest.mark.long

PEAR, SLASH, _ = ITEMS[1:]
IDS = ["fig", SLASH]
CONTEXT = {"device": "desk", "query": ["q", "s"]}
GOOD = RankRequest([PEAR], IDS, None, CONTEXT)
LISTS: dict[str, Callable[[list[str]], Any]] = {
    "list": list,
    "tuple": tuple,
    "deque": deque,
    "array": np.array,
    "series": lambda ids: pd.Series(ids, index=[7, 3]),
    "series with labels in another order": lambda ids: pd.Series(ids, index=[1, 0]),
}
NO_LISTS = (PEAR, b"pear", 5, {PEAR}, {PEAR: 1}, (item for item in [PEAR]))
NO_IDS = (None, float("nan"))
NO_USERS = (["Ann"], True, 1.5)
MANY_DIGITS = "a whole number has too many"
Wrong = dict[str, Any] | tuple[Any, ...] | Callable[[Ranker], Any]
REFUSED: list[tuple[str, Wrong, str]] = [
    ("a tuple", ([PEAR], [SLASH]), "expected a RankRequest, got (["),
    ("context of a number", {"context": {1: 1}}, "context has no feature 1"),
]
"""Name; fields of a request, another thing in its place, or an action; and the message."""
for field in ("history", "candidates"):
    for value in NO_LISTS:
        message = f"{field} must be a list of ids, got "
        REFUSED.append((f"{field} {type(value).__name__}", {field: value}, message))
    for none in NO_IDS:
        message = f"{field}: id 2 of 2 is {none!r}; expected an item"
        REFUSED.append((f"{field} with {none}", {field: [PEAR, none]}, message))
    message = f"{field}: {MANY_DIGITS}"
    REFUSED.append((f"{field} of 5,000 digits", {field: [10**5000]}, message))
    message = f"{field}: ids and categories must be text, whole numbers or dates, got 1.0"
    REFUSED.append((f"{field} of a float", {field: [1.0]}, message))
for name in CONTEXT:
    message = f"context '{name}': {MANY_DIGITS}"
    REFUSED.append((f"{name} of 5,000 digits", {"context": CONTEXT | {name: 10**5000}}, message))
for context in ("device", ["device"], 7):
    REFUSED.append((f"context {context}", {"context": context}, "context must give values by"))
for user in (*NO_IDS, "", *NO_USERS):
    no_id = "a user to remember must have an id"
    message = "ids and categories must be" if user in NO_USERS else no_id
    REFUSED.append((f"remember {user}", lambda ranker, u=user: ranker.remember(u, [PEAR]), message))
for none in NO_IDS:
    message = f"id 1 of 1 is {none!r}"
    REFUSED += [
        (f"remembered {none}", lambda r, n=none: r.remember("Ann", [n]), f"history: {message}"),
        (f"observe {none}", lambda r, n=none: r.observe("Ann", n), f"event: {message}"),
    ]


def refused(ranker: Ranker, wrong: Wrong) -> str:
    """The error of something wrong; good requests before and after a wrong one are ranked."""
    try:
        if callable(wrong):
            return str(wrong(ranker))
        request = GOOD._replace(**wrong) if isinstance(wrong, dict) else wrong
        before, error, after = ranker.rank_many([GOOD, request, GOOD])
    except Exception as raised:
        return f"{type(raised).__name__}: {raised}"
    assert before.ids == after.ids
    return f"{type(error).__name__}: {error}"


def main(run: str) -> None:
    """Rank, and print."""
    ranker = Ranker(run)
    ranker.remember("Ann", [PEAR])
    for name, wrong, _ in REFUSED:
        print(json.dumps([name, refused(ranker, wrong)]))
    for name, kind in LISTS.items():
        ranking = ranker.rank(kind([PEAR, "fig"]), kind(IDS), context=CONTEXT)
        print(json.dumps([f"ranked {name}", [ranking.ids, ranking.scores.tolist()]]))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return small_dataset.write(tmp_path_factory.mktemp("wrong") / "data")


@pytest.fixture(scope="module")
def outcomes(dataset):
    run = untrained_run.write(dataset.parent / "run", dataset, model="base_model", buckets=())
    ended = subprocess.run(
        [sys.executable, __file__, str(run)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return dict(map(json.loads, ended.stdout.splitlines()))


@pytest.mark.parametrize(("name", "message"), [(name, message) for name, _, message in REFUSED])
def test_wrong_request_is_refused_alone(name, message, outcomes):
    assert outcomes[name].startswith(f"UserError: {message}")


@pytest.mark.parametrize("name", LISTS)
def test_ids_keep_their_scores_in_any_kind_of_list(name, outcomes):
    assert outcomes[f"ranked {name}"] == outcomes["ranked list"]


def test_separator_must_not_be_empty(dataset):
    schema = open_dataset(dataset).schema
    with pytest.raises(UserError, match="the separator must not be empty"):
        Vocabularies(schema, lambda name: ["", "a"], "")


def test_histories_keep_ids_with_spaces_that_training_saw(dataset):
    vocabularies = Vocabularies(open_dataset(dataset).schema, lambda name: ["", " a", "b"])
    assert vocabularies.events(" a| b |c |  |") == [" a", "b", "c"]
    assert vocabularies.events([" a", " b ", None, ""]) == [" a", " b "]
    assert vocabularies.events(None) == []


@pytest.mark.parametrize("text", ["\u0661", "\uff11.5", "1_0"])
def test_digits_that_no_log_may_have_are_no_numbers(text, dataset):
    price = Feature("price", "numeric", mean=0.0, deviation=1.0)
    vocabularies = Vocabularies(open_dataset(dataset).schema, lambda name: ["", "a"])
    with pytest.raises(UserError, match="is not a number"):
        vocabularies.encode(price, [text])
    assert whole_number(text) is None


if __name__ == "__main__":
    main(sys.argv[1])

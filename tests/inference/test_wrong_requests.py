"""Requests from Python that no model should see: each is refused, and the others are ranked."""

import re
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import jaxtyping
import numpy as np
import pyarrow as pa
import pytest
from scipy.sparse import csr_matrix
from support.small_dataset import CONTEXT, PEAR, SLASH

from dien_jax import Ranker, RankRequest
from dien_jax.errors import UserError

pd = pytest.importorskip("pandas")
pytestmark = pytest.mark.long

IDS = ["fig", SLASH]
GOOD = RankRequest([PEAR], IDS, None, CONTEXT)
LISTS: dict[str, Callable[[list[str]], Any]] = {
    "list": list,
    "tuple": tuple,
    "deque": deque,
    "array": np.array,
    "series": lambda ids: pd.Series(ids, index=[7, 3]),
    "series with labels in another order": lambda ids: pd.Series(ids, index=[1, 0]),
    "Arrow array": pa.array,
    "Arrow list": pa.scalar,
}
TABLES = (pd.DataFrame({"item": [PEAR]}), np.array([[PEAR]]), csr_matrix([[1, 0]]))
MISSING = pa.scalar(None, pa.list_(pa.string()))
NO_LISTS = (PEAR, b"pear", 5, {PEAR}, {PEAR: 1}, (item for item in [PEAR]), MISSING, *TABLES)
NO_IDS = (None, float("nan"))
NO_USERS = (["Ann"], True, 1.5)
MANY_DIGITS = "a whole number has too many"
Wrong = dict[str, Any] | tuple[Any, ...] | Callable[[Ranker], Any]
REFUSED: list[tuple[str, Wrong, str]] = [
    ("a tuple", ([PEAR], [SLASH]), "expected a RankRequest, got (["),
    ("a user of 5,000 digits", {"history": None, "user": 10**5000}, MANY_DIGITS),
    ("context of a number", {"request_features": {1: 1}}, "request_features has no feature 1"),
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
    message = f"request_features '{name}': {MANY_DIGITS}"
    REFUSED.append(
        (f"{name} of 5,000 digits", {"request_features": CONTEXT | {name: 10**5000}}, message)
    )
for context in ("device", ["device"], 7, pd.Series(CONTEXT)):
    REFUSED.append(
        (
            f"context {context!r:.9}",
            {"request_features": context},
            "request_features must give values by",
        )
    )
for user in (*NO_IDS, "", *NO_USERS):
    no_id = "a user to remember must have an id"
    message = "ids and categories must be" if user in NO_USERS else no_id
    REFUSED.append((f"remember {user}", lambda ranker, u=user: ranker.remember(u, [PEAR]), message))
REFUSED.append(("at most 2", lambda r: r.recommend([], at_most=2), "at_most: expected a limit by"))
of_at_most = "a feature of at_most must be one of category, got "
for wrong, message in (
    ({"n": 0}, "n must be at least 1, got 0"),
    ({"at_most": {"categry": 1}}, f"{of_at_most}'categry'; did you mean 'category'?"),
    ({"at_most": {"price": 1}}, f"{of_at_most}'price'"),
    ({"at_most": {"category": 0}}, "at_most of 'category' must be at least 1, got 0"),
    ({"candidates": "pear"}, "candidates must be a list of ids, got the text 'pear'"),
    ({"exclude": "pear"}, "exclude must be a list of ids, got the text 'pear'"),
    ({"request_features": {}}, "request_features: expected a value of 'device'"),
):
    call = partial(Ranker.recommend, **{"history": [], "request_features": CONTEXT} | wrong)
    REFUSED.append((f"recommend with {wrong}", call, message))
text = "history 2 of 2: history must be a list of ids, got the text 'pear'; give the"
pair = partial(Ranker.recommend_many, histories=[[], "pear"], request_features=[CONTEXT] * 2)
REFUSED.append(("many with a text", pair, text))
rows = "history must be a list of ids, got csr_matrix <Compressed Sparse Row"
REFUSED.append(("a sparse matrix", lambda r: r.recommend_many(TABLES[2]), rows))
REFUSED.append(("a user alone", lambda r: r.recommend(5), "history must be a list of ids"))
for none in NO_IDS:
    message = f"id 1 of 1 is {none!r}"
    REFUSED += [
        (f"remembered {none}", lambda r, n=none: r.remember("Ann", [n]), f"history: {message}"),
        (f"observe {none}", lambda r, n=none: r.observe("Ann", n), f"event: {message}"),
    ]


@pytest.fixture(autouse=True)
def types_are_not_checked(monkeypatch):
    """As where the package is used: only tests check the types of arguments."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [(wrong, message) for _, wrong, message in REFUSED],
    ids=[name for name, *_ in REFUSED],
)
def test_wrong_request_is_refused_alone(wrong, message, ranker):
    """Good requests before and after it are ranked."""
    ranker.remember("Ann", [PEAR])
    if callable(wrong):
        with pytest.raises(UserError, match=f"^{re.escape(message)}"):
            wrong(ranker)
        return
    request = GOOD._replace(**wrong) if isinstance(wrong, dict) else wrong
    before, error, after = ranker.rank_many([GOOD, request, GOOD])
    assert isinstance(error, UserError)
    assert str(error).startswith(message)
    assert before.ids == after.ids


@pytest.mark.parametrize("kind", LISTS.values(), ids=LISTS)
def test_ids_keep_their_scores_in_any_kind_of_list(kind, ranker):
    expected = ranker.rank([PEAR, "fig"], IDS, request_features=CONTEXT)
    found = ranker.rank(kind([PEAR, "fig"]), kind(IDS), request_features=CONTEXT)
    assert found.ids == expected.ids
    assert found.scores.tolist() == expected.scores.tolist()


def test_what_is_no_model_is_refused_with_what_is_expected(tmp_path):
    with pytest.raises(UserError, match="nothing does not exist; expected a run folder, or a file"):
        Ranker(tmp_path / "nothing")
    with pytest.raises(TypeError, match=r"path must be a run folder such as .*, got dict"):
        Ranker({})

"""Wrong requests and what is said of them; as a program, ranks them where types are not checked.

The argument is a run folder of the small dataset. Each line of output is a name and, as JSON, an
error or a result.
"""

import json
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from dien_jax import Ranker, RankRequest
from support.small_dataset import ITEMS

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
    REFUSED.append((f"{field} of 5,000 digits", {field: [10**5000]}, MANY_DIGITS))
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


if __name__ == "__main__":
    main(sys.argv[1])

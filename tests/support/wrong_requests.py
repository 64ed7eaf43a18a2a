"""Ranks wrong requests, in a process that does not check types as tests do; prints what they gave.

The argument is a run folder of the small dataset. Each line is a name and, as JSON, an error or a
result.
"""

import json
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from dien_jax import Ranker, RankRequest, UserError
from support.small_dataset import ITEMS

PEAR, SLASH, _ = ITEMS[1:]
IDS = ["fig", SLASH]
CONTEXT = {"device": "desk", "query": ["q", "s"]}
NO_LISTS: dict[str, Callable[[], Any]] = {
    "text": lambda: PEAR,
    "bytes": lambda: b"pear",
    "number": lambda: 5,
    "set": lambda: {PEAR},
    "mapping": lambda: {PEAR: 1},
    "generator": lambda: (item for item in [PEAR]),
}
LISTS: dict[str, Callable[[list[str]], Any]] = {
    "list": list,
    "tuple": tuple,
    "deque": deque,
    "array": np.array,
    "series": lambda ids: pd.Series(ids, index=[7, 3]),
    "series with labels in another order": lambda ids: pd.Series(ids, index=[1, 0]),
}
NO_IDS = {"None": None, "NaN": float("nan")}
NO_USERS = {"list": ["Ann"], "bool": True, "fraction": 1.5}
NO_CONTEXTS = {"text": "device", "list": ["device"], "number": 7}


def main(run: str) -> None:
    """Rank, and print."""
    ranker = Ranker(run)
    good = RankRequest([PEAR], IDS, None, CONTEXT)

    def show(name: str, call: Callable[[], Any]) -> None:
        try:
            result = call()
        except UserError as error:
            result = f"UserError: {error}"
        except Exception as error:
            result = f"{type(error).__name__}: {error}"
        print(json.dumps([name, result]))

    def alone(wrong: Any) -> str:
        before, error, after = ranker.rank_many([good, wrong, good])
        assert not isinstance(before, UserError)
        assert not isinstance(after, UserError)
        assert before.ids == after.ids
        return f"{type(error).__name__}: {error}"

    for field in ("history", "candidates"):
        for name, value in NO_LISTS.items():
            show(f"{field} {name}", lambda f=field, v=value: alone(good._replace(**{f: v()})))
        for name, none in NO_IDS.items():
            wrong = good._replace(**{field: [PEAR, none]})
            show(f"{field} with {name}", lambda w=wrong: alone(w))
    for field in ("history", "candidates"):
        wrong = good._replace(**{field: [10**5000]})
        show(f"{field} of 5,000 digits", lambda w=wrong: alone(w))
    for feature in CONTEXT:
        wrong = good._replace(context=CONTEXT | {feature: 10**5000})
        show(f"{feature} of 5,000 digits", lambda w=wrong: alone(w))
    show("a tuple", lambda: alone(([PEAR], [SLASH])))
    for name, context in NO_CONTEXTS.items():
        show(f"context {name}", lambda c=context: alone(good._replace(context=c)))
    show("context of a number", lambda: alone(good._replace(context={1: 1})))
    ranker.remember("Ann", [PEAR])
    for name, none in NO_IDS.items():
        show(f"remembered {name}", lambda n=none: ranker.remember("Ann", [n]))
        show(f"observe {name}", lambda n=none: ranker.observe("Ann", n))
    for name, none in (NO_IDS | {"nothing": ""}).items():
        show(f"remember {name}", lambda n=none: ranker.remember(n, [PEAR]))
    for name, user in NO_USERS.items():
        show(f"remember user {name}", lambda u=user: ranker.remember(u, [PEAR]))
    for name, kind in LISTS.items():

        def pairs(kind: Callable[[list[str]], Any] = kind) -> list[Any]:
            ranking = ranker.rank(kind([PEAR, "fig"]), kind(IDS), context=CONTEXT)
            return [ranking.ids, ranking.scores.tolist()]

        show(f"ranked {name}", pairs)


if __name__ == "__main__":
    main(sys.argv[1])

"""Examples for a user and an item that are given by their raw ids."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from dien_jax.data.columns import Examples
from dien_jax.data.dataset import Dataset
from dien_jax.data.schema import UNKNOWN
from dien_jax.data.user_events import UserEvents
from dien_jax.data.vocabularies import Vocabularies
from dien_jax.errors import UserError, printable, suggestion
from dien_jax.utils.console import say

_NAMED = 3
"""Number of ids that an error message names."""


def request(dataset: Dataset, user: str, item: str, context: Mapping[str, str]) -> Dataset:
    """Return the dataset with one test example: an item for a user after all the user's events.

    Ids are raw. ``context`` has values of context features by name; others are missing. A name that
    does not exist, or users with several histories, is a UserError.
    """
    vocabularies = Vocabularies(dataset.schema, dataset.vocabulary)
    events = UserEvents(dataset, "inspect one of the user's examples, with --example")
    groups = dataset.groups()
    if user not in events:
        raise _unknown("--user", user, groups, groups, dataset)
    [row] = vocabularies.item_rows([item])
    if row == UNKNOWN:
        known = vocabularies.items[1:]
        frequent = np.argsort(-dataset.popularity[1:], kind="stable")[:_NAMED]
        raise _unknown("--item", item, known, [known[k] for k in frequent], dataset)
    missing = [f.name for f in dataset.schema.context if f.name not in context]
    if missing:
        say(f"note: no value for {', '.join(missing)}; set context with --context NAME VALUE")
    columns, unknown = vocabularies.context_columns({**dict.fromkeys(missing), **context})
    if unknown:
        say(f"note: {unknown} context value{'s' * (unknown > 1)} did not occur in training")
    user_row = vocabularies.user_row(user)
    if user_row == UNKNOWN and dataset.schema.num_users > 1:
        say(f"note: user {user} did not occur in training; the model sees the unknown user")
    sequence, end = events.find(user, None)
    numbers = {"sequence": sequence, "user": user_row, "group": groups.index(user), "item": row}
    ids = {name: np.array([value], np.int32) for name, value in numbers.items()}
    ends, label = np.array([end], np.int64), np.zeros(1, np.int8)
    example = Examples(**ids, history_end=ends, label=label, context=columns)
    return dataclasses.replace(dataset, splits={"test": example})


def _unknown(
    flag: str, value: str, known: Sequence[str], named: Sequence[str], dataset: Dataset
) -> UserError:
    near = suggestion(value, known) if len(known) <= 100_000 else ""  # slow beyond
    ids = ", ".join(repr(printable(raw)) for raw in named[:_NAMED])
    return UserError(
        f"{flag} {value!r} does not exist in {dataset.path}{near}; the folder has {len(known):,} "
        f"{flag.removeprefix('--')}s{f', such as {ids}' if ids else ''}"
    )

"""Requests for an explanation, read from a JSON file"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from dien_jax.data.dataset import Dataset, Examples
from dien_jax.data.schema import UNKNOWN
from dien_jax.data.user_events import UserEvents
from dien_jax.data.vocabularies import Vocabularies
from dien_jax.errors import UserError, suggestion
from dien_jax.inspection.examples import printable
from dien_jax.utils.console import say

_NAMED = 3
"""How many ids an error message names."""


def request(dataset: Dataset, user: str, item: str, context: Mapping[str, str]) -> Dataset:
    """The dataset with one test example: a candidate after all events of a user.

    Args:
      dataset: whose events they are.
      user: raw id.
      item: raw id.
      context: values of context features by name; of those left out, a missing one.

    Raises:
      UserError: for a user, an item or a context feature that does not exist, or where users have
        several histories.
    """
    vocabularies = Vocabularies(dataset)
    events = UserEvents(dataset, "look at one of its examples, with --example")
    groups = dataset.groups()
    if user not in events:
        raise _absent("--user", user, groups, groups, dataset)
    [row] = vocabularies.item_rows([item])
    if row == UNKNOWN:
        known = vocabularies.items[1:]
        order = np.argsort(-dataset.popularity[1:], kind="stable")
        raise _absent("--item", item, known, [known[k] for k in order[:_NAMED]], dataset)
    missing = [f.name for f in dataset.schema.context if f.name not in context]
    if missing:
        say(f"context: {', '.join(missing)} counts as missing; --context NAME VALUE gives a value")
    columns, unknown = vocabularies.context_columns({**dict.fromkeys(missing), **context})
    if unknown:
        say(f"{unknown} of the context values training did not know")
    user_row = vocabularies.user_row(user)
    if user_row == UNKNOWN and dataset.schema.num_users > 1:
        say(f"user {user} is not among the training users, so the model takes it for unknown")
    sequence, end = events.find(user, None)
    example = Examples(
        sequence=np.array([sequence], np.int32),
        history_end=np.array([end], np.int64),
        user=np.array([user_row], np.int32),
        group=np.array([groups.index(user)], np.int32),
        item=np.array([row], np.int32),
        label=np.zeros(1, np.int8),
        context=columns,
        probability=None,
    )
    return dataclasses.replace(dataset, splits={"test": example})


def _absent(
    flag: str, value: str, known: Sequence[str], named: Sequence[str], dataset: Dataset
) -> UserError:
    what = f"{flag.removeprefix('--')}s"
    near = suggestion(value, known) if len(known) <= 100_000 else ""  # slow beyond
    first = ", ".join(repr(printable(raw)) for raw in named[:_NAMED])
    return UserError(
        f"{flag} {value!r} does not exist in {dataset.path}{near}; it has {len(known):,} {what}"
        + (f", {first} among them" if first else "")
    )

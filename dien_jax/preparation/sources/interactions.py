"""Logs of interactions: users, and the items they chose. Negatives are drawn.

:mod:`dien_jax.preparation.pipeline.from_interactions` describes examples, histories and splits.
"""

from dataclasses import dataclass
from typing import Any

from dien_jax.errors import require
from dien_jax.preparation.options import ColumnOptions, ImplicitOptions, SplitPolicy


@dataclass(frozen=True, kw_only=True)
class InteractionsOptions(ImplicitOptions, ColumnOptions):
    """A log of items that users chose, as CSV or Parquet. Negatives are drawn."""

    split: SplitPolicy = "last-event"
    """Held out: whole users (by-user), each user's last two events (last-event), or the latest
    events (by-time)."""


def prepare(options: InteractionsOptions, *, table: Any = None) -> list[str]:
    """Make a dataset folder from a log of interactions.

    A ``table`` in memory replaces the file, which is then its name in messages; see
    :func:`dien_jax.make_dataset`.
    """
    require("data", "preparing logs")
    from dien_jax.preparation.pipeline.from_columns import prepare_columns
    from dien_jax.preparation.pipeline.from_interactions import write_interactions

    return prepare_columns(options, "interactions", write_interactions, table)

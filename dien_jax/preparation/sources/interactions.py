"""Logs of interactions: users, and the items that they chose. Negatives are sampled.

:mod:`dien_jax.preparation.pipeline.write` describes examples, histories and splits.
"""

from dataclasses import dataclass
from typing import Any

from dien_jax.preparation.logs import prepare_columns
from dien_jax.preparation.options import ColumnOptions, ImplicitOptions


@dataclass(frozen=True, kw_only=True)
class InteractionsOptions(ImplicitOptions, ColumnOptions):
    """A log of items that users chose, as CSV or Parquet. Negatives are sampled."""


def prepare(options: InteractionsOptions, *, table: Any = None) -> list[str]:
    """Make a dataset folder from a log of interactions, see :func:`prepare_columns`."""
    return prepare_columns(options, "interactions", table)

"""Logs of impressions: items that were shown to users, with or without a click.

:mod:`dien_jax.preparation.pipeline.write` describes examples, histories and splits.
"""

from dataclasses import dataclass
from typing import Any

from dien_jax.preparation.logs import prepare_columns
from dien_jax.preparation.options import ColumnOptions, LogColumn, SplitPolicy


@dataclass(frozen=True, kw_only=True)
class ImpressionsOptions(ColumnOptions):
    """A log of items that users were shown, as CSV or Parquet, with a label for the click."""

    split: SplitPolicy = "by-time"
    label: str = "label"
    """Column of the label: 1 for a click, 0 for none."""

    def log_columns(self) -> dict[str, LogColumn]:
        return super().log_columns() | {"label": LogColumn(self.label, "--label", "numeric")}


def prepare(options: ImpressionsOptions, *, table: Any = None) -> list[str]:
    """Make a dataset folder from a log of impressions, see :func:`prepare_columns`."""
    return prepare_columns(options, "impressions", table)

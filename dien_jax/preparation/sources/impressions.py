"""Logs of impressions: what a user was shown, and whether it was clicked.

Every row is an example with its own label. Its history is the user's clicks of strictly smaller
times, so what was shown together never sees each other's clicks; it may be empty. Rows of one user
and one time (a request) always fall into one split:

- ``by-time``: rows before, between and after two times; rows before ``--train-from`` are in no
  split: their clicks appear in histories and in popularity.
- ``by-user``: all rows of a user go to the user's split.
- ``last-event``: per user, the rows of the last time test, those of the time before it validate
  and earlier ones train.

Popularity counts clicks of the training rows; vocabularies and rows of users come from all
training rows.

What a request showed and nobody clicked is kept beside each of its clicks, as auxiliary negatives.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dien_jax.data.clock import Clock
from dien_jax.data.dataset import Column
from dien_jax.data.metadata import SPLITS
from dien_jax.errors import UserError
from dien_jax.preparation.options import (
    ColumnOptions,
    FeatureColumn,
    LogColumn,
    SplitPolicy,
    feature_columns,
)
from dien_jax.preparation.pipeline import splits
from dien_jax.preparation.pipeline.split_times import time_borders, train_from
from dien_jax.utils.console import say, stage
from dien_jax.utils.extras import require
from dien_jax.utils.text_files import sha256

if TYPE_CHECKING:
    from dien_jax.preparation.reading.log_files import Log


@dataclass(frozen=True, kw_only=True)
class ImpressionsOptions(ColumnOptions):
    """A log of what users were shown, as CSV or Parquet, with a label for the click."""

    split: SplitPolicy = "by-time"
    """What is held out: whole users, each user's last two requests, or the latest rows."""
    label: str = "label"
    """Column of the label: 1 for a click, 0 for none."""
    context_features: tuple[str, ...] = ()
    """Columns that describe the request: NAME, NAME:multivalued or NAME:numeric."""

    def context_columns(self) -> list[FeatureColumn]:
        """The context feature columns."""
        return feature_columns("--context-features", self.context_features)

    def wanted(self) -> dict[str, LogColumn]:
        """All columns that are read, the label among them."""
        return super().wanted() | {"label": LogColumn(self.label, "--label")}

    def agreed(self) -> dict[str, Any]:
        """Those of every log in columns, and the label's column."""
        return super().agreed() | {"label": self.label}


def prepare(
    options: ImpressionsOptions,
    *,
    read: "Callable[..., Log] | None" = None,
    source: dict[str, Any] | None = None,
) -> list[str]:
    """Makes a dataset folder of a log of impressions.

    Args:
      options: the log and its columns.
      read: reads the log, called like ``read_log``, for sets of more files than one.
      source: what ``meta.json`` says of the log then.

    Returns:
      lines that say what was made.

    Raises:
      UserError: when the extra ``data`` is missing, the log cannot be read or is too malformed,
        nothing is left to train on, or the folder cannot be written.
    """
    require("data", "preparing logs")
    from dien_jax.preparation.pipeline.events import load_events
    from dien_jax.preparation.pipeline.extending import described_source, known, open_extended
    from dien_jax.preparation.pipeline.features import keep
    from dien_jax.preparation.pipeline.shown_negatives import shown_negatives
    from dien_jax.preparation.pipeline.write import History, Rows, Trained, write_folder
    from dien_jax.preparation.reading.log_files import Log, read_log
    from dien_jax.preparation.reading.workspace import Workspace

    say(f"from impressions in {options.file}: {options.describe()}")
    extended = open_extended(options, "impressions")
    with Workspace(options.out, options.memory_limit) as workspace:

        def read_rows(careful: bool) -> Log:
            with stage(f"reading {options.file}{' line by line' if careful else ''}"):
                return (read or read_log)(workspace, options, careful=careful)

        features = options.features()
        events = load_events(
            workspace,
            read_rows,
            features=features,
            has_label=True,
            max_bad_share=options.max_bad_share,
        )
        assert events.label is not None
        offsets, label = events.offsets, events.label
        sequence = np.repeat(np.arange(len(offsets) - 1, dtype=np.int32), np.diff(offsets))
        sides, split = _sides(options, sequence, events.timestamp, offsets, events.clock)
        training = sides == splits.TRAIN
        if not training.any():
            raise UserError(
                f"no training examples: --split {options.split} leaves none of the "
                f"{len(offsets) - 1:,} users' {len(label):,} impressions to training"
            )
        trained = Trained(
            items=np.bincount(events.item[training], minlength=events.num_items),
            users=np.bincount(sequence[training], minlength=len(offsets) - 1),
            rows=training.astype(np.int64),
        )
        known_items = known(workspace, extended, "item", events.items, events.num_items)
        known_users = known(workspace, extended, "user", events.users, len(offsets) - 1)
        items = keep(trained.items, options.min_count, known_items)
        users = keep(trained.users, options.min_count, known_users)
        item = items.row_of[events.item]
        click = np.flatnonzero(label)
        clicks_before = np.concatenate([[0], np.cumsum(label, dtype=np.int64)])
        popularity = np.bincount(
            item[click][sides[click] <= splits.TRAIN], minlength=len(items.values) + 1
        )
        negatives = shown_negatives(
            item, label, splits.request_starts(events.timestamp, offsets), len(items.values) + 1
        )
        history_end = splits.click_histories(events.timestamp, label, offsets)
        examples = {}
        for side, name in enumerate(SPLITS):
            row = np.flatnonzero(sides == side)
            examples[name] = Rows(sequence[row], history_end[row], item[row], label[row], row)
        report = write_folder(
            workspace,
            options,
            events,
            features,
            separator=options.separator,
            max_values=options.max_values,
            trained=trained,
            items=items,
            users=users,
            history=History(
                item[click],
                events.timestamp[click],
                clicks_before[offsets],
                popularity,
                negatives if len(negatives.values) else None,
            ),
            examples=examples,
            source=source
            or described_source("impressions", options, sha256(options.file), extended),
            split=split,
            extended=extended,
        )
    return [*events.report, *report, _describe(negatives)]


def _describe(negatives: Column) -> str:
    """What may serve as auxiliary negatives, in a line."""
    assert negatives.offsets is not None
    found = int(np.count_nonzero(np.diff(negatives.offsets)))
    if not found:
        return "no click has an item that was shown at the same time and not clicked"
    return (
        f"{found:,} of {len(negatives.offsets) - 1:,} clicks have items that were shown at the "
        f"same time and not clicked, {len(negatives.values) / found:.3g} on average "
        f"(auxiliary negatives for --model.auxiliary-distribution shown)"
    )


def _sides(
    options: ImpressionsOptions,
    sequence: np.ndarray,
    timestamp: np.ndarray,
    offsets: np.ndarray,
    clock: Clock,
) -> tuple[np.ndarray, dict[str, Any]]:
    """The side of every row, int8, and what ``meta.json`` says about the split."""
    split: dict[str, Any] = {"policy": options.split, "seed": options.seed}
    if options.split == "last-event":
        return splits.last_time_sides(timestamp, offsets), split
    if options.split == "by-user":
        shares = {"valid_share": options.valid_share, "test_share": options.test_share}
        sides = splits.user_sides(len(offsets) - 1, seed=options.seed, **shares)
        return sides[sequence], split | shares
    borders = time_borders(options, timestamp, clock)
    split |= {"valid_from": borders.valid, "test_from": borders.test}
    sides = splits.time_sides(timestamp, borders)
    begin = train_from(options, borders, clock)
    if begin is not None:
        split["train_from"] = begin
        sides[timestamp < begin] = splits.NO_SIDE
    return sides, split

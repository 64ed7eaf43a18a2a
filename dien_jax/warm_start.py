"""Starting a run from the trained parameters of another, on data with other ids.

Rows of embedding tables are told by the raw value they stand for, never by their place: a value
that both vocabularies have takes its trained row along, wherever that was, and the unknown row
stays the unknown row. Rows of values that the run did not know start from what it knows of values
like them; see :func:`grown_table`. All other parameters and the running statistics of BatchNorm
and Dice go over as they are.

The optimiser starts anew. Its state belongs to a schedule that is over: the count of steps decides
the learning rate and the bias correction of Adam, and under a large count the moments of a new
row, which are zero, would count as measured, so that its first steps came out three times too
large. docs/incremental.md has what either choice reaches.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from dien_jax.config import Config, ModelConfig
from dien_jax.dataset import Dataset
from dien_jax.errors import UserError
from dien_jax.run_folder import data_digest
from dien_jax.schema import UNKNOWN, Feature, Schema
from dien_jax.settings import flat_settings
from dien_jax.trained import Trained, load_trained

FREE = frozenset(
    {
        *("recurrence", "recurrence_precision", "dropout"),
        *("auxiliary_weight", "auxiliary_negatives", "auxiliary_distribution", "auxiliary_mean"),
    }
)
"""Settings of a model that neither shapes nor the meaning of its parameters depend on."""

NEW = -1
"""In place of the trained row of a value that the run did not know."""


class Grown(NamedTuple):
    """Parameters for another dataset.

    Attributes:
      params: float32 arrays on the host.
      batch_stats: running statistics.
      new_rows: by feature, how many rows stand for values that the run did not know.
    """

    params: Any
    batch_stats: Any
    new_rows: dict[str, int]


def load_warm_start(folder: Path, dataset: Dataset, config: Config) -> Trained:
    """The run to start from: its best checkpoint, which must fit the data and the settings.

    Args:
      folder: the run folder.
      dataset: what the new run trains on.
      config: the new run's settings.

    Raises:
      UserError: when the run, its checkpoint or its data cannot be read, its data has changed
        since, or features or settings differ; the message names what, expected and found.
    """
    try:
        trained = load_trained(folder)
    except UserError as error:
        raise UserError(f"--warm-start {folder}: {error}") from error
    if data_digest(trained.dataset) != trained.run.data_digest:
        raise UserError(
            f"--warm-start {folder}: its data, {trained.run.data}, has changed since (meta.json "
            f"differs), so nothing tells which id a row of the run stands for"
        )
    _check_settings(folder, trained.run.config.model, config.model)
    _check_features(folder, trained.dataset.schema, dataset)
    return trained


def _check_settings(folder: Path, before: ModelConfig, now: ModelConfig) -> None:
    expected, found = flat_settings(Config(model=before)), flat_settings(Config(model=now))
    for name, value in expected.items():
        group, _, setting = name.partition(".")
        if group == "model" and setting not in FREE and found[name] != value:
            raise UserError(
                f"--warm-start {folder}: {name} must be that of the run, {value!r}, "
                f"got {found[name]!r}"
            )
    if bool(before.auxiliary_weight) != bool(now.auxiliary_weight):
        expected_weight = "above 0" if before.auxiliary_weight else "0"
        raise UserError(
            f"--warm-start {folder}: model.auxiliary_weight must be {expected_weight}, as in the "
            f"run ({before.auxiliary_weight:g}), got {now.auxiliary_weight:g}"
        )


def _check_features(folder: Path, before: Schema, dataset: Dataset) -> None:
    for group in ("item", "user", "context"):
        expected: tuple[Feature, ...] = getattr(before, group)
        found: tuple[Feature, ...] = getattr(dataset.schema, group)
        names = [", ".join(f"{f.name} ({f.kind})" for f in each) for each in (expected, found)]
        if names[0] != names[1]:
            raise UserError(
                f"--warm-start {folder}: {dataset.path} must have the {group} features of the run, "
                f"{names[0] or 'none'}, found {names[1] or 'none'}"
            )
        for old, new in zip(expected, found, strict=True):
            if (old.mean, old.deviation) != (new.mean, new.deviation):
                raise UserError(
                    f"--warm-start {folder}: {dataset.path} must standardise {old.name!r} as the "
                    f"run's data does, with mean {old.mean} and deviation {old.deviation}, found "
                    f"{new.mean} and {new.deviation}; prepare it with --extend"
                )


def grown(trained: Trained, dataset: Dataset) -> Grown:
    """The run's parameters for a dataset that :func:`load_warm_start` has found to fit.

    New users start from the unknown row, which is what scored them until now and which training
    taught to stand for anyone (``train.unknown_users``). New items start from items of their
    category, that is of the first categorical feature that items have; every other new value
    starts from the mean of its table.
    """
    params = jax.tree.map(np.array, jax.device_get(trained.params))
    new_rows = {}
    for group in ("item", "user", "context"):
        for feature in getattr(dataset.schema, group):
            if feature.size is None:
                continue
            source = trained_rows(
                trained.dataset.vocabulary(feature.name), dataset.vocabulary(feature.name)
            )
            new_rows[feature.name] = int(np.count_nonzero(source == NEW))
            tables = params[f"{group}_embeddings"]
            kinds = None
            if (group, feature.name) == ("item", "item"):
                kinds = _kinds(dataset)
            if (group, feature.name) == ("user", "user"):
                source = np.where(source == NEW, UNKNOWN, source)
            tables[feature.name] = grown_table(tables[feature.name], source, kinds)
    return Grown(params, jax.device_get(trained.batch_stats), new_rows)


def trained_rows(before: list[str], now: list[str]) -> np.ndarray:
    """For each entry of a vocabulary its row in another, ``NEW`` where that lacks it.

    The first entries stand for the unknown value, whatever they say.
    """
    places = {value: row for row, value in enumerate(before) if row != UNKNOWN}
    rows = np.fromiter((places.get(value, NEW) for value in now), np.int64, len(now))
    rows[UNKNOWN] = UNKNOWN
    return rows


def grown_table(table: np.ndarray, source: np.ndarray, kinds: np.ndarray | None) -> np.ndarray:
    """A table for another vocabulary: trained rows, and a start for new ones.

    A new row is the mean of the trained rows of its kind, or of all where its kind is unknown or
    new; the unknown row where nothing else is.

    Args:
      table: float32 ``[R, E]``, trained.
      source: integers ``[V]``: the trained row of each new one, ``NEW`` where there is none.
      kinds: integers ``[V]``, what each row is a kind of, 0 for unknown; None without kinds.

    Returns:
      float32 ``[V, E]``.
    """
    rows = table[np.where(source == NEW, UNKNOWN, source)]
    is_new, is_trained = source == NEW, source > UNKNOWN
    if not is_new.any() or not is_trained.any():
        return rows
    rows[is_new] = rows[is_trained].mean(0, dtype=np.float64)
    if kinds is not None:
        counts = np.bincount(kinds[is_trained], minlength=kinds.max() + 1)
        sums = np.zeros((len(counts), table.shape[1]))
        np.add.at(sums, kinds[is_trained], rows[is_trained])
        of_kind = is_new & (kinds != UNKNOWN) & (counts[kinds] > 0)
        rows[of_kind] = sums[kinds[of_kind]] / counts[kinds[of_kind], None]
    return rows


def _kinds(dataset: Dataset) -> np.ndarray | None:
    """The value of the first categorical feature of every item after the id."""
    for feature in dataset.schema.item[1:]:
        if feature.kind == "categorical":
            return np.asarray(dataset.items[feature.name].values)
    return None


def described(new_rows: dict[str, int]) -> str:
    """New rows in words."""
    found = [f"{count:,} of {name}" for name, count in new_rows.items() if count]
    return f"new rows: {', '.join(found)}" if found else "no new rows"

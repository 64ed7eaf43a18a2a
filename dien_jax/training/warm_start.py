"""Starting a run from where another ended, on data with other ids.

Rows of embedding tables are told by the raw value they stand for, never by their place: a value
that both vocabularies have takes its trained row along, wherever that was, and the unknown row
stays the unknown row. Rows of values that the run did not know start from rows that it did; see
:func:`grown`. All other parameters, and the running statistics of BatchNorm and Dice, go over as
they are.

So does what the optimiser keeps of each parameter, where both runs' optimisers keep the same: it
says how far each should move. It follows its rows; those of new values have zeros, as rows have
that were not looked up for long. Schedules start anew. docs/incremental.md has what that is worth.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from dien_jax.config.preset_files import flat_settings
from dien_jax.config.settings import Config, ModelConfig
from dien_jax.data.dataset import Dataset, data_digest, open_dataset
from dien_jax.data.schema import UNKNOWN, Feature, Schema
from dien_jax.errors import UserError
from dien_jax.runs.folder import Run
from dien_jax.runs.trained import restore_state
from dien_jax.steps.embedding_rows import Table, table_of
from dien_jax.steps.state import TrainState

FREE = frozenset(
    {
        *("recurrence", "recurrence_precision", "dropout"),
        *("auxiliary_weight", "auxiliary_negatives", "auxiliary_distribution", "auxiliary_mean"),
    }
)
"""Settings of a model that neither shapes nor the meaning of its parameters depend on."""

NEW = -1
"""In place of the trained row of a value that the run did not know."""


class Source(NamedTuple):
    """The run to start from.

    Attributes:
      folder: of the run.
      dataset: what it was trained on.
      step: of its best checkpoint.
      state: what that holds.
    """

    folder: Path
    dataset: Dataset
    step: int
    state: TrainState


class Grown(NamedTuple):
    """A state for another dataset.

    Attributes:
      state: on the host; steps and key are those of a fresh one.
      new_rows: by feature, how many rows stand for values that the run did not know.
      keeps_optimizer: whether the state of the run's optimiser went over.
    """

    state: TrainState
    new_rows: dict[str, int]
    keeps_optimizer: bool

    def __str__(self) -> str:
        """New rows and the optimiser, for the console."""
        found = [f"{count:,} of {name}" for name, count in self.new_rows.items() if count]
        rows = f"new rows: {', '.join(found)}" if found else "no new rows"
        kept = "goes on" if self.keeps_optimizer else "is another and starts anew"
        return f"{rows}; the optimiser {kept}"


def load_source(folder: Path, dataset: Dataset, config: Config) -> Source:
    """The run to start from, which must fit the data and the settings.

    Args:
      folder: the run folder.
      dataset: what the new run trains on.
      config: the new run's settings.

    Raises:
      UserError: when the run, its checkpoint or its data cannot be read, its data has changed
        since, or features or settings differ; the message names what, expected and found.
    """
    try:
        run = Run.load(folder)
        _check_settings(run.config.model, config.model)
        before = open_dataset(run.data)
        if data_digest(before) != run.data_digest:
            raise UserError(
                f"its data, {run.data}, has changed since (meta.json differs), so nothing tells "
                f"which id a row of the run stands for"
            )
        _check_features(before.schema, dataset)
        return Source(folder, before, *restore_state(folder, run, before))
    except UserError as error:
        raise UserError(f"--warm-start {folder}: {error}") from error


def _check_settings(before: ModelConfig, now: ModelConfig) -> None:
    expected, found = flat_settings(Config(model=before)), flat_settings(Config(model=now))
    for name, value in expected.items():
        group, _, setting = name.partition(".")
        if group == "model" and setting not in FREE and found[name] != value:
            raise UserError(f"{name} must be that of the run, {value!r}, got {found[name]!r}")
    if bool(before.auxiliary_weight) != bool(now.auxiliary_weight):
        weight = "above 0" if before.auxiliary_weight else "0"
        raise UserError(
            f"model.auxiliary_weight must be {weight}, as in the run "
            f"({before.auxiliary_weight:g}), got {now.auxiliary_weight:g}"
        )


def _check_features(before: Schema, dataset: Dataset) -> None:
    for group in ("item", "user", "context"):
        expected: tuple[Feature, ...] = getattr(before, group)
        found: tuple[Feature, ...] = getattr(dataset.schema, group)
        names = [", ".join(f"{f.name} ({f.kind})" for f in each) for each in (expected, found)]
        if names[0] != names[1]:
            raise UserError(
                f"{dataset.path} must have the {group} features of the run, "
                f"{names[0] or 'none'}, found {names[1] or 'none'}"
            )
        for old, new in zip(expected, found, strict=True):
            if (old.mean, old.deviation) != (new.mean, new.deviation):
                raise UserError(
                    f"{dataset.path} must standardise {old.name!r} as the run's data does, with "
                    f"mean {old.mean} and deviation {old.deviation}, found {new.mean} and "
                    f"{new.deviation}; prepare it with --extend"
                )


def grown(source: Source, dataset: Dataset, fresh: TrainState) -> Grown:
    """The state to start from, for a dataset that :func:`load_source` has found to fit.

    New users start from the unknown row, which is what scored them until now and which training
    taught to stand for anyone (``train.unknown_users``). New items start from the mean of the
    items' rows, each weighted by the inverse of its training events: what is new is like what was
    seen least. Other new values start from the mean of their table.

    Args:
      source: the run to start from.
      dataset: what the new run trains on.
      fresh: a state of the new run, whose steps and key stay.
    """
    state = jax.tree.map(np.array, jax.device_get((source.state.params, source.state.batch_stats)))
    params, batch_stats = state
    rows, new_rows = dict[Table, np.ndarray](), {}
    for group in ("item", "user", "context"):
        for feature in getattr(dataset.schema, group):
            name, path = feature.name, f"{group}_embeddings"
            if feature.size is None:
                continue
            found = trained_rows(source.dataset.vocabulary(name), dataset.vocabulary(name))
            rows[path, name] = found
            new_rows[name] = int(np.count_nonzero(found == NEW))
            table = params[path][name]
            start = table[UNKNOWN]
            if name != "user":
                weights = None
                if name == "item":
                    weights = 1 / np.maximum(source.dataset.popularity[1:], 1)
                start = mean_row(table, weights)
            params[path][name] = grown_table(table, found, start)
    optimizer_state = _grown_slots(source.state.optimizer_state, rows)
    keeps = _described(optimizer_state) == _described(fresh.optimizer_state)
    return Grown(
        fresh._replace(
            params=params,
            batch_stats=batch_stats,
            optimizer_state=optimizer_state if keeps else fresh.optimizer_state,
        ),
        new_rows,
        keeps,
    )


def trained_rows(before: list[str], now: list[str]) -> np.ndarray:
    """For each entry of a vocabulary its row in another, ``NEW`` where that lacks it.

    The first entries stand for the unknown value, whatever they say.
    """
    places = {value: row for row, value in enumerate(before) if row != UNKNOWN}
    rows = np.fromiter((places.get(value, NEW) for value in now), np.int64, len(now))
    rows[UNKNOWN] = UNKNOWN
    return rows


def mean_row(table: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """The mean of all rows ``[R, E]`` but the unknown one, which is what is left without others.

    Args:
      table: float32 ``[R, E]``.
      weights: ``[R - 1]``, or None for equal ones.
    """
    if len(table) == 1:
        return table[UNKNOWN]
    return np.average(table[1:], axis=0, weights=weights).astype(table.dtype)


def grown_table(table: np.ndarray, rows: np.ndarray, start: np.ndarray | float) -> np.ndarray:
    """A table for another vocabulary.

    Args:
      table: ``[R, ...]``, trained.
      rows: integers ``[V]``: the trained row of each new one, ``NEW`` where there is none.
      start: what those are.

    Returns:
      ``[V, ...]``.
    """
    found = table[np.where(rows == NEW, UNKNOWN, rows)]
    found[rows == NEW] = start
    return found


def _grown_slots(optimizer_state: Any, rows: dict[Table, np.ndarray]) -> Any:
    """The optimiser's state for the grown tables, schedules at their first step."""

    def is_schedule(node: Any) -> bool:
        return isinstance(node, optax.ScaleByScheduleState)

    def grow(path: tuple, leaf: Any) -> Any:
        if is_schedule(leaf):
            return jax.tree.map(np.zeros_like, leaf)
        found = rows.get(table_of(path))
        return leaf if found is None else grown_table(leaf, found, 0.0)

    host = jax.tree.map(np.array, jax.device_get(optimizer_state))
    return jax.tree_util.tree_map_with_path(grow, host, is_leaf=is_schedule)


def _described(tree: Any) -> Any:
    """The structure of a tree, and shape and type of its leaves."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]

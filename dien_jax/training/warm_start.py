"""Warm start: train from the parameters of another run, on data with other ids.

Rows of embedding tables are matched by raw value, never by position; rows of new values start
from trained rows, see :func:`grown`. Other parameters, and the running statistics of BatchNorm and
Dice, are copied. So is optimizer state: its slots move with their rows, and new rows start with
zero slots. Schedules restart. docs/incremental.md measures the effect on AUC.
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from dien_jax.config.settings import Config, ModelConfig
from dien_jax.data.arrays import read_array
from dien_jax.data.dataset import Dataset
from dien_jax.data.schema import UNKNOWN, Schema
from dien_jax.errors import UserError
from dien_jax.model.statistics import statistics_names
from dien_jax.runs.folder import PUT_BACK, Run, WarmStart
from dien_jax.runs.trained import restore_state
from dien_jax.steps.rows import Table, table_of
from dien_jax.steps.state import TrainState
from dien_jax.training.vectors import ItemVectors, item_vectors, rotation_to
from dien_jax.utils.files import write_array
from dien_jax.utils.processes import from_first

FREE = {"implementation", "initial_embeddings", "recurrence_precision", "dropout",
        "auxiliary_weight", "auxiliary_negatives"}  # fmt: skip
"""Model settings that may differ: shapes and meaning of parameters do not depend on them."""

ROTATION_FILE = "rotation.npy"
NEW = -1
"""Row number of a value that the other run did not have."""


class Source(NamedTuple):
    """The run to start from: its data, and step and state of its best checkpoint.

    ``vectors`` says whether its item embeddings are near vectors: its own or, if it was itself a
    warm start on later events alone, those of the run before it.
    """

    dataset: Dataset
    step: int
    state: TrainState
    vectors: bool


class Grown(NamedTuple):
    """Parameters, statistics and optimizer state for another dataset, on the host.

    By feature, ``new_rows`` counts values that the run did not have, and ``lost_rows`` values of
    the run that the data does not have.
    """

    params: Any
    batch_stats: Any
    optimizer_state: Any
    new_rows: dict[str, int]
    lost_rows: dict[str, int]

    def __str__(self) -> str:
        """Describe new and dropped rows, for the console."""
        new, lost = (
            ", ".join(f"{count:,} of {name}" for name, count in rows.items() if count)
            for rows in (self.new_rows, self.lost_rows)
        )
        rows = f"new rows: {new}" if new else "no new rows"
        return rows + (f"; dropped rows: {lost}" if lost else "")


def load_source(folder: Path, dataset: Dataset, config: Config) -> Source:
    """Load the run to start from, and check that it fits the data and settings of the new run.

    Features and most settings must be equal, and the data of the run unchanged (else a UserError).
    """
    try:
        run = Run.load(folder)
        _check_settings(run.config.model, config.model)
        before = run.open_data(folder, PUT_BACK)
        grows, remedy = ("size", "max_values"), "; prepare it with --extend"
        problem = f"{dataset.path} does not fit the run:"
        before.schema.require_equal(dataset.schema, problem, but=grows, remedy=remedy)
        if run.config.model.statistics:
            _check_inputs(before.schema, dataset)
        near = run.warm_start is None or run.warm_start.get("near_vectors", True)
        vectors = near and _has_vectors(before, run.config)
        return Source(before, *restore_state(folder, run, before), vectors)
    except UserError as error:
        raise UserError(f"warm start from {folder}: {error}") from error


def warm_start_of(
    folder: Path, source: Source | None, dataset: Dataset, config: Config
) -> WarmStart:
    """Describe the warm start of a run from the one in ``folder``."""
    assert source is not None  # on process 0
    kept = source.vectors and _has_vectors(dataset, config)
    # Embeddings of the run contain no information on events after its training: nothing can leak.
    vectors = kept and not _is_later(dataset, source.dataset)
    start, near = str(folder.absolute()), source.vectors
    return WarmStart(run=start, step=source.step, vectors=vectors, near_vectors=near)


def source_of(run: Run, dataset: Dataset) -> Source:
    """Load the run that another one started from; its best checkpoint must not have changed."""
    assert run.warm_start is not None
    folder, step = Path(run.warm_start["run"]), run.warm_start["step"]
    found = load_source(folder, dataset, run.config)
    if found.step != step:
        raise UserError(
            f"warm start from {folder}: this run began from its checkpoint of step {step}, but "
            f"its best one is now that of step {found.step}; start a new run"
        )
    return found


def _has_vectors(dataset: Dataset, config: Config) -> bool:
    vectors = config.model.initial_embeddings == "vectors"
    return vectors and dataset.schema.item[0].name in dataset.factors


def _is_later(dataset: Dataset, before: Dataset) -> bool:
    """Return whether all training examples are later than the training period of other data."""
    start = dataset.meta.get("split", {}).get("train_from")
    end = before.meta.get("split", {}).get("valid_from")
    return start is not None and end is not None and start >= end


def rotated_vectors(
    run: Run, folder: Path, dataset: Dataset, source: Source | None
) -> ItemVectors | None:
    """Return the vectors of a warm start that keeps vectors, rotated to its run's embeddings.

    Process 0 computes the rotation from ``source`` at the start, and writes it: resuming needs no
    source. None for another run.
    """
    if run.warm_start is None or not run.warm_start["vectors"]:
        return None
    found = item_vectors(dataset, run.config)
    assert found is not None
    size = found.vectors.shape[-1]

    def values() -> list[float]:
        file = folder / ROTATION_FILE
        if source is not None:
            write_array(file, make_rotation(source, dataset, found).ravel())
        return read_array(file, np.float32, size * size).tolist()

    return found.rotated(np.array(from_first(values), np.float32).reshape(size, size))


def make_rotation(source: Source, dataset: Dataset, found: ItemVectors) -> np.ndarray:
    """Return the rotation of a dataset's vectors to the run's embeddings, float32 ``[E, E]``."""
    name = dataset.schema.item[0].name
    rows = trained_rows(source.dataset.vocabulary(name), dataset.vocabulary(name))
    embeddings = np.asarray(source.state.params["item_embeddings"][name])
    return rotation_to(grown_table(embeddings, rows, 0.0), found.of_items())


def _check_settings(before: ModelConfig, now: ModelConfig) -> None:
    for name, expected in dataclasses.asdict(before).items():
        value = getattr(now, name)
        if name not in FREE and value != expected:
            raise UserError(
                f"model.{name} must be {expected!r}, as in the run, got {value!r}; train without a "
                f"preset has the settings of the run, in Python fit(load_run(RUN).run.config, ...)"
            )
    if bool(before.auxiliary_weight) != bool(now.auxiliary_weight):
        weight, old = "above 0" if before.auxiliary_weight else "0", before.auxiliary_weight
        expected = f"model.auxiliary_weight must be {weight}, as in the run ({old:g})"
        raise UserError(f"{expected}, got {now.auxiliary_weight:g}")


def _check_inputs(before: Schema, dataset: Dataset) -> None:
    """Refuse data whose number of values changes the similarities that the tower reads."""
    expected, found = (set(statistics_names(schema)) for schema in (before, dataset.schema))
    if others := sorted(expected ^ found):
        raise UserError(
            f"the values of {dataset.path} are so many more or fewer that the model has other "
            f"inputs than the run's ({', '.join(others)}); train a new run"
        )


def grown(source: Source, dataset: Dataset, vectors: ItemVectors | None = None) -> Grown:
    """Return the initial parameters and slots for a dataset that :func:`load_source` checked.

    New users start from the unknown row, which scored them until now and was trained to represent
    any user (``train.unknown_users``). New items start from the mean of the items' rows weighted
    by the inverse of their training events, because new items resemble rare ones. Other new
    values start from the mean of their table. In the tower, new values have weight 0.

    If item embeddings are kept near ``vectors``, new items start from them.
    """
    rows, new_rows, lost_rows = dict[Table, np.ndarray](), {}, {}
    for group, features in dataset.schema.groups():
        for name in (feature.name for feature in features if feature.size is not None):
            before, now = (of.vocabulary(name) for of in (source.dataset, dataset))
            rows[group, name] = matches = trained_rows(before, now)
            new = new_rows[name] = int(np.count_nonzero(matches == NEW))
            lost_rows[name] = len(before) - (len(now) - new)
    rarity = 1 / np.maximum(source.dataset.popularity[1:], 1)
    source.dataset.check_files()

    def is_schedule(node: Any) -> bool:
        return isinstance(node, optax.ScaleByScheduleState)

    def grow(path: tuple, leaf: Any) -> Any:
        if is_schedule(leaf):
            return jax.tree.map(np.zeros_like, leaf)
        _, name = table = table_of(path)
        leaf = np.asarray(leaf)
        if table not in rows:
            return leaf
        start: Any = 0.0  # of slots, and of weights in the tower
        if path[0].key == "params" and path[1].key != "tower":
            weights = rarity if name == "item" else None
            start = leaf[UNKNOWN] if name == "user" else mean_row(leaf, weights)
        return grown_table(leaf, rows[table], start)

    state: Any = {name: getattr(source.state, name) for name in Grown._fields[:3]}
    state = jax.tree_util.tree_map_with_path(grow, state, is_leaf=is_schedule)
    if vectors is not None:
        name, of_items = dataset.schema.item[0].name, vectors.of_items()
        new = (rows["item", name] == NEW) & of_items.any(1)
        state["params"]["item_embeddings"][name][new] = of_items[new]
    return Grown(**state, new_rows=new_rows, lost_rows=lost_rows)


def trained_rows(before: list[str], now: list[str]) -> np.ndarray:
    """Return the row of each entry of a vocabulary in an earlier one, or ``NEW``.

    The first entry of each is the unknown value, whatever its text.
    """
    places = {value: row for row, value in enumerate(before) if row != UNKNOWN}
    rows = np.fromiter((places.get(value, NEW) for value in now), np.int64, len(now))
    rows[UNKNOWN] = UNKNOWN
    return rows


def mean_row(table: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Return the mean of all rows except the unknown one, or that one if there is no other."""
    if len(table) == 1:
        return table[UNKNOWN]
    return np.average(table[1:], axis=0, weights=weights).astype(table.dtype)


def grown_table(table: np.ndarray, rows: np.ndarray, start: np.ndarray | float) -> np.ndarray:
    """Return a table ``[V, ...]`` for another vocabulary, with ``start`` in its ``NEW`` rows.

    ``rows`` are integers ``[V]``: for each new row, its row in the trained ``table``, or ``NEW``.
    """
    result = table[np.where(rows == NEW, UNKNOWN, rows)]
    result[rows == NEW] = start
    return result

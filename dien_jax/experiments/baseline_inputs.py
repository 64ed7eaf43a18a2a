"""Inputs of the baselines: what the counts of training events say, and one column for each value.

The counts are those that a model with ``model.statistics`` reads. Those of a training example leave
out its own event and its user's later ones, as in training.

Dimensions: B rows of a batch, R examples, D dense columns, W one-hot columns, N rows of a table.
"""

from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import sparse

from dien_jax.config.settings import ModelConfig, TrainConfig
from dien_jax.data.batch import Batch
from dien_jax.data.dataset import Dataset
from dien_jax.data.loader import Loader
from dien_jax.data.schema import UNKNOWN, Feature, FeatureTables, FeatureValues, MultiValued, Schema
from dien_jax.model.embeddings import gather
from dien_jax.model.statistics import recency_of, statistics_inputs, statistics_names
from dien_jax.steps.state import feature_tables
from dien_jax.utils.console import say, stage

BATCH = 1024
BATCHES = TrainConfig(batch_size=BATCH, buckets=())
"""Batches of one padded length, so that one program is compiled for all splits."""
MAX_COLUMNS = 1 << 20
"""One-hot columns of a feature; of a larger vocabulary, values share columns."""
UNCOUNTED = ("length", "known", "repeats", "repeat_share", "repeat_recency")
"""Inputs of :mod:`dien_jax.model.statistics` that are of the history alone, without counts."""
MATCH = "match"
"""Name of the column of :func:`_match`."""


class Inputs(NamedTuple):
    """Some examples as a baseline sees them.

    Attributes:
      dense: float32 ``[R, D]``, the columns :attr:`BaselineInputs.names`.
      one_hot: sparse float32 ``[R, W]``: features, then the ids of item and user.
      labels: int8 ``[R]``, 1 for a click.
    """

    dense: np.ndarray
    one_hot: sparse.csr_array
    labels: np.ndarray


class BaselineInputs:
    """The inputs of every baseline for the examples of a dataset.

    Attributes:
      names: the D dense columns: the inputs of :func:`dien_jax.model.statistics_names`, the match
        of attributes if items have any, and the numbers of candidates, users and requests.
      uncounted: the places of the dense columns that no count enters.
      num_attributes: the one-hot columns that are not of an id come first, and are so many.
    """

    def __init__(self, dataset: Dataset) -> None:
        schema = dataset.schema
        self._dataset, self._schema = dataset, schema
        self._tables = feature_tables(dataset, ModelConfig(statistics=True))
        self._host_tables = dataset.feature_tables()
        numbers = [feature.name for feature in schema.features if feature.kind == "numeric"]
        match = [MATCH] if _attributes(schema) else []
        statistics = statistics_names(schema)
        self.names = (*statistics, *match, *numbers)
        self.uncounted = [
            place
            for place, name in enumerate(self.names)
            if place >= len(statistics) or name.rpartition(" ")[2] in UNCOUNTED
        ]
        self._step = jax.jit(lambda tables, batch: _dense(schema, tables, batch))
        groups = ((schema.item[1:], "item"), (schema.user[1:], "user"), (schema.context, "context"))
        attributes = [(f, group) for group_of, group in groups for f in group_of if f.size]
        ids = [(schema.item[0], "item"), (schema.user[0], "user")]
        self._one_hot = [*attributes, *ids]
        widths = [min((f.size or 0) - 1, MAX_COLUMNS) for f, _ in self._one_hot]
        self._offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(widths)])
        self.num_attributes = int(self._offsets[len(attributes)])

    def read(self, split: str, limit: int) -> Inputs:
        """Return all examples of a split in a random order, or about ``limit`` of them."""
        loader = self._loader(split, "shuffled")
        steps = min(loader.steps_per_epoch, max(1, limit // BATCH))
        total = len(self._dataset.splits[split].label)
        rows = total if steps == loader.steps_per_epoch else steps * BATCH
        dense = np.empty((rows, len(self.names)), np.float32)
        if rows < total:
            say(f"baselines read {rows:,} of {total:,} {split} examples, drawn at random")
        filled, one_hot, labels = 0, [], []
        with stage(f"inputs of {rows:,} {split} examples") as current:
            for indices, inputs in self._batches(loader, steps):
                dense[filled : filled + len(indices)] = inputs.dense
                filled += len(indices)
                one_hot.append(inputs.one_hot)
                labels.append(inputs.labels)
                current.share = filled / rows
        return Inputs(dense[:filled], sparse.vstack(one_hot, format="csr"), np.concatenate(labels))

    def stream(self, split: str) -> Iterator[tuple[np.ndarray, Inputs]]:
        """Yield every example of a split once: their numbers, int64 ``[R]``, and inputs."""
        loader = self._loader(split, "evaluation")
        yield from self._batches(loader, loader.steps_per_epoch)

    def _loader(self, split: str, order: str) -> Loader:
        """Return the batches of a split; those of training have the bits ``own``."""
        return Loader(self._dataset, split, BATCHES, statistics=True, order=order)

    def _batches(self, loader: Loader, steps: int) -> Iterator[tuple[np.ndarray, Inputs]]:
        features = len(self._tables.statistics)
        with closing(loader.epoch(0)) as batches:
            for step, batch in zip(range(steps), batches, strict=False):
                if batch.own is None:  # the counts are complete: nothing is left out
                    batch = batch._replace(own=np.zeros((BATCH, features), np.int8))
                indices = loader.example_indices(0, step)
                rows = len(indices)
                dense = np.asarray(self._step(self._tables, batch))[:rows]
                labels = np.asarray(batch.label)[:rows].astype(np.int8)
                yield indices, Inputs(dense, self._one_hot_rows(batch, rows), labels)

    def _one_hot_rows(self, batch: Batch, rows: int) -> sparse.csr_array:
        tables = self._host_tables
        values = {"item": gather_rows(tables.item, np.asarray(batch.item)[:rows], "item")}
        values["user"] = gather_rows(tables.user, np.asarray(batch.user)[:rows], "user")
        values["context"] = {name: _first(value, rows) for name, value in batch.context.items()}
        columns, live = [], []
        for (feature, group), start in zip(self._one_hot, self._offsets[:-1], strict=True):
            value, known = _slots(values[group][feature.name])
            known &= value != UNKNOWN
            columns.append(start + (value.astype(np.int64) - 1) % MAX_COLUMNS)
            live.append(known)
        used = np.concatenate(live, axis=1)
        places = np.concatenate(columns, axis=1)[used].astype(np.int32)
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(used.sum(1))]).astype(np.int32)
        ones = np.ones(len(places), np.float32)
        return sparse.csr_array((ones, places, ends), shape=(rows, int(self._offsets[-1])))


def gather_rows(
    tables: dict[str, FeatureValues], ids: np.ndarray, name: str
) -> dict[str, FeatureValues]:
    """Return the feature values of some rows on the host, and the ids under ``name``."""
    return {name: ids} | {key: jax.tree.map(lambda t: t[ids], v) for key, v in tables.items()}


def _first(value: FeatureValues, rows: int) -> FeatureValues:
    return jax.tree.map(lambda array: np.asarray(array)[:rows], value)


def _slots(value: FeatureValues) -> tuple[np.ndarray, np.ndarray]:
    """Return values ``[R, K]`` and which of them are live; K is 1 for a categorical feature."""
    if isinstance(value, MultiValued):
        values = np.asarray(value.values)
        return values, np.arange(values.shape[1]) < np.asarray(value.count)[:, None]
    values = np.asarray(value)[:, None]
    return values, np.ones(values.shape, bool)


def _attributes(schema: Schema) -> list[Feature]:
    return [feature for feature in schema.item[1:] if feature.kind != "numeric"]


def _dense(schema: Schema, tables: FeatureTables, batch: Batch) -> Float[Array, "B D"]:
    """Return the dense columns of a batch."""
    history, lengths, item = map(jnp.asarray, (batch.history, batch.lengths, batch.item))
    own = None if batch.own is None else jnp.asarray(batch.own)
    columns = [statistics_inputs(schema, tables, history, lengths, item, own)]
    values = (
        gather(item, tables.item, "item"),
        gather(jnp.asarray(batch.user), tables.user, "user"),
        batch.context,
    )
    if _attributes(schema):
        columns.append(_match(schema, tables, history, lengths, item)[:, None])
    for features, of_rows in zip((schema.item, schema.user, schema.context), values, strict=True):
        columns += [
            jnp.asarray(of_rows[feature.name])[:, None]
            for feature in features
            if feature.kind == "numeric"
        ]
    return jnp.concatenate(columns, axis=1)


def _match(
    schema: Schema, tables: FeatureTables, history: Array, lengths: Array, candidate: Array
) -> Float[Array, " B"]:
    """Return the share of the history with the candidate's attributes, recent events first.

    The mean over attributes of sum_t r_t m_t / sum_t r_t: m_t is the share of the candidate's
    values that event t has, and r_t is 1 for the last event, 1/2 for the one before and so on.
    Unknown values match nothing; without a history the result is 0.
    """
    _, weight = recency_of(lengths, history.shape[1])
    total = jnp.maximum(weight.sum(1), 1)
    of_candidate, of_history = (gather(ids, tables.item, "item") for ids in (candidate, history))
    shares = []
    for feature in _attributes(schema):
        ours, theirs = of_candidate[feature.name], of_history[feature.name]
        if isinstance(ours, MultiValued):
            slots = jnp.arange(ours.values.shape[-1], dtype=jnp.int32)
            has = slots[None, None, :] < jnp.asarray(theirs.count)[..., None]
            matches = jnp.zeros(history.shape, jnp.float32)
            for slot in range(ours.values.shape[-1]):
                value = jnp.asarray(ours.values)[:, slot]
                known = (slot < jnp.asarray(ours.count)) & (value != UNKNOWN)
                same = (has & (theirs.values == value[:, None, None])).any(-1)
                matches += (same & known[:, None]).astype(jnp.float32)
            matches /= jnp.maximum(jnp.asarray(ours.count), 1).astype(jnp.float32)[:, None]
        else:
            matches = ((theirs == ours[:, None]) & (ours != UNKNOWN)[:, None]).astype(jnp.float32)
        shares.append((matches * weight).sum(1) / total)
    return jnp.stack(shares).mean(0)

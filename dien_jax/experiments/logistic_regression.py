"""A logistic regression on counts and values, as a baseline for models.

Its inputs are the counts of training events that a model with ``model.statistics`` reads, and a
column for each value. Counts for a training example exclude its own event and later events of its
user, as in training. Other baselines have the same inputs.

Dimensions: B rows of a batch, R examples, D dense columns, W one-hot columns.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import sparse
from scipy.optimize import minimize
from scipy.special import expit
from threadpoolctl import threadpool_limits

from dien_jax.config.settings import ModelConfig, TrainConfig
from dien_jax.data.dataset import Dataset
from dien_jax.data.kinds import padded_columns
from dien_jax.data.loader import Loader
from dien_jax.data.metadata import SPLITS
from dien_jax.data.schema import GROUPS, UNKNOWN, Feature, FeatureValues, MultiValued
from dien_jax.data.tables import Batch, is_live
from dien_jax.metrics.scores import evaluate_scores, selection_score
from dien_jax.model.click_model import with_statistics
from dien_jax.model.statistics import MATCH, statistics_names
from dien_jax.steps.state import feature_tables
from dien_jax.utils.console import Stage, say, stage

LOGISTIC_REGRESSION = "logistic regression"  # its name among baselines
STRENGTHS = (0.01, 0.1, 1.0, 10.0)  # values of C, the inverse of the strength of regularization
MAX_ITERATIONS = 300
TOLERANCE = 1e-5  # a fit ends when the mean loss is about the square of this above its minimum
MAX_ROWS = 1 << 20  # examples of a split in memory; more are a random sample
UNCOUNTED = ("length", "repeat_share", MATCH)  # inputs without counts of training events


class Inputs(NamedTuple):
    """Inputs and labels of a logistic regression for some examples."""

    dense: np.ndarray  # float32 [R, D], the columns RegressionInputs.names
    # float32 [R, W]: features, the values of each summing to 1, then the ids of item and user
    one_hot: sparse.csr_array
    labels: np.ndarray  # int8 [R], 1 for a click


class Baseline(NamedTuple):
    """A fitted model, and its chosen settings."""

    predict: Callable[[Inputs], np.ndarray]  # click probabilities, float32 [R]
    settings: dict[str, Any]


class RegressionInputs:
    """The inputs of a logistic regression for the examples of a dataset.

    ``names`` are the D dense columns: inputs of :func:`dien_jax.model.statistics_names` and numeric
    features of candidates, users and requests. Those at the indices ``uncounted`` use no counts.
    Vectors, and features of events, are left out.
    The first ``num_attributes`` one-hot columns are those of features other than ids.
    """

    def __init__(self, dataset: Dataset, max_history: int, batch_size: int = 1024) -> None:
        schema = dataset.schema
        self._dataset = dataset
        # All batches have one padded length, so that one program is compiled for all splits.
        self._train = TrainConfig(batch_size=batch_size, buckets=(), max_history=max_history)
        model = ModelConfig(statistics=True)
        self._tables = feature_tables(dataset, model, folds=True)
        counts = statistics_names(schema)
        features = [f for group, of in schema.groups() if GROUPS[group].axes == "B" for f in of]
        self._numbers = [feature.name for feature in features if feature.kind == "numeric"]
        self.names = (*counts, *self._numbers)
        is_uncounted = [n in self._numbers or n.rpartition(" ")[2] in UNCOUNTED for n in self.names]
        self.uncounted = np.flatnonzero(is_uncounted).tolist()
        self._counts = jax.jit(
            lambda tables, batch: with_statistics(model, schema, tables, batch).statistics
        )
        ids = schema.item[0], schema.user[0]
        attributes = [f for f in features if f.size is not None and f not in ids]
        self._valued = [*attributes, *ids]
        self.num_attributes = sum((feature.size or 1) - 1 for feature in attributes)

    def read(self, split: str, limit: int) -> Inputs:
        """Return all examples of a split in random order, or a sample of about ``limit``."""
        total, size = len(self._dataset.splits[split].label), self._train.batch_size
        steps = min(-(-total // size), max(1, limit // size))
        rows = min(total, steps * size)
        if rows < total:
            say(f"reading {rows:,} of {total:,} {split} examples, drawn at random")
        parts = []
        with stage(f"inputs of {rows:,} {split} examples") as current:
            for _, part in self.stream(split, "shuffled", steps):
                parts.append(part)
                current.share = len(parts) / steps
        dense, one_hot, labels = zip(*parts, strict=True)
        one_hot = sparse.vstack(one_hot, format="csr")
        return Inputs(np.concatenate(dense), one_hot, np.concatenate(labels))

    def stream(
        self, split: str, order: str = "evaluation", steps: int | None = None
    ) -> Iterator[tuple[np.ndarray, Inputs]]:
        """Yield numbers, int64 ``[R]``, and inputs of every example of a split once.

        With ``steps``, only the examples of so many batches. Each split has its own seed; otherwise
        splits of the same size would be sampled alike.
        """
        how: Any = {"seed": SPLITS.index(split), "statistics": True, "order": order}
        loader = Loader(self._dataset, split, self._train, **how)
        features = len(self._tables.statistics)
        with closing(loader.epoch(0)) as batches:
            for step, batch in enumerate(itertools.islice(batches, steps)):
                if batch.own is None:  # counts exclude nothing
                    rows = len(batch.label)
                    nothing = np.zeros((rows, features), np.int8)
                    batch = batch._replace(own=nothing, fold=np.zeros(rows, np.int32))
                indices = loader.example_indices(0, step)
                yield indices, self._inputs(batch, len(indices))

    def _inputs(self, batch: Batch, rows: int) -> Inputs:
        """Return the inputs of the first rows of a batch."""
        dataset, schema = self._dataset, self._dataset.schema
        item, user = np.asarray(batch.item)[:rows], np.asarray(batch.user)[:rows]
        values: dict[str, Any] = {"item": item, "user": user}
        values |= padded_columns(schema.item[1:], dataset.items, item)
        values |= padded_columns(schema.user[1:], dataset.users, user)
        values |= jax.tree.map(lambda column: np.asarray(column)[:rows], batch.columns)
        counts = np.asarray(self._counts(self._tables, batch))[:rows]
        numbers = [values[name][:, None] for name in self._numbers]
        dense = np.concatenate([counts, *numbers], axis=1)
        parts = [_one_hot(feature, values[feature.name]) for feature in self._valued]
        labels = np.asarray(batch.label)[:rows].astype(np.int8)
        return Inputs(dense, sparse.hstack(parts, format="csr"), labels)


def _one_hot(feature: Feature, value: FeatureValues) -> sparse.csr_array:
    """Return a column for each known value; the weights of all values of a row sum to 1."""
    if isinstance(value, MultiValued):
        values, count = np.asarray(value.values), np.asarray(value.count)
        share = is_live(count, values.shape[1]) / np.maximum(count, 1)[:, None].astype(np.float32)
    else:
        values = np.asarray(value)[:, None]
        share = np.ones(values.shape, np.float32)
    used = (values != UNKNOWN) & (share > 0)
    places = np.nonzero(used)[0], values[used] - 1  # value v > 0 has column v - 1
    return sparse.csr_array((share[used], places), shape=(len(values), (feature.size or 1) - 1))


def fit_logistic(train: Inputs, valid: Inputs, current: Stage) -> Baseline:
    """Fit a logistic regression on all columns, with C chosen on validation.

    The dense columns are standardised. C increases, each fit starts from the previous one, and the
    search ends at the first C that is no better.
    """
    mean, scale = standard(train.dense)
    dense = (train.dense - mean) / scale
    weights = np.zeros(1 + dense.shape[1] + train.one_hot.shape[1])

    def predict(weights: np.ndarray, inputs: Inputs) -> np.ndarray:
        start, of_dense, of_values = np.split(weights, [1, 1 + len(mean)])
        dense = (inputs.dense - mean) @ (of_dense / scale)
        return probability(dense + inputs.one_hot @ of_values + start)

    best = float("-inf")
    for strength in STRENGTHS:
        current.note = f"C {strength:g}"
        weights = minimise(dense, train.one_hot, train.labels, strength, weights)
        fitted = functools.partial(predict, weights.astype(np.float32))
        score = selection(fitted(valid), valid.labels)
        if score <= best:
            break
        best, chosen = score, Baseline(fitted, {"C": strength})
    return chosen


def fit_single(column: int, train: Inputs) -> Baseline:
    """Fit a logistic regression on one column, which decides scale and direction of the ranking."""
    center, scale = standard(train.dense[:, [column]])
    nothing = sparse.csr_array((len(train.labels), 0), dtype=np.float32)
    rows = (train.dense[:, [column]] - center) / scale
    start, weight = minimise(rows, nothing, train.labels, 1.0, np.zeros(2)).tolist()
    slope = weight / float(scale[0])

    def predict(inputs: Inputs) -> np.ndarray:
        return probability(start + slope * (inputs.dense[:, column].astype(float) - center[0]))

    return Baseline(predict, {"slope": slope})


def selection(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the validation score by which settings are chosen, the same as for checkpoints."""
    score = selection_score(evaluate_scores(labels, scores, np.zeros(len(labels), np.int64)))
    assert score is not None  # there are validation examples
    return score


def minimise(
    dense: np.ndarray, one_hot: sparse.csr_array, labels: np.ndarray, c: float, weights: np.ndarray
) -> np.ndarray:
    """Return the weights of a regularised logistic regression, float64: intercept, then columns.

    They minimise C * sum(log loss) + |w|^2 / 2, where w excludes the intercept, by L-BFGS from the
    given weights, in at most ``MAX_ITERATIONS``.

    Columns of counts and similarities are strongly correlated, which makes plain L-BFGS slow. So it
    runs in coordinates in which the curvature at equal probabilities is 1 in every direction of
    the dense columns, and along each one-hot column. Large weights cancel, so all is float64.
    """
    dense = np.hstack([np.ones((len(labels), 1)), dense])  # for the intercept
    values, size = one_hot.astype(np.float64), dense.shape[1]
    penalty = np.ones(len(weights))
    penalty[0] = 0
    rate = labels.mean()
    curvature = c * max(rate * (1 - rate), 1e-6)
    root = np.linalg.cholesky(curvature * (dense.T @ dense) + np.diag(penalty[:size])).T
    scale = np.sqrt(curvature * values.power(2).sum(0) + 1)
    to_place = sparse.block_diag([root, sparse.diags_array(scale)], format="csr")
    to_weights = sparse.block_diag([np.linalg.inv(root), sparse.diags_array(1 / scale)], "csr")

    def loss_and_gradient(place: np.ndarray) -> tuple[float, np.ndarray]:
        weights = to_weights @ place
        logits = dense @ weights[:size] + values @ weights[size:]
        error = c * (expit(logits) - labels)
        gradient = np.concatenate([error @ dense, error @ values]) + penalty * weights
        losses = np.logaddexp(0, logits) - logits * labels
        return c * losses.sum() + penalty @ weights**2 / 2, to_weights.T @ gradient

    options = {"maxiter": MAX_ITERATIONS, "gtol": TOLERANCE * np.sqrt(c * len(labels))}
    how: Any = {"jac": True, "method": "L-BFGS-B", "options": options}
    # Synchronizing BLAS threads costs more than these short products.
    with threadpool_limits(1, "blas"):
        return to_weights @ minimize(loss_and_gradient, to_place @ weights, **how).x


def standard(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of columns, float32; 1 in place of a deviation of 0."""
    mean = columns.mean(0, dtype=np.float64)
    scale = columns.std(0, dtype=np.float64)
    scale[scale < 1e-6] = 1
    return mean.astype(np.float32), scale.astype(np.float32)


def probability(logits: np.ndarray) -> np.ndarray:
    """Return probabilities, float32, of logits."""
    return expit(logits.astype(np.float64)).astype(np.float32)

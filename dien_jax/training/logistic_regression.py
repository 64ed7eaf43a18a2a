"""The fit of the logistic regression inside the model, which precedes the first training step.

Dimensions: R examples, D dense columns, W one-hot columns.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse
from scipy.linalg import solve_triangular
from scipy.optimize import minimize
from scipy.special import expit
from threadpoolctl import threadpool_limits

from dien_jax.config.settings import Config
from dien_jax.data.dataset import Dataset
from dien_jax.data.digests import data_digest
from dien_jax.data.schema import Feature
from dien_jax.metrics.scores import evaluate_scores, selection_score
from dien_jax.model.logistic_regression import WEIGHTS
from dien_jax.steps.state import TrainState
from dien_jax.training.regression_inputs import Inputs, RegressionInputs
from dien_jax.utils.console import Stage, say, stage
from dien_jax.utils.processes import on_first

LOGISTIC_REGRESSION = "logistic regression"
"""Its name among simple models, inside the model and as a baseline."""
STRENGTHS = (0.01, 0.1, 1.0, 10.0)
"""Values of C, the inverse of the strength of regularization."""
MAX_ITERATIONS = 300
TOLERANCE = 1e-5
"""A fit ends where the mean loss is at most about the square of this above its least value."""
MAX_ROWS = 1 << 20
"""Training examples, and validation examples for choices, in memory; more are a random sample."""


class FittedRegression(NamedTuple):
    """A fitted logistic regression.

    Attributes:
      strength: C, chosen on validation.
      score: the validation score of that choice, see ``selection_score``.
      intercept: float.
      mean: float32 ``[D]``, subtracted from the dense columns.
      dense: float32 ``[D]``, weights of the dense columns.
      one_hot: float32 ``[W]``, weights of the others.
    """

    strength: float
    score: float
    intercept: float
    mean: np.ndarray
    dense: np.ndarray
    one_hot: np.ndarray

    def predict(self, inputs: Inputs) -> np.ndarray:
        """Return click probabilities, float32 ``[R]``."""
        logits = (inputs.dense - self.mean) @ self.dense + inputs.one_hot @ self.one_hot
        return probability(logits + np.float32(self.intercept))


def fit_logistic(
    train: Inputs, valid: Inputs, current: Stage, before_pass: Callable[[], None] = lambda: None
) -> FittedRegression:
    """Fit a logistic regression on all columns; C is chosen on validation.

    The dense columns are standardised. C rises, each fit starts from the one before, and the first
    C that is no better than the one before ends the search. ``before_pass``, called before each
    pass over the training examples, may raise to stop.
    """
    mean, scale = standard(train.dense)
    dense = (train.dense - mean) / scale
    weights = np.zeros(1 + dense.shape[1] + train.one_hot.shape[1])
    best: FittedRegression | None = None
    for strength in STRENGTHS:
        current.note = f"C {strength:g}"
        weights = minimise(dense, train.one_hot, train.labels, strength, weights, before_pass)
        start, of_dense, of_values = _parts(weights.astype(np.float32), dense.shape[1])
        fitted = FittedRegression(strength, 0.0, float(start[0]), mean, of_dense / scale, of_values)
        fitted = fitted._replace(score=selection(fitted.predict(valid), valid.labels))
        if best is not None and fitted.score <= best.score:
            break
        best = fitted
    assert best is not None
    return best


def with_logistic_regression(
    state: TrainState,
    dataset: Dataset,
    config: Config,
    before_pass: Callable[[], None] = lambda: None,
    put: Callable[[Any, Any], Any] = lambda tree, _: jax.tree.map(jnp.array, tree),
) -> TrainState:
    """Return a fresh state with the weights of a logistic regression fitted to the training split.

    Trials of a search share the fit. Training examples of one label leave all weights 0.
    ``before_pass``, called often, may raise to stop; ``put`` copies parameters from the host to the
    devices of those that they replace. With several processes only process 0 fits, and ``put`` gets
    None on the others.
    """
    if len(np.unique(dataset.splits["train"].label)) < 2:
        say("no logistic regression: all training examples have the same label")
        return state
    fitted = on_first(lambda: _fitted(dataset, config, before_pass))
    name = "logistic_regression"
    weights = None if fitted is None else {name: fitted}
    weights = put(weights, {name: state.params[name]})  # copies: the state is donated
    return state._replace(params={**state.params, **weights})


def _fitted(dataset: Dataset, config: Config, before_pass: Callable[[], None]) -> dict[str, Any]:
    """Return the parameters of a logistic regression, on the host."""
    options = (config.train.max_history, config.model)
    reads = tuple(config.model.reads.values())
    key = (str(dataset.path.absolute()), data_digest(dataset), config.train.max_history, reads)
    if key not in _latest:
        inputs = RegressionInputs(dataset, *options)
        train, valid = (inputs.read(split, MAX_ROWS, before_pass) for split in ("train", "valid"))
        with stage(LOGISTIC_REGRESSION) as current:
            fitted = fit_logistic(train, valid, current, before_pass)
            current.note = f"C {fitted.strength:g}, validation score {fitted.score:.4f}"
        _latest.clear()
        _latest[key] = _parameters(fitted, inputs)
    return _latest[key]


_latest: dict[tuple, dict[str, Any]] = {}
"""The last fit, by dataset and options."""


def _parameters(fitted: FittedRegression, inputs: RegressionInputs) -> dict[str, Any]:
    """Return a fit as the parameters of :class:`dien_jax.model.LogisticRegression`."""
    schema, counts = inputs.schema, inputs.num_counts
    numbers = iter(range(counts, len(inputs.names)))
    intercept = fitted.intercept - float(fitted.mean[counts:] @ fitted.dense[counts:])
    result: dict[str, Any] = {"intercept": np.full(1, intercept, np.float32)}
    if counts:
        result["statistics_mean"] = fitted.mean[:counts]
        result[f"statistics_{WEIGHTS}"] = fitted.dense[:counts]

    def weights(feature: Feature, group: str) -> np.ndarray:
        if feature.size is None:
            return fitted.dense[next(numbers)].reshape(1, 1)
        start, width = inputs.one_hot_columns[feature, group]
        values = np.arange(feature.size - 1) % max(width, 1)
        unknown = np.zeros(1, np.float32)
        return np.concatenate([unknown, fitted.one_hot[start + values]])[:, None]

    for group, features in vars(schema).items():
        if features:
            result[f"{group}_{WEIGHTS}"] = {f.name: weights(f, group) for f in features}
    return result


def selection(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the score that choices are made by: that of checkpoints."""
    score = selection_score(evaluate_scores(labels, scores, np.zeros(len(labels), np.int64)))
    assert score is not None  # there are validation examples
    return score


def minimise(
    dense: np.ndarray,
    one_hot: sparse.csr_array,
    labels: np.ndarray,
    c: float,
    weights: np.ndarray,
    before_pass: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Return the weights of a regularised logistic regression, float64: intercept, then columns.

    They minimise C * sum(log loss) + |w|^2 / 2, where w is without the intercept, by L-BFGS from
    the given weights. The fit ends after ``MAX_ITERATIONS`` at the latest, or with the exception
    that ``before_pass`` raises.

    Columns of counts and similarities are strongly correlated, which makes plain L-BFGS slow. It
    runs in coordinates in which the curvature at equal probabilities is 1 in every direction of
    the dense columns, and along each one-hot column.
    """
    columns = one_hot.T.tocsr()
    clicks = labels.astype(np.float32)
    rate = clicks.mean(dtype=np.float64)
    curvature = c * max(rate * (1 - rate), 1e-6)
    of_intercept = 1 / np.sqrt(curvature * len(labels))
    gram = (dense.T @ dense).astype(np.float64)
    root = np.linalg.cholesky(curvature * gram + np.eye(len(gram)))
    squares = np.asarray(one_hot.multiply(one_hot).sum(0)).ravel()
    of_column = 1 / np.sqrt(curvature * squares + 1)

    def weights_at(place: np.ndarray) -> np.ndarray:
        start, of_dense, of_values = _parts(place, dense.shape[1])
        of_dense = solve_triangular(root, of_dense, lower=True, trans="T")
        return np.concatenate([start * of_intercept, of_dense, of_values * of_column])

    def loss_and_gradient(place: np.ndarray) -> tuple[float, np.ndarray]:
        before_pass()
        weights = weights_at(place)
        start, of_dense, of_values = _parts(weights.astype(np.float32), dense.shape[1])
        logits = dense @ of_dense + one_hot @ of_values + start
        error = expit(logits) - clicks
        losses = (np.logaddexp(0, logits) - logits * clicks).sum(dtype=np.float64)
        penalty = weights.copy()
        penalty[0] = 0
        by_start = c * error.sum(dtype=np.float64) * of_intercept
        _, penalty_dense, penalty_values = _parts(penalty, dense.shape[1])
        by_dense = solve_triangular(root, c * (error @ dense) + penalty_dense, lower=True)
        by_values = (c * (columns @ error) + penalty_values) * of_column
        loss = c * losses + penalty @ penalty / 2
        return loss, np.concatenate([[by_start], by_dense, by_values])

    start, of_dense, of_values = _parts(weights, dense.shape[1])
    place = np.concatenate([start / of_intercept, root.T @ of_dense, of_values / of_column])
    options = {"maxiter": MAX_ITERATIONS, "gtol": TOLERANCE * np.sqrt(c * len(labels))}
    # Threads of BLAS that wait for each other cost more than these short products.
    with threadpool_limits(1, "blas"):
        result = minimize(loss_and_gradient, place, jac=True, method="L-BFGS-B", options=options)
    return weights_at(result.x)


def _parts(weights: np.ndarray, dense: int) -> list[np.ndarray]:
    """Return the intercept ``[1]``, and the weights ``[D]`` and ``[W]``."""
    return np.split(weights, [1, 1 + dense])


def standard(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of columns, float32; 1 in place of a deviation of 0."""
    mean = columns.mean(0, dtype=np.float64)
    scale = columns.std(0, dtype=np.float64)
    scale[scale < 1e-6] = 1
    return mean.astype(np.float32), scale.astype(np.float32)


def probability(logits: np.ndarray) -> np.ndarray:
    """Return probabilities, float32, of logits."""
    return expit(logits.astype(np.float64)).astype(np.float32)

"""A logistic regression of counts and values, which models are compared with.

Dimensions: R examples, D dense columns, W one-hot columns.
"""

from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.linalg import solve_triangular
from scipy.optimize import minimize
from scipy.special import expit
from threadpoolctl import threadpool_limits

from dien_jax.experiments.regression_inputs import Inputs
from dien_jax.metrics.scores import evaluate_scores, selection_score
from dien_jax.utils.console import Stage

LOGISTIC_REGRESSION = "logistic regression"
"""Its name among baselines."""
STRENGTHS = (0.01, 0.1, 1.0, 10.0)
"""Values of C, the inverse of the strength of regularization."""
MAX_ITERATIONS = 300
TOLERANCE = 1e-5
"""A fit ends where the mean loss is at most about the square of this above its least value."""
BLOCK = 1 << 12
"""Rows that are float64 at a time: they stay in the processor's cache."""
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
        return probability(self.logits(inputs))

    def logits(self, inputs: Inputs) -> np.ndarray:
        """Return logits, float32 ``[R]``."""
        logits = (inputs.dense - self.mean) @ self.dense + inputs.one_hot @ self.one_hot
        return logits + np.float32(self.intercept)


def fit_logistic(train: Inputs, valid: Inputs, current: Stage) -> FittedRegression:
    """Fit a logistic regression on all columns; C is chosen on validation.

    The dense columns are standardised. C rises, each fit starts from the one before, and the first
    C that is no better than the one before ends the search.
    """
    mean, scale = standard(train.dense)
    dense = (train.dense - mean) / scale
    weights = np.zeros(1 + dense.shape[1] + train.one_hot.shape[1])
    best: FittedRegression | None = None
    for strength in STRENGTHS:
        current.note = f"C {strength:g}"
        weights = minimise(dense, train.one_hot, train.labels, strength, weights)
        start, of_dense, of_values = _parts(weights.astype(np.float32), dense.shape[1])
        fitted = FittedRegression(strength, 0.0, float(start[0]), mean, of_dense / scale, of_values)
        fitted = fitted._replace(score=selection(fitted.predict(valid), valid.labels))
        if best is not None and fitted.score <= best.score:
            break
        best = fitted
    assert best is not None
    return best


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
) -> np.ndarray:
    """Return the weights of a regularised logistic regression, float64: intercept, then columns.

    They minimise C * sum(log loss) + |w|^2 / 2, where w is without the intercept, by L-BFGS from
    the given weights. The fit ends after ``MAX_ITERATIONS`` at the latest.

    Columns of counts and similarities are strongly correlated, which makes plain L-BFGS slow. It
    runs in coordinates in which the curvature at equal probabilities is 1 in every direction of
    the dense columns, and along each one-hot column. Such columns have large weights that cancel:
    in float32 the end of a fit is noise, which differs between processors. So logits are float64,
    and the dense columns become so a block of rows at a time.
    """
    columns = one_hot.T.tocsr()
    places = one_hot.indices, one_hot.indptr
    exact = sparse.csr_array((one_hot.data.astype(np.float64), *places), shape=one_hot.shape)
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
        weights = weights_at(place)
        start, of_dense, of_values = _parts(weights, dense.shape[1])
        logits = exact @ of_values + start
        error, dense_error = np.empty_like(logits), np.zeros_like(of_dense)
        for begin in range(0, len(dense), BLOCK):
            rows = slice(begin, begin + BLOCK)
            block = dense[rows].astype(np.float64)
            logits[rows] += block @ of_dense
            error[rows] = expit(logits[rows]) - clicks[rows]
            dense_error += error[rows] @ block
        losses = (np.logaddexp(0, logits) - logits * clicks).sum()
        penalty = weights.copy()
        penalty[0] = 0
        by_start = c * error.sum() * of_intercept
        _, penalty_dense, penalty_values = _parts(penalty, dense.shape[1])
        by_dense = solve_triangular(root, c * dense_error + penalty_dense, lower=True)
        by_values = (c * (columns @ error.astype(np.float32)) + penalty_values) * of_column
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

"""Simple click models: one column, logistic regression, and boosted trees.

Each is fitted on training rows. What a fit leaves open is chosen by the metrics that choose
checkpoints, on validation rows. LightGBM is imported only to fit.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from scipy.optimize import minimize
from scipy.special import expit

from dien_jax.experiments.baseline_inputs import MATCH, BaselineInputs, Inputs
from dien_jax.metrics.scores import evaluate_scores, selection_score
from dien_jax.utils.console import Stage

STRENGTHS = (0.01, 0.1, 1.0, 10.0)
"""Values of C, the inverse of the strength of regularization."""
TREES = ((7, 15), (31, 255))
"""Leaves of a tree and bins of a column: few of both, and the defaults of LightGBM."""
MOST_ITERATIONS = 300
MOST_TREES = 2000
PATIENCE = 50
"""Trees without a better validation score before boosting stops."""
SEED = 0
SINGLE = {
    "popularity": "item popularity",
    "attribute match": MATCH,
    "co-occurrence": "item recent_cosine",
}
"""The column of each baseline that has one."""


class Baseline(NamedTuple):
    """A fitted model.

    Attributes:
      predict: inputs of examples to click probabilities, float32 ``[R]``.
      settings: what the fit and the validation rows chose, by name.
    """

    predict: Callable[[Inputs], np.ndarray]
    settings: dict[str, Any]


def selection(predict: Callable[[Inputs], np.ndarray], valid: Inputs) -> float:
    """Return the validation score that choices are made by."""
    users = np.zeros(len(valid.labels), np.int64)
    score = selection_score(evaluate_scores(valid.labels, predict(valid), users))
    assert score is not None  # there are validation examples
    return score


def fit_single(column: int, train: Inputs) -> Baseline:
    """Fit a logistic regression on one column: the sign and scale of a probability.

    Its ranking is that of the column, rising if clicks have more of it in training.
    """
    center, scale = _standard(train.dense[:, [column]])
    nothing = sparse.csr_array((len(train.labels), 0), dtype=np.float32)
    rows = (train.dense[:, [column]] - center) / scale
    start, weight = minimise_logistic(rows, nothing, train.labels, 1.0, np.zeros(2)).tolist()
    slope = weight / float(scale[0])

    def predict(inputs: Inputs) -> np.ndarray:
        return _probability(start + slope * (inputs.dense[:, column].astype(float) - center[0]))

    return Baseline(predict, {"slope": slope})


def fit_logistic(train: Inputs, valid: Inputs, current: Stage) -> Baseline:
    """Fit a logistic regression on all columns; C is chosen on validation.

    The dense columns are standardised. C rises, each fit starts from the one before, and the first
    C that is no better than the one before ends the search.
    """
    center, scale = _standard(train.dense)
    dense = (train.dense - center) / scale
    weights = np.zeros(1 + dense.shape[1] + train.one_hot.shape[1])
    best: tuple[float, float, Callable[[Inputs], np.ndarray]] | None = None
    for strength in STRENGTHS:
        current.note = f"C {strength:g}"
        weights = minimise_logistic(dense, train.one_hot, train.labels, strength, weights)

        def predict(inputs: Inputs, weights: np.ndarray = weights) -> np.ndarray:
            columns = (inputs.dense - center) / scale
            return _probability(_logits(columns, inputs.one_hot, weights))

        score = selection(predict, valid)
        if best is not None and score <= best[0]:
            break
        best = score, strength, predict
    assert best is not None
    return Baseline(best[2], {"C": best[1]})


def minimise_logistic(
    dense: np.ndarray, one_hot: sparse.csr_array, labels: np.ndarray, c: float, weights: np.ndarray
) -> np.ndarray:
    """Return the weights of a regularised logistic regression, float64: intercept, then columns.

    They minimise C * sum(log loss) + |w|^2 / 2, where w is without the intercept, by L-BFGS from
    the given weights. The fit ends after ``MOST_ITERATIONS`` at the latest.
    """
    columns = one_hot.T.tocsr()
    clicks = labels.astype(np.float32)
    examples = len(labels)

    def loss_and_gradient(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logits = _logits(dense, one_hot, weights)
        error = expit(logits) - clicks
        losses = (np.logaddexp(0, logits) - logits * clicks).sum(dtype=np.float64)
        gradient = np.concatenate([[error.sum(dtype=np.float64)], error @ dense, columns @ error])
        penalty = weights.copy()
        penalty[0] = 0
        loss = losses + penalty @ penalty / (2 * c)
        return loss / examples, (gradient + penalty / c) / examples

    options = {"maxiter": MOST_ITERATIONS, "gtol": 1e-4}
    found = minimize(loss_and_gradient, weights, jac=True, method="L-BFGS-B", options=options)
    return found.x


def _logits(dense: np.ndarray, one_hot: sparse.csr_array, weights: np.ndarray) -> np.ndarray:
    start, first, others = np.split(weights.astype(np.float32), [1, 1 + dense.shape[1]])
    return dense @ first + one_hot @ others + start


def fit_trees(inputs: BaselineInputs, train: Inputs, valid: Inputs, current: Stage) -> Baseline:
    """Fit boosted trees on all columns but the ids, or on those that no count enters either.

    Columns, leaves and trees are chosen on validation. Counts leave out an example's own event, so
    those of a click are lower by one than those of another example. Trees can learn that by heart,
    and it does not hold for held-out examples; few bins, large leaves and a choice without counts
    keep them from it.
    """
    import lightgbm

    least = min(500, max(1, len(train.labels) // 50))
    metric = "auc" if len(np.unique(valid.labels)) == 2 else "binary_logloss"
    fixed = {"objective": "binary", "metric": metric, "learning_rate": 0.1, "seed": SEED,
             "feature_fraction": 0.3, "min_data_in_leaf": least, "verbosity": -1,
             "deterministic": True, "force_row_wise": True}  # fmt: skip
    best: tuple[float, Baseline] | None = None
    columns = {"all": list(range(len(inputs.names))), "no counts": inputs.uncounted}
    for (name, used), (leaves, bins) in itertools.product(columns.items(), TREES):
        current.note = f"columns {name}, {leaves} leaves"
        matrix = functools.partial(_tree_columns, used, inputs.num_attributes)
        options = fixed | {"num_leaves": leaves, "max_bin": bins}
        rows = lightgbm.Dataset(matrix(train), train.labels, params=options)
        held_out = lightgbm.Dataset(matrix(valid), valid.labels, reference=rows)
        stop = lightgbm.early_stopping(PATIENCE, verbose=False)
        booster = lightgbm.train(options, rows, MOST_TREES, [held_out], callbacks=[stop])

        def predict(rows: Inputs, booster: Any = booster, matrix: Any = matrix) -> np.ndarray:
            return np.asarray(booster.predict(matrix(rows)), np.float32)

        score = selection(predict, valid)
        if best is None or score > best[0]:
            size = {"trees": booster.best_iteration, "num_leaves": leaves, "max_bin": bins}
            best = score, Baseline(predict, {"columns": name} | size)
    assert best is not None
    return best[1]


def _tree_columns(dense: list[int], num_attributes: int, rows: Inputs) -> sparse.csr_matrix:
    parts = [sparse.csr_array(rows.dense[:, dense]), rows.one_hot[:, :num_attributes]]
    return sparse.csr_matrix(sparse.hstack(parts, format="csr"))


def _standard(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of columns, float32; 1 in place of a deviation of 0."""
    center = columns.mean(0, dtype=np.float64)
    scale = columns.std(0, dtype=np.float64)
    scale[scale < 1e-6] = 1
    return center.astype(np.float32), scale.astype(np.float32)


def _probability(logits: np.ndarray) -> np.ndarray:
    return expit(logits.astype(np.float64)).astype(np.float32)

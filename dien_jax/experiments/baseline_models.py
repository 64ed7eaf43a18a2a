"""Simple click models: one column, and boosted trees.

Each is fitted on training rows. What a fit leaves open is chosen by the metrics that choose
checkpoints, on validation rows. LightGBM is imported only to fit.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from dien_jax.model.statistics import MATCH
from dien_jax.training.logistic_regression import (
    LOGISTIC_REGRESSION,
    minimise,
    probability,
    selection,
    standard,
)
from dien_jax.training.regression_inputs import Inputs, RegressionInputs
from dien_jax.utils.console import Stage

TREES = ((7, 15), (31, 255))
"""Leaves of a tree and bins of a column: few of both, and the defaults of LightGBM."""
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
BOOSTED_TREES = "boosted trees"
BASELINES = (*SINGLE, LOGISTIC_REGRESSION, BOOSTED_TREES)
"""Names of the baselines, in the order of tables."""


class Baseline(NamedTuple):
    """A fitted model.

    Attributes:
      predict: inputs of examples to click probabilities, float32 ``[R]``.
      settings: what the fit and the validation rows chose, by name.
    """

    predict: Callable[[Inputs], np.ndarray]
    settings: dict[str, Any]


def fit_single(column: int, train: Inputs) -> Baseline:
    """Fit a logistic regression on one column: the sign and scale of a probability.

    Its ranking is that of the column, rising if clicks have more of it in training.
    """
    center, scale = standard(train.dense[:, [column]])
    nothing = sparse.csr_array((len(train.labels), 0), dtype=np.float32)
    rows = (train.dense[:, [column]] - center) / scale
    start, weight = minimise(rows, nothing, train.labels, 1.0, np.zeros(2)).tolist()
    slope = weight / float(scale[0])

    def predict(inputs: Inputs) -> np.ndarray:
        return probability(start + slope * (inputs.dense[:, column].astype(float) - center[0]))

    return Baseline(predict, {"slope": slope})


def fit_trees(inputs: RegressionInputs, train: Inputs, valid: Inputs, current: Stage) -> Baseline:
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

        score = selection(predict(valid), valid.labels)
        if best is None or score > best[0]:
            size = {"trees": booster.best_iteration, "num_leaves": leaves, "max_bin": bins}
            best = score, Baseline(predict, {"columns": name} | size)
    assert best is not None
    return best[1]


def _tree_columns(dense: list[int], num_attributes: int, rows: Inputs) -> sparse.csr_matrix:
    parts = [sparse.csr_array(rows.dense[:, dense]), rows.one_hot[:, :num_attributes]]
    return sparse.csr_matrix(sparse.hstack(parts, format="csr"))

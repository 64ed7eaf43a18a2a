"""Metrics of scored examples and of lists, intervals of their differences, and diagnostics.

Arrays are ``[n]``: labels are 0 or 1 (1 is a click), scores any numbers that rank the examples,
higher for a likelier click (log loss and calibration need probabilities), and groups any
integers, the user of each example. Anything else raises ``ValueError``, a score that is NaN
:class:`~dien_jax.errors.UserError`. A metric that is undefined for its examples is None, never 0.5
or NaN.
"""

from dien_jax.metrics.diagnostics import CalibrationBin, PartAuc, auc_by_size, calibration
from dien_jax.metrics.intervals import (
    Difference,
    auc_interval,
    bootstrap,
    delong,
    mean_over_users,
    paired_seeds,
)
from dien_jax.metrics.lists import hit_rate, list_metrics, ndcg, reciprocal_rank
from dien_jax.metrics.scores import (
    METRICS,
    Gauc,
    Metric,
    auc,
    calibration_error,
    evaluate_scores,
    gauc,
    logloss,
    normalised_entropy,
)

__all__ = [
    "METRICS", "CalibrationBin", "Difference", "Gauc", "Metric", "PartAuc", "auc",
    "auc_by_size", "auc_interval", "bootstrap", "calibration", "calibration_error", "delong",
    "evaluate_scores", "gauc", "hit_rate", "list_metrics", "logloss", "mean_over_users", "ndcg",
    "normalised_entropy", "paired_seeds", "reciprocal_rank",
]  # fmt: skip

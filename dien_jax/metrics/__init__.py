"""Metrics of scored examples, intervals of their differences, and diagnostics.

Plain NumPy functions of labels and scores. Nothing here may know datasets, models or runs.
"""

from dien_jax.metrics.diagnostics import Calibration, PartAuc, auc_by_size, calibration
from dien_jax.metrics.intervals import Difference, bootstrap, delong, paired_seeds
from dien_jax.metrics.scores import (
    METRICS,
    Gauc,
    Metric,
    accuracy,
    auc,
    evaluate_scores,
    gauc,
    logloss,
)

__all__ = [
    "METRICS",
    "Calibration",
    "Difference",
    "Gauc",
    "Metric",
    "PartAuc",
    "accuracy",
    "auc",
    "auc_by_size",
    "bootstrap",
    "calibration",
    "delong",
    "evaluate_scores",
    "gauc",
    "logloss",
    "paired_seeds",
]

"""The share of the networks' logit that counts: the one that is best on validation.

Networks learn what the fits before training leave. On small logs they learn noise too, and a part
of their logit ranks better than all of it. The share is chosen at each evaluation, without another
forward pass, and belongs to the best checkpoint.

Dimensions: R examples.
"""

import numpy as np
from scipy.special import expit, logit

from dien_jax.training.logistic_regression import selection

SHARES = (1.0, 0.7, 0.4, 0.2, 0.1, 0.0)
"""Those that are tried; an earlier one is kept where a later one is no better."""


def best_share(scores: np.ndarray, fixed: np.ndarray, labels: np.ndarray) -> float:
    """Return the share with the best score, see :func:`selection`.

    ``scores`` and ``fixed``, float32 ``[R]``, are probabilities of the whole model and of what was
    fitted before training; ``labels`` are int8 ``[R]``.
    """
    return max(SHARES, key=lambda share: selection(with_share(scores, fixed, share), labels))


def with_share(scores: np.ndarray, fixed: np.ndarray, share: float) -> np.ndarray:
    """Return the probabilities with a share of the networks' logit, float32 ``[R]``."""
    if share == 1:
        return scores
    whole, part = (_logits(probabilities) for probabilities in (scores, fixed))
    return expit(part + share * (whole - part)).astype(np.float32)


def _logits(probabilities: np.ndarray) -> np.ndarray:
    edge = np.finfo(np.float32).epsneg
    return logit(np.clip(probabilities.astype(np.float64), edge, 1 - edge))

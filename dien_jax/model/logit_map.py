"""Calibration as part of a scoring program: an increasing map of logits."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

LogitMap = dict[str, Float[Array, " K"]]
"""Points of a piecewise linear map: rising ``logits``, and the ``calibrated`` logits there."""

CALIBRATION = "calibration"
"""Name of the map among the variables of a model that is ranked with or exported."""


def rises(logits: np.ndarray, calibrated: np.ndarray) -> bool:
    """Return whether points are those of an increasing map in float32, as programs compute."""
    with np.errstate(all="ignore"):
        x, y = (np.diff(np.asarray(points, np.float32)) for points in (logits, calibrated))
        slopes = y / x
    return bool((x > 0).all() and ((slopes > 0) & np.isfinite(slopes)).all())


def click_probability(
    logits: Float[Array, " B"], logit_map: LogitMap | None = None
) -> Float[Array, " B"]:
    """Return the sigmoid of logits, or of calibrated logits.

    A calibrated logit is linear between the points of the map, and beyond its ends. The map from 0
    and 1 to themselves changes no bit.
    """
    if logit_map is None:
        return jax.nn.sigmoid(logits)
    x, y = logit_map["logits"], logit_map["calibrated"]
    above = (logits[:, None] >= x[None, 1:-1]).astype(jnp.int32).sum(-1)
    slope = (y[1:] - y[:-1]) / (x[1:] - x[:-1])
    return jax.nn.sigmoid(y[above] + (logits - x[above]) * slope[above])

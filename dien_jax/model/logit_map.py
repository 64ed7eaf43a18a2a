"""Calibration as part of a scoring program: an increasing line through logits."""

import jax
from jaxtyping import Array, Float

LogitMap = dict[str, Float[Array, ""]]
"""The ``slope`` and ``offset`` of the line."""

CALIBRATION = "calibration"
"""Name of the map among the variables of a model that is ranked with or exported."""


def click_probability(
    logits: Float[Array, " B"], logit_map: LogitMap | None = None
) -> Float[Array, " B"]:
    """Return the sigmoid of logits, or of ``slope * logits + offset``.

    Slope 1 and offset 0 change no bit.
    """
    if logit_map is not None:
        logits = logit_map["slope"] * logits + logit_map["offset"]
    return jax.nn.sigmoid(logits)

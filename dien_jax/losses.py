"""The two losses of DIEN, as pure functions of logits.

Dimensions: B examples, T steps, S = T - 1 of them with a next one, N sampled negatives a step.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def click_loss(
    logits: Float[Array, " B"],
    labels: Float[Array, " B"],
    weights: Float[Array, " B"],
) -> Float[Array, ""]:
    """Cross-entropy of click logits, in nats: a mean over rows, weighted.

    Finite for any finite logit. Filler rows weigh 0; a batch of nothing but filler gives 0.
    """
    per_row = jax.nn.softplus(logits) - labels * logits
    return (per_row * weights).sum() / jnp.maximum(weights.sum(), 1)


def halved_click_loss(
    logits: Float[Array, " B"],
    labels: Float[Array, " B"],
    weights: Float[Array, " B"],
) -> Float[Array, ""]:
    """The click loss of the paper's authors' program: a mean over rows and over two columns.

    The columns are a softmax's, click and no click, with 1e-8 added to each, so that this is
    half of :func:`click_loss` but for confident mistakes, whose gradient fades.
    """
    clicked = jax.nn.sigmoid(logits) + 1e-8
    passed = jax.nn.sigmoid(-logits) + 1e-8
    per_row = -(labels * jnp.log(clicked) + (1 - labels) * jnp.log(passed))
    return 0.5 * (per_row * weights).sum() / jnp.maximum(weights.sum(), 1)


def auxiliary_positions(
    lengths: Int[Array, " B"], weights: Float[Array, " B"], steps: int
) -> Bool[Array, "B S"]:
    """Positions t whose state has a real next behaviour to tell: ``t + 1 < length``."""
    following = jnp.arange(1, steps, dtype=lengths.dtype)
    return (following[None, :] < lengths[:, None]) & (weights[:, None] > 0)


def auxiliary_loss(
    positive_logits: Float[Array, "B S"],
    negative_logits: Float[Array, "B S N"],
    positions: Bool[Array, "B S"],
    negative_is_valid: Bool[Array, "B S N"],
    *,
    mean: Literal["live", "all"] = "live",
    weights: Float[Array, " B"],
) -> Float[Array, ""]:
    """How badly interest states tell the next behaviour from sampled ones, in nats.

    With p the logit of the next real behaviour and n_k those of N sampled ones::

        L = mean(softplus(-p)) + mean(softplus(n_k))

    Args:
      positive_logits: of behaviour t + 1 given state t.
      negative_logits: of the sampled behaviours given the same state.
      positions: live positions, see :func:`auxiliary_positions`; others count nowhere.
      negative_is_valid: False where a sample is the positive itself; such a one is left out.
      mean: ``"live"`` averages over live positions. ``"all"`` divides by all positions of real
        rows, padding included, as the paper's authors' program does, which makes the loss
        depend on how far a batch is padded.
      weights: 0 for filler rows.

    Returns:
      The loss; 0 where there is no position at all.

    Source: Zhou et al., AAAI 2019, eq. 6 (arXiv:1809.03672).
    """
    if positive_logits.shape[1] == 0:
        return jnp.zeros((), positive_logits.dtype)
    one = positions.astype(positive_logits.dtype)
    valid = one[..., None] * negative_is_valid.astype(positive_logits.dtype)
    positive = (one * jax.nn.softplus(-positive_logits)).sum()
    negative = (valid * jax.nn.softplus(negative_logits)).sum()
    if mean == "all":
        everywhere = jnp.maximum(weights.sum(), 1) * positive_logits.shape[1]
        return (positive + negative / negative_logits.shape[2]) / everywhere
    return positive / jnp.maximum(one.sum(), 1) + negative / jnp.maximum(valid.sum(), 1)

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


def auxiliary_weights(
    positions: Bool[Array, "B S"],
    negative_is_valid: Bool[Array, "B S N"],
    *,
    mean: Literal["live", "all"] = "live",
    weights: Float[Array, " B"],
) -> tuple[Float[Array, "B S"], Float[Array, "B S N"]]:
    """What each real behaviour and each sampled one weighs in the auxiliary loss.

    Args:
      positions: live positions, see :func:`auxiliary_positions`; others weigh 0.
      negative_is_valid: False where a sample is the positive itself; such a one weighs 0.
      mean: ``"live"`` averages over live positions. ``"all"`` divides by all positions of real
        rows, padding included, as the paper's authors' program does, which makes the loss
        depend on how far a batch is padded.
      weights: 0 for filler rows.

    Returns:
      Two sets of weights, each of sum 1 (less with ``"all"``, 0 without a position).
    """
    one = positions.astype(weights.dtype)
    valid = one[..., None] * negative_is_valid.astype(weights.dtype)
    if mean == "all":
        everywhere = jnp.maximum(weights.sum(), 1) * max(positions.shape[1], 1)
        return one / everywhere, valid / (everywhere * valid.shape[2])
    return one / jnp.maximum(one.sum(), 1), valid / jnp.maximum(valid.sum(), 1)


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
      positions: which count, and for how much: these four see :func:`auxiliary_weights`.
      negative_is_valid: see there.
      mean: see there.
      weights: see there.

    Returns:
      The loss; 0 where there is no position at all.

    Source: Zhou et al., AAAI 2019, eq. 6 (arXiv:1809.03672).
    """
    of_real, of_sampled = auxiliary_weights(
        positions, negative_is_valid, mean=mean, weights=weights
    )
    real = of_real * jax.nn.softplus(-positive_logits)
    return real.sum() + (of_sampled * jax.nn.softplus(negative_logits)).sum()

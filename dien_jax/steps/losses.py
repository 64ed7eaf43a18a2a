"""Click losses"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def click_loss(
    logits: Float[Array, " B"], labels: Float[Array, " B"], weights: Float[Array, " B"]
) -> Float[Array, ""]:
    """Cross-entropy of click logits, in nats: a mean over rows, weighted.

    Finite for any finite logit. Filler rows weigh 0; a batch of nothing but filler gives 0.
    """
    per_row = jax.nn.softplus(logits) - labels * logits
    return (per_row * weights).sum() / jnp.maximum(weights.sum(), 1)


def halved_click_loss(
    logits: Float[Array, " B"], labels: Float[Array, " B"], weights: Float[Array, " B"]
) -> Float[Array, ""]:
    """The click loss of the paper's authors' program: a mean over rows and over two columns.

    The columns are a softmax's, click and no click, with 1e-8 added to each, so that this is
    half of :func:`click_loss` but for confident mistakes, whose gradient fades.
    """
    clicked = jax.nn.sigmoid(logits) + 1e-8
    passed = jax.nn.sigmoid(-logits) + 1e-8
    per_row = -(labels * jnp.log(clicked) + (1 - labels) * jnp.log(passed))
    return 0.5 * (per_row * weights).sum() / jnp.maximum(weights.sum(), 1)

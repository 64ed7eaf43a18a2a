"""Click losses."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dien_jax.model.devices import Axis, total


def click_loss(
    logits: Float[Array, " B"],
    labels: Float[Array, " B"],
    weights: Float[Array, " B"],
    axis: Axis = None,
) -> Float[Array, ""]:
    """Return the cross-entropy of click logits in nats, a weighted mean over rows.

    It is finite for any finite logit. Filler rows weigh 0; a batch of filler alone gives 0. With
    the mesh ``axis`` of the rows it is this device's share.

    >>> import jax.numpy as jnp
    >>> from dien_jax.steps import click_loss
    >>> round(float(click_loss(jnp.zeros(2), jnp.array([0.0, 1.0]), jnp.ones(2))), 4)  # log 2
    0.6931
    """
    per_row = jax.nn.softplus(logits) - labels * logits
    return (per_row * weights).sum() / jnp.maximum(total(weights.sum(), axis), 1)


def halved_click_loss(
    logits: Float[Array, " B"],
    labels: Float[Array, " B"],
    weights: Float[Array, " B"],
    axis: Axis = None,
) -> Float[Array, ""]:
    """Return the click loss of the authors' program, a mean over rows and over two columns.

    The columns are a softmax's, click and no click, with 1e-8 added to each: half of
    :func:`click_loss` except for confident mistakes, whose gradient fades.

    >>> import jax.numpy as jnp
    >>> from dien_jax.steps import halved_click_loss
    >>> round(float(halved_click_loss(jnp.zeros(2), jnp.array([0.0, 1.0]), jnp.ones(2))), 4)
    0.3466
    """
    clicked = jax.nn.sigmoid(logits) + 1e-8
    passed = jax.nn.sigmoid(-logits) + 1e-8
    per_row = -(labels * jnp.log(clicked) + (1 - labels) * jnp.log(passed))
    return 0.5 * (per_row * weights).sum() / jnp.maximum(total(weights.sum(), axis), 1)

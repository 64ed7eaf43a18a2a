"""The statistics network: small networks on counts and similarities, fitted before training.

Dimensions: B rows, F inputs, N networks.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

NETWORKS = 4
"""Networks whose mean logit counts; their initial parameters differ."""
LAYERS = (64, 32)
"""Sizes of the hidden layers."""
LIMIT = 6.0
"""Largest absolute value of a standardised input."""


class StatisticsNetwork(nn.Module):
    """Networks of ReLU layers on standardised inputs; the mean of their logits is one more term.

    >>> import jax, jax.numpy as jnp
    >>> from dien_jax.model import StatisticsNetwork
    >>> inputs = jnp.ones((3, 5))
    >>> StatisticsNetwork((8, 4)).init_with_output(jax.random.key(0), inputs)[0].shape
    (3,)

    All parameters are 0, and so is the logit, until training fits them, before its first step; no
    gradient changes them. See :mod:`dien_jax.training.statistics_network`.
    """

    layers: Sequence[int] = LAYERS

    @nn.compact
    def __call__(self, statistics: Float[Array, "B F"]) -> Float[Array, " B"]:
        """Return the logits of :func:`dien_jax.model.statistics.statistics_inputs`."""
        zeros, size = nn.initializers.zeros_init(), statistics.shape[1]
        mean = self.param("mean", zeros, (size,))
        scale = self.param("scale", zeros, (size,))  # 1 / deviation
        x = jnp.clip((statistics - mean[None]) * scale[None], -LIMIT, LIMIT)
        x = jnp.broadcast_to(x, (NETWORKS, *x.shape))
        for index, width in enumerate((*self.layers, 1)):
            kernel = self.param(f"kernel_{index}", zeros, (NETWORKS, size, width))
            bias = self.param(f"bias_{index}", zeros, (NETWORKS, 1, width))
            x = jnp.einsum("nbi,nij->nbj", x, kernel, precision="highest") + bias
            x = jax.nn.relu(x) if index < len(self.layers) else x
            size = width
        return jax.lax.stop_gradient(x[..., 0].mean(0))

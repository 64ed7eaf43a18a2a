"""Batch normalisation with float32 statistics of live entries only.

Dimensions: R rows, D columns.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

BATCH_NORM_EPSILON = 1e-3
"""Added to the variance, as in the paper's program."""
BATCH_NORM_MOMENTUM = 0.99
"""Decay of running statistics."""


class BatchNorm(nn.Module):
    """Batch normalisation, returned as a scale and a shift of each column.

    The next layer may take them into its weights; :func:`rescaled` applies them.

    >>> import jax, jax.numpy as jnp
    >>> from dien_jax.model import BatchNorm
    >>> norm, live = BatchNorm("frozen"), jnp.ones(3, bool)
    >>> (scale, shift), _ = norm.init_with_output(jax.random.key(0), jnp.ones((3, 2)), live,
    ...                                           train=False)
    >>> scale.shape, shift.shape
    ((2,), (2,))

    Attributes:
      kind: ``"running"`` is ``gamma (x - mean) / sqrt(variance + epsilon) + beta`` with the mean
        and variance of live entries in training, and their running means in evaluation, which
        a batch without live entries does not change (a column that does not vary becomes beta);
        ``"frozen"`` is ``gamma x / sqrt(1 + epsilon) + beta``, the same with statistics that are
        never trained; ``"none"`` does nothing.

    Source: Ioffe and Szegedy, 2015 (arXiv:1502.03167).
    """

    kind: Literal["none", "running", "frozen"]

    @nn.compact
    def __call__(
        self, x: Float[Array, "*R D"], live: Bool[Array, "*R"], *, train: bool
    ) -> tuple[Float[Array, " D"], Float[Array, " D"]]:
        """Return scale and shift; ``live`` marks the rows that count in statistics."""
        width = x.shape[-1]
        if self.kind == "none":
            return jnp.ones(width), jnp.zeros(width)
        gamma = self.param("scale", nn.initializers.ones, (width,))
        beta = self.param("bias", nn.initializers.zeros, (width,))
        if self.kind == "frozen":
            return gamma / jnp.sqrt(1 + BATCH_NORM_EPSILON), beta
        kept_mean = self.variable("batch_stats", "mean", jnp.zeros, width)
        kept_variance = self.variable("batch_stats", "var", jnp.ones, width)
        mean, variance = kept_mean.value, kept_variance.value
        if train:
            count, mean, variance = _moments(x.astype(jnp.float32), live)
            if not self.is_initializing():
                for kept, value in ((kept_mean, mean), (kept_variance, variance)):
                    moved = BATCH_NORM_MOMENTUM * kept.value + (1 - BATCH_NORM_MOMENTUM) * value
                    kept.value = jnp.where(count > 0, moved, kept.value)
        scale = gamma * jax.lax.rsqrt(variance + BATCH_NORM_EPSILON)
        # A deviation of a millionth of the mean is rounding of a column that is constant, as for
        # batches of one user; the scale would turn it into a gradient.
        scale = jnp.where(variance > 1e-12 * mean**2, scale, 0)
        return scale, beta - mean * scale


def _moments(
    x: Float[Array, "*R D"], live: Bool[Array, "*R"]
) -> tuple[Float[Array, ""], Float[Array, " D"], Float[Array, " D"]]:
    """Return the number of live rows, and the mean and variance of their columns."""
    axes = tuple(range(x.ndim - 1))
    weight = live.astype(x.dtype)[..., None]
    count = weight.sum()

    def average(terms: jax.Array) -> jax.Array:
        return (weight * terms).sum(axes) / jnp.maximum(count, 1)

    mean = average(x)
    return count, mean, average((x - mean.reshape((1,) * len(axes) + (-1,))) ** 2)


def rescaled(
    x: Float[Array, "*R D"], scale: Float[Array, " D"], shift: Float[Array, " D"]
) -> Float[Array, "*R D"]:
    """Return ``scale x + shift`` by columns."""
    row = (1,) * (x.ndim - 1) + (-1,)
    return (x.astype(jnp.float32) * scale.reshape(row) + shift.reshape(row)).astype(x.dtype)

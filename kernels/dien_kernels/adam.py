"""Adam over all arrays of a model: by XLA, and in C++ as one pass that also sums squared gradients.

Source: Kingma and Ba, 2015 (arXiv:1412.6980), with its default decays and epsilon.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dien_kernels.native.library import primitive

DECAYS = 0.9, 0.999
EPSILON = 1e-8


class AdamUpdate(NamedTuple):
    """Results of :func:`dien_kernels.adam_update`; ``norm`` is that of all gradients.

    >>> import jax.numpy as jnp
    >>> from dien_kernels import AdamUpdate, adam_update
    >>> isinstance(adam_update(*[jnp.zeros(2)] * 4, rate=0.1, count=1), AdamUpdate)
    True
    """

    norm: jax.Array
    params: Any
    means: Any
    variances: Any


def scales_of(rate: Any, count: Any) -> jax.Array:
    """Return the learning rate, and what corrects the bias of means and of variances."""
    steps = jnp.asarray(count).astype(jnp.float32)
    corrections = (1 / (1 - jnp.float32(decay) ** steps) for decay in DECAYS)
    return jnp.stack([jnp.asarray(rate, jnp.float32), *corrections])


def xla_adam(
    scales: jax.Array, params: Any, means: Any, variances: Any, gradients: Any
) -> AdamUpdate:
    """Return the update as the kernel does."""
    (keep, decay), (add, gain) = DECAYS, (1 - decay for decay in DECAYS)
    means = jax.tree.map(lambda m, g: keep * m + add * g, means, gradients)
    variances = jax.tree.map(lambda v, g: decay * v + gain * g * g, variances, gradients)

    def moved(p: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
        return p - scales[0] * (scales[1] * m / (jnp.sqrt(scales[2] * v) + EPSILON))

    squares = jax.tree.leaves(jax.tree.map(lambda g: jnp.sum(g * g), gradients))
    params = jax.tree.map(moved, params, means, variances)
    return AdamUpdate(jnp.sqrt(sum(squares, jnp.zeros(()))), params, means, variances)


native_adam = primitive(
    "dien_kernels_adam",
    lambda scales, *trees: AdamUpdate(scales.update(shape=()), *trees[:3]),
    xla_adam,
    # New arrays replace the old ones, which follow the scales.
    aliases=lambda operands: {place: place for place in range(1, operands * 3 // 4 + 1)},
)

"""Sums over the devices that a batch is split over, for modules and losses inside ``shard_map``.

A module or loss has an ``axis``, the name of the mesh axis of the batch, or None on one device. A
loss is then one device's share: the shares of all devices add up to the loss of the whole batch.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Axis = str | None
"""Name of a mesh axis; None for a batch on one device."""


def total(value: jax.Array, axis: Axis) -> jax.Array:
    """Return the sum of a value over devices."""
    return value if axis is None else jax.lax.psum(value, axis)


def any_of(value: jax.Array, axis: Axis) -> jax.Array:
    """Return whether any entry of a bool array is true on any device."""
    found = value.any()
    return found if axis is None else jax.lax.psum(found.astype(jnp.int32), axis) > 0


class Dropout(nn.Module):
    """``flax.linen.Dropout`` with the mask that one device would draw for the whole batch."""

    rate: float
    axis: str

    @nn.compact
    def __call__(self, x: Float[Array, "B H"]) -> Float[Array, "B H"]:
        """Drop units of this device's rows, in training."""
        rows, devices = x.shape[0], jax.lax.axis_size(self.axis)
        keep = 1.0 - self.rate
        key = self.make_rng("dropout")
        mask = jax.random.bernoulli(key, p=keep, shape=(devices * rows, *x.shape[1:]))
        start = jax.lax.axis_index(self.axis) * rows
        mask = jax.lax.dynamic_slice_in_dim(mask, start, rows)
        return jnp.where(mask, x / keep, jnp.zeros_like(x))

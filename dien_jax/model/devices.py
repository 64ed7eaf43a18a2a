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
    """``flax.linen.Dropout``, on several devices with the mask of one for the whole batch."""

    rate: float
    axis: Axis = None

    @nn.compact
    def __call__(self, x: Float[Array, "B H"], *, train: bool) -> Float[Array, "B H"]:
        """Drop units of this device's rows, in training."""
        if not self.rate or not train:
            return x
        rows, keep = x.shape[0], 1.0 - self.rate
        devices = 1 if self.axis is None else jax.lax.axis_size(self.axis)
        shape = (devices * rows, *x.shape[1:])
        mask = jax.random.bernoulli(self.make_rng("dropout"), p=keep, shape=shape)
        if self.axis is not None:
            start = jax.lax.axis_index(self.axis) * rows
            mask = jax.lax.dynamic_slice_in_dim(mask, start, rows)
        return jax.lax.select(mask, x / keep, jnp.zeros_like(x))

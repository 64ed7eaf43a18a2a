"""Parts of a step that backends share."""

from typing import Any

import jax
import jax.numpy as jnp


def sigmoid(value: jax.Array) -> jax.Array:
    """Return the logistic function as one tanh.

    XLA's CPU backend evaluates its own logistic function more slowly. A tanh is a single
    instruction on TPUs, and on GPUs where it may be approximate.
    """
    return 0.5 * jnp.tanh(0.5 * value) + 0.5


def strength(offset: jax.Array, slope: jax.Array, u: jax.Array | None) -> jax.Array:
    """Return z of a step: ``[..., H]``, or ``[..., 1]`` without an update gate."""
    return offset[..., None] if u is None else offset[..., None] + slope[..., None] * u


def store(refs: Any, t: jax.Array, values: Any) -> None:
    """Store step t of every array that is not None."""
    for ref, value in zip(refs or (), values or (), strict=False):
        if ref is not None:
            ref[t] = value

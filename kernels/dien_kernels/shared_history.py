"""Attention recurrences over one history under many attentions: the last state of each.

To rank N candidates for one user, the recurrence runs over the same inputs N times and differs in
the attention alone. The inputs are projected once, a step is one matmul for all candidates, and
steps past the end of the history are not run. Forward only: training has a history in each row.

Dimensions: N candidates, T steps, D input, H hidden, G gates (3; AGRU has 2).
"""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp

from dien_kernels.api import Precision
from dien_kernels.checks import Shapes, check_arrays, check_name, refuse
from dien_kernels.reference import Form, Weights
from dien_kernels.step import sigmoid

SharedCell = Literal["aigru", "agru", "augru"]
"""Recurrences that attention enters, of which :func:`last_states` has the last state."""


def last_states(  # noqa: D417
    cell: SharedCell,
    form: Form,
    states: jax.Array,
    attention: jax.Array,
    weights: Weights,
    length: jax.Array,
    precision: Precision = "highest",
) -> jax.Array:
    """Return the last state of a recurrence over one history, under each attention.

    Row n is the last state of :func:`dien_kernels.agru` or :func:`dien_kernels.augru` over
    ``states`` under ``attention[n]``. ``"aigru"`` is :func:`dien_kernels.gru` over
    ``attention[n, t] * states[t]``. The first state is zero.

    Args:
      states: ``[T, D]``, the inputs, float32 or bfloat16.
      attention: ``[N, T]``, in [0, 1].
      weights: see :class:`Weights`, G = 3 (2 for AGRU).
      length: integer scalar, live steps, 0 to T.

    ``form``, ``precision`` and errors are as in :func:`dien_kernels.gru`.

    Returns:
      ``[N, H]``, in the dtype of ``states``; computed in float32.

    Example:
      >>> weights = Weights(jnp.ones((2, 3, 4)), jnp.ones((4, 3, 4)), jnp.zeros((3, 4)))
      >>> attention = jnp.array([[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]])  # of two candidates
      >>> last = last_states("augru", "paper", jnp.ones((3, 2)), attention, weights, jnp.int32(3))
      >>> last.shape, bool((last[1] == 0).all())
      ((2, 4), True)

    Source: Zhou et al., AAAI 2019, eq. 11 to 14 (arXiv:1809.03672).
    """
    check_name("cell", cell, SharedCell)
    check_name("form", form, Form)
    check_name("precision", precision, Precision)
    if states.ndim != 2:
        refuse("states", "shape [T, D]", states.shape)
    steps, depth = states.shape
    shapes: Shapes = {"attention": (attention, (attention.shape[0], steps)), "length": (length, ())}
    check_arrays(form, weights, 2 if cell == "agru" else 3, depth, shapes)
    exact = jax.lax.Precision[precision.upper()]
    dot = functools.partial(jnp.dot, precision=exact)
    authors = form == "authors"
    single = jnp.float32
    weights = jax.tree.map(lambda part: part.astype(single), weights)
    projected = jnp.einsum("td,dgh->tgh", states.astype(single), weights.input, precision=exact)
    recurrent = weights.recurrent.transpose(1, 2, 0)  # [G, H, H], rows are the next state's
    bias = weights.bias[:, :, None]
    by_time = attention.astype(single).T

    def step(time: Any, h: jax.Array) -> jax.Array:  # h is [H, N]
        a = by_time[time][None]
        inputs = projected[time][:, :, None]
        inputs = (inputs * a[None] if cell == "aigru" else inputs) + bias
        r = sigmoid(inputs[0] + dot(recurrent[0], h))
        if authors:
            c = jnp.tanh(inputs[-1] + dot(recurrent[-1], r * h))
        else:
            product = dot(recurrent[-1], h)
            if weights.recurrent_bias is not None:
                product = product + weights.recurrent_bias[:, None]
            c = jnp.tanh(inputs[-1] + r * product)
        if cell == "agru":
            return h + a * (c - h)
        u = sigmoid(inputs[1] + dot(recurrent[1], h))
        if cell == "augru":
            strength = 1 - (1 - a) * u if authors else a * u
        else:
            strength = 1 - u if authors else u
        return h + strength * (c - h)

    start = jnp.zeros((weights.recurrent.shape[0], attention.shape[0]), single)
    return jax.lax.fori_loop(0, length, step, start).T.astype(states.dtype)

"""Attention recurrences over one history under many attentions: the last state of each.

To rank N candidates for one user, the recurrence runs over the same inputs N times and differs in
the attention alone. The inputs are projected once, a step is one matmul for all candidates, and
steps past the end of the history are not run. Forward only: training has a history in each row.

Dimensions: N candidates, T steps, D input, H hidden, G gates (3; AGRU has 2).
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from dien_kernels import candidates, reference
from dien_kernels.checks import Shapes, check_arrays, check_name, refuse
from dien_kernels.native import networks as native
from dien_kernels.networks import chosen
from dien_kernels.options import Form, NetworkImplementation, Precision
from dien_kernels.reference import Inputs, Weights

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
    implementation: NetworkImplementation = "auto",
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

    ``form``, ``precision`` and errors are as in :func:`dien_kernels.gru`, ``implementation`` as in
    :func:`dien_kernels.attention_weights`; only the oracle has derivatives.

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
    name = chosen("candidates", implementation, 0)
    weights = jax.tree.map(lambda part: part.astype(jnp.float32), weights)
    inputs, attention = states.astype(jnp.float32), attention.astype(jnp.float32)
    exact = jax.lax.Precision[precision.upper()]
    if name == "reference":
        last = _by_copies(cell, form, (inputs, attention, length), weights, exact)
        return last.astype(states.dtype)
    projected = jnp.einsum("td,dgh->tgh", inputs, weights.input, precision=exact)
    hidden_bias = weights.recurrent_bias
    if hidden_bias is None:
        hidden_bias = jnp.zeros(weights.recurrent.shape[0], jnp.float32)
    operands = candidates.SharedInputs(
        projected, attention, length, weights.recurrent, weights.bias, hidden_bias
    )
    run: Callable[..., jax.Array] = native.last_states
    if name == "xla":
        run = functools.partial(candidates.xla_last_states, precision=exact)
    last = run(operands, paper=form == "paper", scales_inputs=cell == "aigru")
    return last.astype(states.dtype)


def _by_copies(
    cell: SharedCell, form: Form, operands: tuple, weights: Weights, precision: Any
) -> jax.Array:
    """Return the oracle's last state over a copy of the history for each candidate."""
    states, attention, length = operands
    live = jnp.arange(states.shape[0], dtype=length.dtype) < length
    copies = jnp.broadcast_to(jnp.where(live[:, None], states, 0), (len(attention), *states.shape))
    attention = jnp.where(live[None], attention, 0)
    if cell == "aigru":
        copies = copies * attention[..., None]
    lengths = jnp.broadcast_to(length, attention.shape[:1])
    initial = jnp.zeros((len(attention), weights.recurrent.shape[0]), jnp.float32)
    inputs = Inputs(copies, attention, weights, lengths, initial)
    return reference.run("gru" if cell == "aigru" else cell, form, inputs, precision)[1]

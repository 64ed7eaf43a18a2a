"""The recurrences as a scan with a hand-written derivative, for any device XLA compiles for.

Autodiff of a scan keeps or recomputes every intermediate of every step and adds up the weight
gradients step by step. Here the forward scan keeps the states only; the backward pass recomputes
all gates at once, runs one short reverse scan, and forms each weight gradient as a single matmul
over time and batch. Gates are separate matrices: XLA's CPU backend slices a stacked one slowly.

Every cell is one formula with two coefficients a step and row,

    z = offset + slope * u,    h' = h + z * (c - h)

    | cell  | form    | offset | slope    |
    |-------|---------|--------|----------|
    | GRU   | paper   | 0      | 1        |
    | GRU   | authors | 1      | -1       |
    | AGRU  | both    | a      | no u     |
    | AUGRU | paper   | 0      | a        |
    | AUGRU | authors | 1      | -(1 - a) |

and both are 0 at a dead step, which keeps the state as it was, to the bit.

Dimensions: B batch, T steps, D input, H hidden. Inside, arrays are time-major.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dien_kernels.reference import Cell, Form, Weights


class _Gates(NamedTuple):
    """What the recurrence reads of one kind of array for each gate; no update gate in AGRU."""

    reset: jax.Array
    update: jax.Array | None
    candidate: jax.Array


def run(
    cell: Cell,
    form: Form,
    x: jax.Array,
    attention: jax.Array | None,
    weights: Weights,
    lengths: jax.Array,
    initial_state: jax.Array,
    precision: jax.lax.PrecisionLike,
) -> tuple[jax.Array, jax.Array]:
    """All states and the last one; the same contract as :func:`dien_kernels.reference.run`."""
    steps = x.shape[1]
    by_time = x.swapaxes(0, 1)
    flat = by_time.reshape(-1, x.shape[-1])

    def project(gate: int) -> jax.Array:
        product = jnp.dot(flat, weights.input[:, gate], precision=precision)
        return (product + weights.bias[gate][None]).reshape(*by_time.shape[:2], -1)

    update = None if cell == "agru" else 1
    inputs = _Gates(project(0), None if update is None else project(update), project(-1))
    recurrent = _Gates(
        weights.recurrent[:, 0],
        None if update is None else weights.recurrent[:, update],
        weights.recurrent[:, -1],
    )
    bias = weights.recurrent_bias
    if bias is None:
        bias = jnp.zeros(initial_state.shape[-1:], x.dtype)

    live = jnp.arange(steps, dtype=lengths.dtype)[:, None] < lengths[None, :]
    one = live.astype(x.dtype)
    a = one if attention is None else attention.T * one
    if cell == "agru":
        offset, slope = a, jnp.zeros_like(one)
    elif form == "paper":
        offset, slope = jnp.zeros_like(one), a
    else:
        offset, slope = one, -(one if cell == "gru" else one - a)
    states = _scan(form, precision, inputs, offset, slope, recurrent, bias, initial_state)
    return states.swapaxes(0, 1), states[-1]


def _sigmoid(value: jax.Array) -> jax.Array:
    # One tanh: XLA's CPU backend evaluates its logistic function more slowly.
    return 0.5 * jnp.tanh(0.5 * value) + 0.5


def _gates(
    form: Form,
    precision: jax.lax.PrecisionLike,
    h: jax.Array,
    inputs: _Gates,
    recurrent: _Gates,
    bias: jax.Array,
) -> tuple[jax.Array, jax.Array | None, jax.Array, jax.Array | None]:
    """Reset, update and candidate from states ``[..., H]``; last the product that r multiplies."""
    dot = functools.partial(jnp.dot, precision=precision)
    r = _sigmoid(inputs.reset + dot(h, recurrent.reset))
    u = None
    if inputs.update is not None and recurrent.update is not None:
        u = _sigmoid(inputs.update + dot(h, recurrent.update))
    if form == "authors":
        return r, u, jnp.tanh(inputs.candidate + dot(r * h, recurrent.candidate)), None
    product = dot(h, recurrent.candidate) + jnp.broadcast_to(bias, h.shape)
    return r, u, jnp.tanh(inputs.candidate + r * product), product


def _strength(offset: jax.Array, slope: jax.Array, u: jax.Array | None) -> jax.Array:
    """The z of the table above: ``[..., H]``, or ``[..., 1]`` without an update gate."""
    if u is None:
        return offset[..., None]
    return offset[..., None] + slope[..., None] * u


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _scan(
    form: Form,
    precision: jax.lax.PrecisionLike,
    inputs: _Gates,
    offset: jax.Array,
    slope: jax.Array,
    recurrent: _Gates,
    bias: jax.Array,
    initial_state: jax.Array,
) -> jax.Array:
    """States ``[T, B, H]`` from projected inputs ``[T, B, H]`` and coefficients ``[T, B]``."""

    def step(h: jax.Array, now: tuple) -> tuple[jax.Array, jax.Array]:
        gates, offset, slope = now
        _, u, c, _ = _gates(form, precision, h, gates, recurrent, bias)
        h = h + _strength(offset, slope, u) * (c - h)
        return h, h

    return jax.lax.scan(step, initial_state, (inputs, offset, slope))[1]


def _scan_forward(
    form: Form, precision: jax.lax.PrecisionLike, *operands: Any
) -> tuple[jax.Array, tuple]:
    states = _scan(form, precision, *operands)
    return states, (*operands, states)


def _scan_backward(
    form: Form, precision: jax.lax.PrecisionLike, kept: tuple, d_states: jax.Array
) -> tuple:
    inputs, offset, slope, recurrent, bias, initial_state, states = kept
    before = jnp.concatenate([initial_state[None], states[:-1]])
    # The barriers pin what several consumers read: XLA's CPU fusion would otherwise evaluate
    # every sigmoid and tanh again in each of them.
    r, u, c, product = jax.lax.optimization_barrier(
        _gates(form, precision, before, inputs, recurrent, bias)
    )
    z = _strength(offset, slope, u)
    d_strength = c - before  # of z, per unit of dh
    to_candidate = z * (1 - c * c)
    to_update = None if u is None else d_strength * slope[..., None] * (u * (1 - u))
    if form == "paper":
        # dh reaches the reset gate and the candidate's product element by element.
        to_product = to_candidate * r
        to_reset = to_candidate * product * (r * (1 - r))
    else:
        # It reaches the reset gate through U_c, so only the element-wise rest is known here.
        to_product = None
        to_reset = before * (r * (1 - r))
    keep = jnp.broadcast_to(1 - z, before.shape)
    factors = jax.lax.optimization_barrier((keep, to_candidate, to_update, to_product, to_reset))
    dot = functools.partial(jnp.dot, precision=precision)
    turned = jax.tree.map(jnp.transpose, recurrent)

    def step(dh: jax.Array, now: tuple) -> tuple[jax.Array, tuple]:
        d_state, (keep, to_candidate, to_update, to_product, to_reset), r = now
        dh = dh + d_state
        d_before = dh * keep
        if form == "paper":
            d_reset = dh * to_reset
            d_before = d_before + dot(dh * to_product, turned.candidate)
            emitted: tuple = (dh,)
        else:
            d_masked = dot(dh * to_candidate, turned.candidate)
            d_reset = d_masked * to_reset
            d_before = d_before + d_masked * r
            emitted = (dh, d_reset)
        d_before = d_before + dot(d_reset, turned.reset)
        if to_update is not None:
            d_before = d_before + dot(dh * to_update, turned.update)
        return d_before, emitted

    scanned = (d_states, factors, None if form == "paper" else r)
    d_initial, emitted = jax.lax.scan(step, jnp.zeros_like(initial_state), scanned, reverse=True)
    dh = emitted[0]
    d_candidate = dh * to_candidate
    d_reset = dh * to_reset if form == "paper" else emitted[1]
    d_update = None if to_update is None else dh * to_update
    d_product = dh * to_product if form == "paper" else d_candidate
    d_candidate, d_reset, d_update, d_product = jax.lax.optimization_barrier(
        (d_candidate, d_reset, d_update, d_product)
    )
    d_z = dh * d_strength
    d_offset = d_z.sum(-1)
    d_slope = jnp.zeros_like(slope) if u is None else (d_z * u).sum(-1)

    def outer(left: jax.Array, right: jax.Array) -> jax.Array:
        width = left.shape[-1]
        return dot(left.reshape(-1, width).T, right.reshape(-1, right.shape[-1]))

    d_recurrent = _Gates(
        outer(before, d_reset),
        None if d_update is None else outer(before, d_update),
        outer(before if form == "paper" else r * before, d_product),
    )
    d_bias = d_product.sum((0, 1)) if form == "paper" else jnp.zeros_like(bias)
    d_inputs = _Gates(d_reset, d_update, d_candidate)
    return d_inputs, d_offset, d_slope, d_recurrent, d_bias, d_initial


_scan.defvjp(_scan_forward, _scan_backward)

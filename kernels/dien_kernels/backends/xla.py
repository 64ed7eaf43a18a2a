"""The recurrences as two scans over arrays ``[T, B, H]``; see :mod:`dien_kernels.contract`."""

import functools

import jax
import jax.numpy as jnp

from dien_kernels.contract import Backend, Gates, Gradients, Kept, Operands, Plan
from dien_kernels.step import sigmoid, strength


def forward(plan: Plan, operands: Operands, keep: bool) -> tuple[jax.Array, Kept | None]:
    dot = functools.partial(jnp.dot, precision=plan.precision)
    recurrent = operands.recurrent

    def step(h: jax.Array, now: tuple) -> tuple[jax.Array, tuple]:
        inputs, offset, slope = now
        r = sigmoid(inputs.reset + dot(h, recurrent.reset))
        u = sigmoid(inputs.update + dot(h, recurrent.update)) if plan.has_update else None
        if plan.form == "authors":
            product = None
            c = jnp.tanh(inputs.candidate + dot(r * h, recurrent.candidate))
        else:
            product = dot(h, recurrent.candidate) + operands.bias[None]
            c = jnp.tanh(inputs.candidate + r * product)
        h = h + strength(offset, slope, u) * (c - h)
        return h, (h, Kept(r, u, c, product) if keep else None)

    scanned = (operands.inputs, operands.offset, operands.slope)
    return jax.lax.scan(step, operands.initial, scanned)[1]


def backward(
    plan: Plan, operands: Operands, states: jax.Array, kept: Kept, d_states: jax.Array
) -> Gradients:
    """Run one short reverse scan between element-wise work on all steps at once."""
    dot = functools.partial(jnp.dot, precision=plan.precision)
    before = jnp.concatenate([operands.initial[None], states[:-1]])
    r, u, c, product = kept
    offset, slope = operands.offset, operands.slope
    z = strength(offset, slope, u)
    d_strength = c - before  # of z, per unit of dh
    to_candidate = z * (1 - c * c)
    to_update = None if u is None else d_strength * slope[..., None] * (u * (1 - u))
    if product is not None:
        # dh reaches the reset gate and the candidate's product element by element.
        to_product = to_candidate * r
        to_reset = to_candidate * product * (r * (1 - r))
    else:
        # dh reaches the reset gate through U_c: only the element-wise factor is known here.
        to_product = None
        to_reset = before * (r * (1 - r))
    keep = jnp.broadcast_to(1 - z, before.shape)
    # The barriers pin values with several consumers: XLA's CPU fusion would otherwise evaluate
    # them again in each one.
    factors = jax.lax.optimization_barrier((keep, to_candidate, to_update, to_product, to_reset))
    turned = jax.tree.map(jnp.transpose, operands.recurrent)

    def step(dh: jax.Array, now: tuple) -> tuple[jax.Array, tuple]:
        d_state, (keep, to_candidate, to_update, to_product, to_reset), r = now
        dh = dh + d_state
        d_before = dh * keep
        if to_product is not None:
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

    scanned = (d_states, factors, r if product is None else None)
    d_initial, emitted = jax.lax.scan(step, jnp.zeros_like(operands.initial), scanned, reverse=True)
    dh = emitted[0]
    d_reset = emitted[1] if product is None else dh * to_reset
    d_update = None if to_update is None else dh * to_update
    d_inputs = jax.lax.optimization_barrier(Gates(d_reset, d_update, dh * to_candidate))
    d_z = dh * d_strength
    d_slope = jnp.zeros_like(slope) if u is None else (d_z * u).sum(-1)
    return Gradients(d_inputs, d_z.sum(-1), d_slope, d_initial)


BACKEND = Backend("xla", "tbh", forward, backward)

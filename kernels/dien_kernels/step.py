"""Parts that backends share: pieces of a step, and the matmuls over all steps around it.

Dimensions: B batch (rows), T steps, D input, H hidden.
"""

from typing import Any

import jax
import jax.numpy as jnp

from dien_kernels.contract import Gates, Kept, Layout, Plan
from dien_kernels.reference import Weights


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


def by_gate(plan: Plan, stacked: jax.Array) -> Gates:
    return Gates(stacked[0], stacked[1] if plan.has_update else None, stacked[-1])


def project(layout: Layout, plan: Plan, x: jax.Array, weights: Weights) -> Gates:
    """Project the inputs of all steps of ``x`` ``[B, T, D]``, in the layout.

    Gates are separate arrays, because XLA is slow at slicing a stacked one.
    """
    flat = x.swapaxes(0, 1).reshape(x.shape[0] * x.shape[1], x.shape[-1])

    def projected(gate: int) -> jax.Array:
        kernel, bias = weights.input[:, gate], weights.bias[gate]
        if layout == "tbh":  # faster on a CPU over flattened (time, batch)
            product = jnp.dot(flat, kernel, precision=plan.precision) + bias[None]
            return product.reshape(x.shape[1], x.shape[0], kernel.shape[1])
        product = jnp.einsum("btd,dh->thb", x, kernel, precision=plan.precision)
        return product + bias[None, :, None]

    return Gates(projected(0), projected(1) if plan.has_update else None, projected(-1))


def recurrent_gradients(
    layout: Layout, plan: Plan, before: jax.Array, kept: Kept, d_inputs: Gates
) -> tuple[Gates, jax.Array]:
    """Return gradients of the recurrent weights, each one matmul over all steps, and of their bias.

    ``before`` is the state at the start of each step. Results are ``[H, H]`` by gate, and ``[H]``.
    """
    if plan.form == "paper":
        candidate_operand, d_product = before, d_inputs.candidate * kept.reset
    else:
        candidate_operand, d_product = kept.reset * before, d_inputs.candidate

    def outer(left: jax.Array, right: jax.Array) -> jax.Array:
        if layout == "tbh":
            left, right = (array.reshape(-1, array.shape[-1]) for array in (left, right))
            return jnp.dot(left.T, right, precision=plan.precision)
        return jnp.einsum("thb,tkb->hk", left, right, precision=plan.precision)

    d_recurrent = Gates(
        outer(before, d_inputs.reset),
        None if d_inputs.update is None else outer(before, d_inputs.update),
        outer(candidate_operand, d_product),
    )
    if plan.form == "authors":
        return d_recurrent, jnp.zeros(before.shape[layout.index("h")], before.dtype)
    return d_recurrent, d_product.sum((0, 2) if layout == "thb" else (0, 1))

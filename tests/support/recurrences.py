"""What the tests of the recurrences share: operands, one call for every cell, gradients, equations.

Dimensions: B batch, T steps, D input, H hidden.
"""

import contextlib
import functools
import itertools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dien_kernels import Weights, agru, augru, gru, interpreted, reference
from dien_kernels.choice import KERNELS
from scipy.special import expit

CELLS = {"gru": gru, "agru": agru, "augru": augru}
FORMS = ("paper", "authors")
PALLAS = [name for name, kernel in KERNELS.items() if kernel.is_pallas]
PRECISION = dict.fromkeys(PALLAS, "highest") | {"mosaic_gpu": "default"}
"""Tensor cores have no float32: operands of mosaic_gpu's products have bfloat16's 8 bits."""
CASES = [
    (cell, form, biased)
    for cell, form, biased in itertools.product(CELLS, FORMS, (False, True))
    if not (form == "authors" and biased)
]


def skip_where_it_cannot_run(kernel):
    if kernel == "mosaic_gpu" and tuple(map(int, jax.__version__.split(".")[:2])) < (0, 11):
        pytest.skip("mosaic_gpu needs JAX 0.11 or newer")


def running(implementation):
    """Return a context in which an implementation runs on this machine; skip a test without one."""
    skip_where_it_cannot_run(implementation)
    return interpreted() if implementation in PALLAS else contextlib.nullcontext()


def operands(
    cell, *, batch=3, steps=7, depth=5, hidden=8, biased=False, seed=0, live="mixed", scale=0.5
):
    """x, attention, weights, lengths and initial state; lengths are mixed, full or empty (0)."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.normal(scale=scale, size=shape).astype(np.float32)

    gates = 2 if cell == "agru" else 3
    weights = Weights(
        normal(depth, gates, hidden),
        normal(hidden, gates, hidden),
        normal(gates, hidden),
        normal(hidden) if biased else None,
    )
    x, attention = normal(batch, steps, depth), rng.uniform(size=(batch, steps))
    lengths = lengths_of(rng, batch, steps, live)
    arrays = (x, attention.astype(np.float32), weights, lengths, normal(batch, hidden))
    return jax.tree.map(jnp.asarray, arrays)


def lengths_of(rng, batch, steps, live):
    lengths = rng.integers(0, steps + 1, batch).astype(np.int32)
    lengths[:2] = (steps, 0)[: min(2, batch)]
    if live != "mixed":
        lengths[:] = steps if live == "full" else 0
    return lengths


def call(cell, x, attention, weights, lengths, initial, **kwargs):
    arguments = (x, weights) if cell == "gru" else (x, attention, weights)
    return CELLS[cell](*arguments, lengths=lengths, initial_state=initial, **kwargs)


def numpy_recurrence(cell, form, x, attention, weights, lengths, initial):
    """The equations, row by row in float64: states, and the shares of them that steps replace.

    The shares are those without attention, and those under it, ``[B, T, H]`` as the states.
    """
    x, attention, initial = (np.asarray(v, np.float64) for v in (x, attention, initial))
    w, u, b = (np.asarray(part, np.float64) for part in weights[:3])
    extra = 0 if weights.recurrent_bias is None else np.asarray(weights.recurrent_bias)
    states, alone, under = np.zeros((3, *x.shape[:2], u.shape[0]))
    for row, h in enumerate(initial):
        for step in range(x.shape[1]):
            if step < lengths[row]:
                v, a = x[row, step], attention[row, step]
                r = expit(v @ w[:, 0] + h @ u[:, 0] + b[0])
                product = r * (h @ u[:, -1] + extra) if form == "paper" else (r * h) @ u[:, -1]
                c = np.tanh(v @ w[:, -1] + product + b[-1])
                share = a
                if cell != "agru":
                    gate = expit(v @ w[:, 1] + h @ u[:, 1] + b[1])
                    share = alone[row, step] = gate if form == "paper" else 1 - gate
                if cell == "augru":
                    share = a * share if form == "paper" else 1 - (1 - a) * (1 - share)
                under[row, step] = share
                h = (1 - share) * h + share * c
            states[row, step] = h
    return states, alone, under


@functools.cache
def evaluate(cell, form, implementation, precision="highest"):
    """Jitted: states, the last one, and gradients of a function of both for all operands."""

    def objective(differentiable, lengths):
        *inputs, initial = differentiable
        options = {"form": form, "implementation": implementation, "precision": precision}
        states, last = call(cell, *inputs, lengths, initial, **options)
        value = jnp.sin(3 * states).sum() + jnp.cos(2 * last).sum()
        return value.astype(jnp.float32), (states, last)

    def run(x, attention, weights, lengths, initial):
        differentiable = (x, attention, weights, initial)
        gradients, outputs = jax.grad(objective, has_aux=True)(differentiable, lengths)
        return *outputs, gradients

    return jax.jit(run)


@jax.custom_vjp
def product_of_8_bits(left, right):
    """A product whose operands have the 8 bits of bfloat16, in its derivative for states too."""
    return jnp.dot(*(rounded_to_8_bits(array) for array in (left, right)), precision="highest")


def rounded_to_8_bits(array):
    return array.astype(jnp.bfloat16).astype(array.dtype)


def _of_left_and_right(saved, cotangent):
    left, right = saved
    of_right = jnp.dot(left.T, cotangent, precision="highest")
    return product_of_8_bits(cotangent, right.T), of_right


product_of_8_bits.defvjp(
    lambda left, right: (product_of_8_bits(left, right), (left, right)), _of_left_and_right
)


def operands_of_8_bits():
    """Return a context in which the oracle rounds operands of recurrent products to 8 bits."""

    def product(left, right, _):
        return product_of_8_bits(left, right)

    return mock.patch.object(reference, "product", product)


@functools.cache
def evaluate_with_8_bits(cell, form):
    """:func:`evaluate` of the oracle within :func:`operands_of_8_bits`."""
    run = evaluate.__wrapped__(cell, form, "reference")

    def rounded(*arrays):
        with operands_of_8_bits():
            return run(*arrays)

    return rounded


def assert_agree(found, expected, tolerance):
    """Every array to a share of its largest entry, of its type unless float64 is expected."""
    for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert got.shape == want.shape
        assert want.dtype in (got.dtype, np.float64)
        got, want = (np.asarray(array, np.float64) for array in (got, want))
        scale = np.abs(want).max(initial=1e-3)
        np.testing.assert_allclose(got / scale, want / scale, atol=tolerance, rtol=0)


def assert_padding_changes_nothing(cell, implementation, precision="highest", steps=7):
    """Whatever dead steps hold, values and gradients are those of live steps alone, to the bit."""
    x, attention, weights, lengths, initial = operands(cell, steps=steps)
    dead = jnp.arange(steps)[None] >= lengths[:, None]
    rubbish = jnp.where(dead[..., None], jnp.nan, x), jnp.where(dead, jnp.inf, attention)

    everything = evaluate(cell, "paper", implementation, precision)
    clean = everything(x, attention, weights, lengths, initial)
    dirty = everything(*rubbish, weights, lengths, initial)
    jax.tree.map(np.testing.assert_array_equal, dirty, clean)
    states, last, _ = clean
    np.testing.assert_array_equal(last[1], initial[1])  # length 0
    for row, length in enumerate(lengths.tolist()):
        live = states[row, max(length - 1, 0)] if length else initial[row]
        repeated = np.broadcast_to(live, (steps - length, 8))
        np.testing.assert_array_equal(states[row, length:], repeated)

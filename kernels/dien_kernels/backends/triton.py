"""The recurrences as two Pallas Triton kernels, for NVIDIA GPUs from Ampere on.

Operands, results and equations are in :mod:`dien_kernels.contract`. Arrays are ``[T, B, H]``. One
program carries one block of rows through all its steps. Upstream has deprecated this compiler:
only the table of implementations depends on this file.

Up to ``RESIDENT`` hidden units the recurrent weights stay on the chip for the whole launch. Wider
ones do not fit in a GPU's shared memory: every step streams them through it in tiles, from
the caches. The next step's inputs are loaded during the current step, except at 256
hidden units on tensor cores, where there are no registers for two steps' inputs.

Dimensions: B batch (rows), T steps, H hidden, R rows of one block, K rows of one weight tile.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt

from dien_kernels.contract import Backend, Blocks, Gates, Gradients, Kept, Operands, Plan
from dien_kernels.step import store, strength

RESIDENT = 64
LIMIT = 256  # hidden units: wider tiles of weights do not fit in shared memory


def forward(plan: Plan, operands: Operands, keep: bool) -> tuple[jax.Array, Kept | None]:
    specs = _block_specs(plan, operands)
    wides = operands.inputs.reset, specs.inputs.reset
    results, result_specs = ((wide, plan.kept(wide) if keep else None) for wide in wides)
    return _launch(plan, _forward_kernel, (operands,), (specs,), results, result_specs)


def backward(
    plan: Plan, operands: Operands, states: jax.Array, kept: Kept, d_states: jax.Array
) -> Gradients:
    specs = _block_specs(plan, operands)
    wide = specs.inputs.reset
    unread: Any = {"inputs": None, "bias": None}
    (gradients,) = _launch(
        plan,
        _backward_kernel,
        (operands._replace(**unread), states, kept, d_states),
        (specs._replace(**unread), wide, plan.kept(wide), wide),
        (Gradients(operands.inputs, operands.offset, operands.slope, operands.initial),),
        (Gradients(specs.inputs, specs.offset, specs.slope, specs.initial),),
    )
    return gradients


def _forward_kernel(plan: Plan, operands: Operands, states: Any, kept: Any, scratch: Any) -> None:
    """Run one block; refs are ``[T, R, H]``, ``[T, R]``, ``[R, H]``, ``[R]``, weights whole."""
    steps = states.shape[0]
    is_wide, longest = _is_wide(plan, states), jnp.max(operands.lengths[...])
    weights, matmul = _matmuls(plan, operands.recurrent, scratch, turned=False)
    of_state = weights if plan.form == "paper" else weights._replace(candidate=None)
    bias = operands.bias[...]

    def read(t: jax.Array) -> tuple:
        t = jnp.minimum(t, steps - 1)
        inputs = jax.tree.map(lambda ref: ref[t], operands.inputs)
        return inputs, operands.offset[t], operands.slope[t] if plan.has_update else None

    def step(t: jax.Array, carry: tuple) -> tuple:
        h, (inputs, offset, slope) = carry
        following = None if is_wide else read(t + 1)  # loaded during this step
        products = matmul(h, of_state)
        r = jax.nn.sigmoid(inputs.reset + products.reset)
        u = jax.nn.sigmoid(inputs.update + products.update) if plan.has_update else None
        if plan.form == "paper":
            product = products.candidate + bias[None]
            c = jnp.tanh(inputs.candidate + r * product)
        else:
            product = None
            c = jnp.tanh(inputs.candidate + matmul(r * h, weights.candidate))
        h = h + strength(offset, slope, u) * (c - h)
        states[t] = h
        store(kept, t, Kept(r, u, c, product))
        return h, read(t + 1) if is_wide else following

    def repeat(t: jax.Array, last: jax.Array) -> jax.Array:
        states[t] = last
        store(kept, t, jax.tree.map(lambda _: jnp.zeros_like(last), kept))
        return last

    h, _ = jax.lax.fori_loop(0, longest, step, (operands.initial[...], read(jnp.int32(0))))
    jax.lax.fori_loop(longest, steps, repeat, h)


def _backward_kernel(plan: Plan, *references: Any) -> None:
    operands, states, kept, d_states, gradients, scratch = references
    steps = states.shape[0]
    is_wide, longest = _is_wide(plan, states), jnp.max(operands.lengths[...])
    weights, matmul = _matmuls(plan, operands.recurrent, scratch, turned=True)
    initial = operands.initial[...]

    def read(t: jax.Array) -> tuple:
        t = jnp.maximum(t, 0)
        before = jnp.where(t == 0, initial, states[jnp.maximum(t - 1, 0)])
        gates = jax.tree.map(lambda ref: ref[t], kept)
        slope = operands.slope[t] if plan.has_update else None
        return before, gates, d_states[t], operands.offset[t], slope

    def dead(index: jax.Array, dh: jax.Array) -> jax.Array:
        t = steps - 1 - index
        store(gradients.inputs, t, jax.tree.map(lambda _: jnp.zeros_like(dh), gradients.inputs))
        gradients.offset[t] = gradients.slope[t] = jnp.zeros(dh.shape[:1], dh.dtype)
        return dh + d_states[t]

    def step(index: jax.Array, carry: tuple) -> tuple:
        t = longest - 1 - index
        dh, (before, (r, u, c, product), d_state, offset, slope) = carry
        following = None if is_wide else read(t - 1)  # loaded during this step
        dh = dh + d_state
        z = strength(offset, slope, u)
        d_z = dh * (c - before)
        d_before = dh * (1 - z)
        d_candidate = dh * z * (1 - c * c)
        if plan.form == "paper":
            d_reset = d_candidate * product * r * (1 - r)
            d_before += matmul(d_candidate * r, weights.candidate)
        else:
            d_masked = matmul(d_candidate, weights.candidate)
            d_reset = d_masked * before * r * (1 - r)
            d_before += d_masked * r
        d_before += matmul(d_reset, weights.reset)
        if plan.has_update:
            d_update = d_z * slope[:, None] * u * (1 - u)
            d_before += matmul(d_update, weights.update)
            d_slope = jnp.sum(d_z * u, axis=1)
        else:
            d_update, d_slope = None, jnp.zeros_like(offset)
        store(gradients.inputs, t, Gates(d_reset, d_update, d_candidate))
        gradients.offset[t] = jnp.sum(d_z, axis=1)
        gradients.slope[t] = d_slope
        return d_before, read(t - 1) if is_wide else following

    dh = jax.lax.fori_loop(0, steps - longest, dead, jnp.zeros_like(initial))
    dh, _ = jax.lax.fori_loop(0, longest, step, (dh, read(longest - 1)))
    gradients.initial[...] = dh


def _matmuls(
    plan: Plan, recurrent: Gates, scratch: Any, *, turned: bool
) -> tuple[Gates, Callable[..., Any]]:
    """Return the weights, and ``matmul(left, some of them)``: ``left @ w``, or ``left @ w.T``.

    Without ``scratch`` the weights are loaded here, once. With it they stay refs, and a loop reads
    tiles of K rows (columns when turned), whose loads Triton's compiler issues ahead. A tile of
    ``left`` cannot be sliced from registers, so ``left`` goes through memory: ``scratch``
    ``[R, H]``, this block's own, which its caches hold.
    """

    def dot(left: jax.Array, weights: jax.Array) -> jax.Array:
        contracted = (((1,), (1 if turned else 0,)), ((), ()))
        return jax.lax.dot_general(left, weights, contracted, precision=_precision(plan))

    if scratch is None:
        loaded = jax.tree.map(lambda ref: ref[...], recurrent)
        return loaded, lambda left, chosen: jax.tree.map(lambda w: dot(left, w), chosen)

    # Two tiles of three gates fit in 99 KiB, the least shared memory of a block since Ampere.
    hidden, tile = scratch.shape[1], 16

    def matmul(left: jax.Array, chosen: Any) -> Any:
        def add(k: jax.Array, totals: Any) -> Any:
            part = pl.ds(k * tile, tile)
            some = scratch[:, part]
            return jax.tree.map(
                lambda total, ref: total + dot(some, ref[:, part] if turned else ref[part]),
                totals,
                chosen,
            )

        scratch[...] = left
        _synchronize(plan)
        totals = jax.tree.map(lambda _: jnp.zeros_like(left), chosen)
        totals = jax.lax.fori_loop(0, hidden // tile, add, totals)
        _synchronize(plan)  # before scratch is written again
        return totals

    return recurrent, matmul


def _is_wide(plan: Plan, states: Any) -> bool:
    """Return True where there are no registers for the inputs of two steps."""
    return states.shape[2] > 128 and plan.precision != jax.lax.Precision.HIGHEST


def _precision(plan: Plan) -> Any:
    """Return float32 for HIGHEST, TF32 for DEFAULT, three products of TF32 for HIGH."""
    if plan.precision == jax.lax.Precision.HIGH and not plan.interpret:
        return jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3
    return plan.precision


def _synchronize(plan: Plan) -> None:
    if not plan.interpret:  # which has only one thread
        plt.debug_barrier()


def _block_specs(plan: Plan, operands: Operands) -> Operands:
    """Return one program's block of every operand: its rows at all steps, and weights whole."""
    steps, _, hidden = operands.inputs.reset.shape
    assert plan.blocks is not None
    rows = plan.blocks.rows
    wide = pl.BlockSpec((steps, rows, hidden), lambda block: (0, block, 0))
    narrow = pl.BlockSpec((steps, rows), lambda block: (0, block))
    matrix = pl.BlockSpec((hidden, hidden), lambda block: (0, 0))
    lengths = pl.BlockSpec((rows,), lambda block: (block,))
    bias = pl.BlockSpec((hidden,), lambda block: (0,))
    initial = pl.BlockSpec((rows, hidden), lambda block: (block, 0))
    inputs, recurrent = plan.gates(wide), plan.gates(matrix)
    return Operands(inputs, narrow, narrow, lengths, recurrent, bias, initial)


def _launch(
    plan: Plan, kernel: Any, arguments: tuple, specs: tuple, results: tuple, result_specs: tuple
) -> tuple:
    """Launch one program for each block of rows; results are like the given arrays."""
    assert plan.blocks is not None
    state, state_spec = arguments[0].initial, specs[0].initial
    rows, hidden = state.shape
    if max(array.size for array in jax.tree.leaves(arguments)) >= 2**31:
        raise ValueError(f"rows: expected T B H below 2^31, Triton's offsets, got {rows} rows")
    # The last result is the kernel's scratch: Pallas Triton has no scratch memory.
    scratch = (state, state_spec) if hidden > RESIDENT else (None, None)
    *outputs, _ = pl.pallas_call(
        functools.partial(kernel, plan),
        out_shape=jax.eval_shape(lambda *arrays: arrays, *results, scratch[0]),
        grid=(rows // plan.blocks.rows,),
        in_specs=specs,
        out_specs=(*result_specs, scratch[1]),
        compiler_params=plt.CompilerParams(num_warps=plan.blocks.warps, num_stages=3),
        interpret=plan.interpret,
        name=f"recurrence{kernel.__name__.removesuffix('_kernel')}",
    )(*arguments)
    return tuple(outputs)


def padded_hidden(hidden: int) -> int:
    """Return the next power of two from 16 on, as Triton's matmuls need."""
    return max(16, pl.next_power_of_2(hidden))


def _fewest_rows(plan: Plan) -> int:
    # Tensor cores multiply 16 rows at once; true float32 does without them.
    return 8 if plan.precision == jax.lax.Precision.HIGHEST else 16


def blocks(plan: Plan, *_: int) -> Blocks:
    """Return few rows, to use many multiprocessors, and enough warps not to spill registers."""
    return Blocks(rows=_fewest_rows(plan), warps=8)


def check(plan: Plan, blocks: Blocks, _rows: int, _steps: int, hidden: int) -> None:
    fewest = _fewest_rows(plan)
    if hidden > LIMIT:
        most = f"at most {LIMIT} hidden units (padded)"
        raise NotImplementedError(f"triton: expected {most}, got {hidden}")
    if blocks.rows < fewest or blocks.rows & (blocks.rows - 1):
        raise ValueError(f"blocks.rows: expected a power of two >= {fewest}, got {blocks.rows}")
    if not 1 <= blocks.warps <= 32 or blocks.warps & (blocks.warps - 1):
        raise ValueError(f"blocks.warps: expected a power of two, at most 32, got {blocks.warps}")


BACKEND = Backend("triton", "tbh", forward, backward, padded_hidden, blocks, check)

"""The recurrences as one Pallas kernel in each direction, for TPUs (Mosaic).

Operands, results and equations are in :mod:`dien_kernels.contract`. Arrays are ``[T, H, B]``: rows
of the batch along the lanes and the state's entries along the sublanes, so that H is padded to a
multiple of 8 only. The grid of a launch is row blocks by chunks of time. The state stays in vector
memory from chunk to chunk while Pallas reads the next chunk's inputs and writes the last chunk's
results. A block of rows stops at its longest history: later steps are filled without computing, and
chunks with only such steps are not read.

Dimensions: T steps, H hidden, B batch (rows), G gates; R rows of a block, S steps of a chunk.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from dien_kernels.contract import Backend, Blocks, Gates, Gradients, Kept, Operands, Plan
from dien_kernels.step import sigmoid, store

LANES, SUBLANES = 128, 8
VECTOR_MEMORY = 48 * 2**20  # bytes that a launch may use; cores have 64 MiB or more since v5p


def forward(plan: Plan, operands: Operands, keep: bool) -> tuple[jax.Array, Kept | None]:
    wide: Any = jax.ShapeDtypeStruct(operands.inputs.candidate.shape, jnp.float32)
    cut = _Cut(plan, wide.shape, reverse=False)
    stacked = _stacked(plan, jax.tree.map(jnp.transpose, operands.recurrent), axis=0)
    # Broadcast along the lanes once, outside of the kernel.
    bias = jnp.broadcast_to(operands.bias[:, None], cut.state_shape)
    reads = operands._replace(lengths=None, recurrent=stacked, bias=bias)
    launch = cut.launch(
        "recurrence_forward",
        functools.partial(_forward_kernel, plan, cut.size),
        out_shape=(wide, plan.kept(wide) if keep else None),
        in_specs=(cut.operands(reads),),
        out_specs=(cut.wide(), plan.kept(cut.wide()) if keep else None),
        scratch_shapes=[pltpu.VMEM(cut.state_shape, jnp.float32)],
    )
    return launch(cut.longest(operands.lengths), reads)


def _forward_kernel(
    plan: Plan, size: int, longest: Any, operands: Operands, states: Any, kept: Any, h_ref: Any
) -> None:
    """Run one chunk: wide ``[S, H, R]``, coefficients ``[S, R]``, bias, initial, h ``[H, R]``."""
    block, chunk = pl.program_id(0), pl.program_id(1)
    inputs, (together, _, candidate) = operands.inputs, operands.recurrent

    @pl.when(chunk == 0)
    def _start() -> None:
        h_ref[...] = operands.initial[...]

    def live_step(i: jax.Array, _: None) -> None:
        h = h_ref[...]
        products = jnp.split(_dot(plan, together[...], h), together.shape[0] // h.shape[0])
        r = sigmoid(inputs.reset[i] + products[0])
        if plan.form == "paper":
            product = products[-1] + operands.bias[...]
            c = jnp.tanh(inputs.candidate[i] + r * product)
        else:
            product = None
            c = jnp.tanh(inputs.candidate[i] + _dot(plan, candidate[...], r * h))
        u = sigmoid(inputs.update[i] + products[1]) if plan.has_update else None
        h = h + _strength(operands, i, u) * (c - h)
        h_ref[...] = h
        states[i] = h
        store(kept, i, Kept(r, u, c, product))

    def dead_step(i: jax.Array, _: None) -> None:
        states[i] = h_ref[...]
        store(kept, i, Kept(*[jnp.zeros_like(h_ref)] * 4))

    live = jnp.clip(longest[block] - chunk * size, 0, size)
    jax.lax.fori_loop(0, live, live_step, None)
    jax.lax.fori_loop(live, size, dead_step, None)


def backward(
    plan: Plan, operands: Operands, states: jax.Array, kept: Kept, d_states: jax.Array
) -> Gradients:
    arrays = (states, operands.offset, operands.initial)
    wide, row, state = (jax.ShapeDtypeStruct(array.shape, jnp.float32) for array in arrays)
    cut = _Cut(plan, wide.shape, reverse=True)
    unread: Any = {"inputs": None, "lengths": None, "bias": None}
    needed = operands._replace(recurrent=_stacked(plan, operands.recurrent, axis=1), **unread)
    rows, live = cut.coefficients(), cut.wide(live=True)
    launch = cut.launch(
        "recurrence_backward",
        functools.partial(_backward_kernel, plan, cut.size, wide.shape[0]),
        out_shape=(Gradients(plan.gates(wide), row, row, state),),
        in_specs=((cut.operands(needed), live, cut.step_before(), plan.kept(live), cut.wide()),),
        out_specs=(Gradients(plan.gates(cut.wide()), rows, rows, cut.state()),),
    )
    # States twice: their chunk, and the step before it.
    reads = needed, states, states, kept, d_states
    return launch(cut.longest(operands.lengths), reads)[0]


def _backward_kernel(
    plan: Plan, size: int, steps: int, longest: Any, reads: tuple, gradients: Gradients
) -> None:
    """Run one chunk, the last first; ``state_before`` ``[1, H, R]`` is the state at its start.

    The gradient of the initial state has one block for all chunks, which holds dh meanwhile.
    """
    block, chunk = pl.program_id(0), pl.num_programs(1) - 1 - pl.program_id(1)
    operands, states, state_before, kept, d_states = reads
    (together, _, candidate), dh_ref = operands.recurrent, gradients.initial
    no_row = jnp.zeros((1, dh_ref.shape[1]), dh_ref.dtype)

    @pl.when(pl.program_id(1) == 0)
    def _start() -> None:
        dh_ref[...] = jnp.zeros_like(dh_ref)

    def dead_step(i: jax.Array, _: None) -> None:
        dh_ref[...] += d_states[i]
        store(gradients.inputs, i, Gates(*[jnp.zeros_like(dh_ref)] * 3))
        gradients.offset[pl.ds(i, 1), :] = gradients.slope[pl.ds(i, 1), :] = no_row

    def live_step(i: jax.Array, start: jax.Array) -> jax.Array:
        before = jnp.where(i == 0, start, states[jnp.maximum(i - 1, 0)])
        r, c = kept.reset[i], kept.candidate[i]
        u = kept.update[i] if plan.has_update else None
        z = _strength(operands, i, u)
        dh = dh_ref[...] + d_states[i]
        d_strength = dh * (c - before)
        d_candidate = dh * z * (1 - c * c)
        d_before = dh * (1 - z)
        if plan.form == "paper":
            d_reset = d_candidate * kept.product[i] * (r * (1 - r))
        else:
            d_masked = _dot(plan, candidate[...], d_candidate)
            d_reset = d_masked * before * (r * (1 - r))
            d_before = d_before + d_masked * r
        d_products = [d_reset]
        d_slope, d_update = no_row, None
        if u is not None:
            d_slope = (d_strength * u).sum(0, keepdims=True)
            d_update = d_strength * operands.slope[pl.ds(i, 1), :] * (u * (1 - u))
            d_products.append(d_update)
        if plan.form == "paper":
            d_products.append(d_candidate * r)
        dh_ref[...] = d_before + _dot(plan, together[...], jnp.concatenate(d_products))
        store(gradients.inputs, i, Gates(d_reset, d_update, d_candidate))
        gradients.offset[pl.ds(i, 1), :] = d_strength.sum(0, keepdims=True)
        gradients.slope[pl.ds(i, 1), :] = d_slope
        return start

    first = chunk * size
    live = jnp.clip(longest[block] - first, 0, size)
    jax.lax.fori_loop(live, jnp.minimum(size, steps - first), dead_step, None)
    start = jnp.where(chunk == 0, operands.initial[...], state_before[0])
    jax.lax.fori_loop(0, live, lambda back, start: live_step(live - 1 - back, start), start)


# Parts of a weight and of a value, by decreasing size, whose products sum to a float32 product.
_TERMS = ((0, 0), (0, 1), (1, 0), (0, 2), (1, 1), (2, 0))


def _parts(array: jax.Array) -> list[jax.Array]:
    """Split a float32 array into three summands of 8 significant bits, as bfloat16 has."""
    parts = []
    for _ in range(2):
        # By bits: XLA would drop a conversion to bfloat16 and back.
        bits = jax.lax.bitcast_convert_type(array, jnp.uint32) & jnp.uint32(0xFFFF0000)
        parts.append(jax.lax.bitcast_convert_type(bits, jnp.float32))
        array = array - parts[-1]
    return [*parts, array]


def _exact(plan: Plan) -> bool:
    return plan.precision != jax.lax.Precision.DEFAULT


def _left(plan: Plan, weights: jax.Array) -> jax.Array:
    """Prepare weights ``[M, K]`` for :func:`_dot`: bfloat16, ``[M, 6 K]`` if exact."""
    if _exact(plan):
        parts = _parts(weights)
        weights = jnp.concatenate([parts[left] for left, _ in _TERMS], 1)
    return weights.astype(jnp.bfloat16)


def _dot(plan: Plan, left: jax.Array, right: jax.Array) -> jax.Array:
    """Multiply ``[M, K] [K, R]``, the left one prepared by :func:`_left`; float32 is 6 K long."""
    if _exact(plan):
        parts = _parts(right)
        right = jnp.concatenate([parts[part] for _, part in _TERMS])
    return jnp.dot(left, right.astype(jnp.bfloat16), preferred_element_type=jnp.float32)


def _strength(operands: Operands, i: jax.Array, u: jax.Array | None) -> jax.Array:
    offset = operands.offset[pl.ds(i, 1), :]
    return offset if u is None else offset + operands.slope[pl.ds(i, 1), :] * u


def _stacked(plan: Plan, gates: Gates, axis: int) -> Gates:
    """Stack recurrent weights for as few matmuls as the form allows; the reset gate's hold them.

    Forward ``[G H, H]``, backward ``[H, G H]``. The paper's form multiplies by all gates at once.
    In the authors' form the reset gate separates the candidate ``[H, H]`` from the others.
    """
    parts = [gate for gate in gates if gate is not None]
    if plan.form == "paper":
        return Gates(_left(plan, jnp.concatenate(parts, axis)), None, None)
    return Gates(_left(plan, jnp.concatenate(parts[:-1], axis)), None, _left(plan, parts[-1]))


class _Cut:
    """Blocks of a launch's arrays; a backward launch (``reverse``) starts with the last chunk.

    ``live`` blocks stay at the last chunk that has live steps, which Pallas then reads only once.
    """

    def __init__(self, plan: Plan, shape: tuple[int, ...], *, reverse: bool) -> None:
        assert plan.blocks is not None
        self._steps, hidden, rows = shape
        self.size = plan.blocks.steps
        self.state_shape = (hidden, plan.blocks.rows)
        self._grid = (rows // plan.blocks.rows, pl.cdiv(self._steps, self.size))
        self._reverse, self._interpret = reverse, plan.interpret

    def longest(self, lengths: jax.Array) -> jax.Array:
        return jnp.minimum(lengths.reshape(self._grid[0], -1).max(1), self._steps)

    def launch(self, name: str, kernel: Callable, *, out_shape: Any, **specs: Any) -> Callable:
        return pl.pallas_call(
            kernel,
            out_shape=out_shape,
            grid_spec=pltpu.PrefetchScalarGridSpec(num_scalar_prefetch=1, grid=self._grid, **specs),
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=VECTOR_MEMORY
            ),
            interpret=self._interpret,
            name=name,
        )

    def operands(self, arrays: Operands) -> Operands:
        """Return the blocks of operands with stacked weights; those that are None have none."""
        wide, row = self.wide(live=True), self.coefficients(live=True)
        matrices, bias = jax.tree.map(self.everything, (arrays.recurrent, arrays.bias))
        inputs = jax.tree.map(lambda _: wide, arrays.inputs)
        return Operands(inputs, row, row, None, matrices, bias, self.state())

    def wide(self, *, live: bool = False) -> pl.BlockSpec:
        return self._of_steps(live, *self.state_shape)

    def coefficients(self, *, live: bool = False) -> pl.BlockSpec:
        return self._of_steps(live, self.state_shape[1])

    def _of_steps(self, live: bool, *shape: int) -> pl.BlockSpec:
        def index(block: Any, turn: Any, longest: Any) -> tuple:
            return self._chunk(block, turn, longest, live), *[0] * (len(shape) - 1), block

        return pl.BlockSpec((self.size, *shape), index)

    def step_before(self) -> pl.BlockSpec:
        """Return the last step of the chunk before a live one; any step for the first chunk."""

        def index(block: Any, turn: Any, longest: Any) -> tuple:
            step = self._chunk(block, turn, longest, True) * self.size - 1
            return jnp.maximum(step, 0), 0, block

        return pl.BlockSpec((1, *self.state_shape), index)

    def state(self) -> pl.BlockSpec:
        return pl.BlockSpec(self.state_shape, lambda block, turn, longest: (0, block))

    def everything(self, array: jax.Array) -> pl.BlockSpec:
        return pl.BlockSpec(array.shape, lambda block, turn, longest: (0, 0))

    def _chunk(self, block: Any, turn: Any, longest: Any, live: bool) -> Any:
        chunk = self._grid[1] - 1 - turn if self._reverse else turn
        last_live = jnp.maximum(pl.cdiv(longest[block], self.size) - 1, 0)
        return jnp.minimum(chunk, last_live) if live else chunk


def blocks(plan: Plan, rows: int, steps: int, hidden: int) -> Blocks:
    """Return the largest blocks that fit: two registers of rows keep units busier than one."""
    candidates = [
        Blocks(rows=block, steps=min(steps, size))
        for block in ((2 * LANES, LANES) if rows > LANES else (LANES,))
        for size in (2 * SUBLANES, SUBLANES)
    ]
    fitting = (sizes for sizes in candidates if _memory(plan, sizes, hidden) <= VECTOR_MEMORY)
    return next(fitting, candidates[-1])


def check(plan: Plan, blocks: Blocks, rows: int, steps: int, hidden: int) -> None:
    if blocks.rows < 1 or blocks.rows % LANES:
        raise ValueError(f"blocks.rows: expected a multiple of {LANES}, got {blocks.rows}")
    if blocks.steps != steps and (blocks.steps < 1 or blocks.steps % SUBLANES):
        raise ValueError(
            f"blocks.steps: expected all {steps} or a multiple of {SUBLANES}, got {blocks.steps}"
        )
    needed = _memory(plan, blocks, hidden)
    if needed > VECTOR_MEMORY:
        raise ValueError(
            f"blocks: expected at most {VECTOR_MEMORY} bytes of vector memory, got {needed} with "
            f"{blocks.rows} rows, {blocks.steps} steps and a hidden size of {hidden}"
        )


def _memory(plan: Plan, blocks: Blocks, hidden: int) -> int:
    """Return the bytes of vector memory for the backward launch, the larger one."""
    gates, paper = 2 + plan.has_update, plan.form == "paper"
    state = 4 * hidden * blocks.rows
    # Chunks of states, their gradients, the kept gates and the gradients of the inputs.
    chunks = blocks.steps * state * (2 + gates + paper + gates)
    coefficients = 4 * 4 * pl.cdiv(blocks.steps, SUBLANES) * SUBLANES * blocks.rows
    depth = hidden * (len(_TERMS) if _exact(plan) else 1)
    recurrent = 2 * gates * hidden * pl.cdiv(depth, LANES) * LANES
    # Pallas holds two of each; the compiler spills registers of about twenty states.
    return 2 * (chunks + coefficients + recurrent + 3 * state) + 20 * state


def padded_hidden(hidden: int) -> int:
    return -(-hidden // SUBLANES) * SUBLANES


BACKEND = Backend("mosaic_tpu", "thb", forward, backward, padded_hidden, blocks, check)

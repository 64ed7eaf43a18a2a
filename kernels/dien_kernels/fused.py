"""What every fused implementation shares: projection, padding, derivative, vmap, sharding.

Autodiff of a scan keeps or recomputes every intermediate of every step and adds up the weight
gradients step by step. Here a backend supplies two launches: one forward through time that keeps
the states and what the gates were, one backward that turns the gradients of the states into those
of the gates. Everything else is matmuls over all steps at once, outside: the input projections
before, each weight gradient after.

Every cell is one formula with two coefficients a step and row,

    z = offset + slope * u,    h' = h + z * (c - h)

    | cell  | form    | offset | slope    |
    |-------|---------|--------|----------|
    | GRU   | paper   | 0      | 1        |
    | GRU   | authors | 1      | -1       |
    | AGRU  | both    | a      | no u     |
    | AUGRU | paper   | 0      | a        |
    | AUGRU | authors | 1      | -(1 - a) |

and both are 0 at a dead step, which keeps the state as it was, to the bit. With ``before`` the
state a step starts from, and ``dh`` the gradient of the state it ends in, one step backward is

    d_candidate = dh * z * (1 - c * c)                    before tanh
    d_update    = dh * (c - before) * slope * u * (1 - u) before its sigmoid
    d_reset     = paper:   d_candidate * product * r * (1 - r),       product = before U_c + d
                  authors: (d_candidate U_c^T) * before * r * (1 - r)
    d_before    = dh * (1 - z) + d_reset U_r^T + d_update U_u^T
                  + paper: (d_candidate * r) U_c^T;  authors: (d_candidate U_c^T) * r
    d_offset    = sum over H of dh * (c - before)
    d_slope     = sum over H of dh * (c - before) * u

Dimensions: B batch (rows), T steps, D input, H hidden. A backend chooses the order of the three
dimensions of its arrays, ``"tbh"`` or ``"thb"``; it is called layout below.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from dien_kernels.reference import Cell, Form, Weights

Layout = Literal["tbh", "thb"]


class Gates(NamedTuple):
    """One array for each gate; AGRU has no update gate."""

    reset: jax.Array
    update: jax.Array | None
    candidate: jax.Array


class Operands(NamedTuple):
    """What a launch reads, float32 but for the lengths.

    Attributes:
      inputs: projected inputs with their biases, layout.
      offset: ``[T, B]``.
      slope: ``[T, B]``; zeros for AGRU.
      lengths: int32 ``[B]``, live steps: a block of rows may stop at its longest.
      recurrent: ``[H, H]`` each, rows are the state's.
      bias: ``[H]``, added to the candidate's product in the paper's form.
      initial: ``[B, H]`` or ``[H, B]``, as in the layout.
    """

    inputs: Gates
    offset: jax.Array
    slope: jax.Array
    lengths: jax.Array
    recurrent: Gates
    bias: jax.Array
    initial: jax.Array


class Kept(NamedTuple):
    """What the forward launch keeps for the backward one, in the layout.

    ``product`` is ``before U_c + bias`` in the paper's form and None in the authors'. At a dead
    step any finite value will do.
    """

    reset: jax.Array
    update: jax.Array | None
    candidate: jax.Array
    product: jax.Array | None


class Gradients(NamedTuple):
    """What the backward launch gives: of the projected inputs, coefficients and initial state."""

    inputs: Gates
    offset: jax.Array
    slope: jax.Array
    initial: jax.Array


@dataclasses.dataclass(frozen=True)
class Blocks:
    """How a kernel cuts its work.

    Attributes:
      rows: rows of the batch that one block carries through time.
      steps: steps whose inputs one block holds at once, where a kernel works in chunks of time.
      warps: warps of 32 threads a block, on GPUs.
    """

    rows: int
    steps: int = 1
    warps: int = 4


@dataclasses.dataclass(frozen=True)
class Plan:
    """The fixed part of one call, by which it is compiled.

    Attributes:
      form: where the reset gate multiplies, before or after its matmul.
      has_update: False for AGRU.
      precision: of the recurrent matmuls.
      blocks: how the kernel cuts its work; None where the backend has no blocks.
      interpret: True runs the kernel's own program in the interpreter, on any device.
      sharding: how rows are split over devices, or None.
    """

    form: Form
    has_update: bool
    precision: jax.lax.Precision
    blocks: Blocks | None = None
    interpret: bool = False
    sharding: NamedSharding | None = None


@dataclasses.dataclass(frozen=True)
class Backend:
    """What a fused implementation supplies.

    Attributes:
      name: as in ``implementation=``.
      layout: order of the dimensions of its arrays.
      forward: ``(plan, operands, keep) -> (states, Kept or None)``, states in the layout; a dead
        step repeats the last live state.
      backward: ``(plan, operands, states, kept, d_states) -> Gradients``.
      padded_hidden: the hidden size that the kernel runs at, for a given one. Padding is zeros
        everywhere, and a padded column of the state stays 0.
      blocks: ``(plan, rows, steps, hidden) -> Blocks``, a choice for this shape, with
        ``plan.blocks`` None; ``hidden`` is padded already.
      check: ``(plan, blocks, rows, steps, hidden)`` raises ``ValueError`` where these blocks
        cannot run, and ``NotImplementedError`` where the plan cannot.
    """

    name: str
    layout: Layout
    forward: Callable[..., tuple[jax.Array, Kept | None]]
    backward: Callable[..., Gradients]
    padded_hidden: Callable[[int], int] = lambda hidden: hidden
    blocks: Callable[[Plan, int, int, int], Blocks] | None = None
    check: Callable[[Plan, Blocks, int, int, int], None] | None = None


def run(
    backend: Backend,
    cell: Cell,
    form: Form,
    x: jax.Array,
    attention: jax.Array | None,
    weights: Weights,
    lengths: jax.Array,
    initial_state: jax.Array,
    precision: jax.lax.Precision,
    *,
    blocks: Blocks | None = None,
    interpret: bool = False,
    sharding: NamedSharding | None = None,
) -> tuple[jax.Array, jax.Array]:
    """All states and the last one; the same contract as :func:`dien_kernels.reference.run`."""
    batch, steps, _ = x.shape
    hidden = initial_state.shape[1]
    wide = backend.padded_hidden(hidden)
    plan = Plan(form, cell != "agru", precision, None, interpret, sharding)
    if backend.blocks is not None:
        rows = batch if sharding is None else -(-batch // _shards(sharding))
        blocks = blocks or backend.blocks(plan, rows, steps, wide)
        if backend.check is not None:
            backend.check(plan, blocks, rows, steps, wide)
        plan = dataclasses.replace(plan, blocks=blocks)

    live = jnp.arange(steps, dtype=lengths.dtype)[:, None] < lengths[None, :]
    one = live.astype(x.dtype)
    a = one if attention is None else attention.T * one
    if cell == "agru":
        offset, slope = a, jnp.zeros_like(one)
    elif form == "paper":
        offset, slope = jnp.zeros_like(one), a
    else:
        offset, slope = one, -(one if cell == "gru" else one - a)

    operands = Operands(
        _project(backend.layout, plan, x, _wider(weights, wide)),
        offset,
        slope,
        lengths.astype(jnp.int32),
        _by_gate(plan, _wider(weights, wide).recurrent.swapaxes(0, 1)),
        _padded(
            jnp.zeros(hidden, x.dtype)
            if weights.recurrent_bias is None
            else weights.recurrent_bias,
            {0: wide},
        ),
        _ordered(backend.layout, _padded(initial_state, {1: wide})),
    )
    states = _recurrence(backend, plan, operands)
    last = states[-1]
    if backend.layout == "thb":
        return states.transpose(2, 0, 1)[..., :hidden], last.T[:, :hidden]
    return states.swapaxes(0, 1)[..., :hidden], last[:, :hidden]


def _wider(weights: Weights, wide: int) -> Weights:
    """Input, recurrent and bias with zeros up to the kernel's hidden size."""
    return Weights(
        _padded(weights.input, {2: wide}),
        _padded(weights.recurrent, {0: wide, 2: wide}),
        _padded(weights.bias, {1: wide}),
    )


def _by_gate(plan: Plan, stacked: jax.Array) -> Gates:
    """Reset, update and candidate of an array whose first dimension is the gate."""
    return Gates(stacked[0], stacked[1] if plan.has_update else None, stacked[-1])


def _ordered(layout: Layout, rows: jax.Array) -> jax.Array:
    """``[B, H]`` as the layout has it."""
    return rows.T if layout == "thb" else rows


def _project(layout: Layout, plan: Plan, x: jax.Array, weights: Weights) -> Gates:
    """Projected inputs of all steps. Gates are separate: XLA slices a stacked one slowly."""
    if layout == "thb":

        def one(gate: int) -> jax.Array:
            product = jnp.einsum("btd,dh->thb", x, weights.input[:, gate], precision=plan.precision)
            return product + weights.bias[gate][None, :, None]
    else:
        by_time = x.swapaxes(0, 1)
        flat = by_time.reshape(-1, x.shape[-1])

        def one(gate: int) -> jax.Array:
            product = jnp.dot(flat, weights.input[:, gate], precision=plan.precision)
            return (product + weights.bias[gate][None]).reshape(*by_time.shape[:2], -1)

    return Gates(one(0), one(1) if plan.has_update else None, one(-1))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _recurrence(backend: Backend, plan: Plan, operands: Operands) -> jax.Array:
    """States of all steps, in the backend's layout."""
    return _launch(backend, plan, "forward")(operands)


def _recurrence_forward(
    backend: Backend, plan: Plan, operands: Operands
) -> tuple[jax.Array, tuple]:
    states, kept = _launch(backend, plan, "keep")(operands)
    return states, (operands, states, kept)


def _recurrence_backward(
    backend: Backend, plan: Plan, saved: tuple[Operands, jax.Array, Kept], d_states: jax.Array
) -> tuple[Operands]:
    operands, states, kept = saved
    gradients: Gradients = _launch(backend, plan, "backward")(operands, states, kept, d_states)
    before = jnp.concatenate([operands.initial[None], states[:-1]])
    d_inputs = gradients.inputs
    if plan.form == "paper":
        of_candidate, d_product = before, d_inputs.candidate * kept.reset
    else:
        of_candidate, d_product = kept.reset * before, d_inputs.candidate

    def outer(left: jax.Array, right: jax.Array) -> jax.Array:
        if backend.layout == "thb":
            return jnp.einsum("thb,tkb->hk", left, right, precision=plan.precision)
        left, right = (array.reshape(-1, array.shape[-1]) for array in (left, right))
        return jnp.dot(left.T, right, precision=plan.precision)

    d_recurrent = Gates(
        outer(before, d_inputs.reset),
        None if d_inputs.update is None else outer(before, d_inputs.update),
        outer(of_candidate, d_product),
    )
    if plan.form == "paper":
        d_bias = d_product.sum((0, 2) if backend.layout == "thb" else (0, 1))
    else:
        d_bias = jnp.zeros_like(operands.bias)
    return (
        Operands(
            d_inputs,
            gradients.offset,
            gradients.slope,
            _no_gradient(operands.lengths),
            d_recurrent,
            d_bias,
            gradients.initial,
        ),
    )


def _no_gradient(integers: jax.Array) -> Any:
    return jnp.zeros(integers.shape, jax.dtypes.float0)


_recurrence.defvjp(_recurrence_forward, _recurrence_backward)


# How rows are laid out in each kind of array: the axis that vmap folds into and devices split.


def _row_axes(layout: Layout) -> tuple[Operands, int]:
    """The row axis of every operand, -1 where there is none, and of an array in the layout."""
    wide = layout.index("b")
    gates = Gates(wide, wide, wide)
    return Operands(gates, 1, 1, 0, Gates(-1, -1, -1), -1, wide - 1), wide


def _launch(
    backend: Backend, plan: Plan, kind: Literal["forward", "keep", "backward"]
) -> Callable[..., Any]:
    """One launch of the backend, on padded rows, on each device's own rows, and under vmap."""
    operands, wide = _row_axes(backend.layout)
    kept = Kept(wide, wide, wide, wide)
    if kind == "backward":
        arguments: tuple = (operands, wide, kept, wide)
        results: Any = Gradients(Gates(wide, wide, wide), 1, 1, wide - 1)

        def call(*parts: Any) -> Any:
            return backend.backward(plan, *parts)
    else:
        arguments = (operands,)
        results = wide if kind == "forward" else (wide, kept)

        def call(*parts: Any) -> Any:
            states, saved = backend.forward(plan, *parts, kind == "keep")
            return states if kind == "forward" else (states, saved)

    return _mappable(_sharded(plan, _filled(plan, call, arguments, results), arguments, results),
                     arguments, results)  # fmt: skip


def _zipped(function: Callable, axes: Any, arrays: Any) -> Any:
    """Maps ``function(axis, array)`` over arrays, None staying None."""
    if arrays is None:
        return None
    if isinstance(axes, int):
        return function(axes, arrays)
    made = [_zipped(function, axis, array) for axis, array in zip(axes, arrays, strict=True)]
    return tuple(made) if type(axes) is tuple else type(axes)(*made)


def _filled(plan: Plan, call: Callable, arguments: tuple, results: Any) -> Callable:
    """``call`` with rows padded up to whole blocks, by rows of length 0."""
    if plan.blocks is None:
        return call
    block = plan.blocks.rows

    def padded(*parts: Any) -> Any:
        rows = parts[0].lengths.shape[0]
        whole = -(-rows // block) * block
        if whole == rows:
            return call(*parts)
        parts = _zipped(
            lambda axis, array: array if axis < 0 else _padded(array, {axis: whole}),
            arguments,
            parts,
        )
        return _zipped(
            lambda axis, array: jax.lax.slice_in_dim(array, 0, rows, axis=axis),
            results,
            call(*parts),
        )

    return padded


def _shards(sharding: NamedSharding) -> int:
    """Into how many parts rows are split."""
    axes = sharding.spec[0] if len(sharding.spec) else None
    names = () if axes is None else (axes if isinstance(axes, tuple) else (axes,))
    return int(functools.reduce(lambda size, name: size * sharding.mesh.shape[name], names, 1))


def _sharded(plan: Plan, call: Callable, arguments: tuple, results: Any) -> Callable:
    """``call`` on each device's own rows: XLA does not split a kernel by itself."""
    if plan.sharding is None:
        return call
    rows = plan.sharding.spec[0]

    def spec(axis: int, _: Any = None) -> PartitionSpec:
        return PartitionSpec() if axis < 0 else PartitionSpec(*[None] * axis, rows)

    def split(*parts: Any) -> Any:
        shapes = jax.eval_shape(call, *parts)
        return jax.shard_map(
            call,
            mesh=plan.sharding.mesh,
            in_specs=_zipped(spec, arguments, parts),
            out_specs=_zipped(spec, results, shapes),
            check_vma=False,
        )(*parts)

    return split


def _mappable(call: Callable, arguments: tuple, results: Any) -> Callable:
    """``call`` under vmap: the mapped axis becomes more rows, unless weights are mapped too."""
    mapped = jax.custom_batching.custom_vmap(call)

    def rule(size: int, batched: Any, *parts: Any) -> tuple[Any, Any]:
        batched = tuple(batched)
        shared = [
            axis < 0 and is_batched
            for axis, is_batched in zip(
                jax.tree.leaves(_zipped(lambda axis, _: axis, arguments, parts)),
                jax.tree.leaves(batched),
                strict=True,
            )
        ]
        if any(shared):
            whole = _zipped_three(
                lambda axis, array, is_batched: (
                    array if is_batched else jnp.broadcast_to(array[None], (size, *array.shape))
                ),
                arguments,
                parts,
                batched,
            )
            out = jax.lax.map(lambda one: mapped(*one), whole)
            return out, jax.tree.map(lambda _: True, out)

        def fold(axis: int, array: jax.Array, is_batched: bool) -> jax.Array:
            if axis < 0:
                return array
            if not is_batched:
                array = jnp.broadcast_to(array[None], (size, *array.shape))
            moved = jnp.moveaxis(array, 0, axis)
            return moved.reshape(*moved.shape[:axis], -1, *moved.shape[axis + 2 :])

        def unfold(axis: int, array: jax.Array) -> jax.Array:
            apart = array.reshape(*array.shape[:axis], size, -1, *array.shape[axis + 1 :])
            return jnp.moveaxis(apart, axis, 0)

        out = _zipped(unfold, results, mapped(*_zipped_three(fold, arguments, parts, batched)))
        return out, jax.tree.map(lambda _: True, out)

    mapped.def_vmap(rule)
    return mapped


def _zipped_three(function: Callable, axes: Any, arrays: Any, flags: Any) -> Any:
    pairs = jax.tree.map(lambda array, flag: _Pair(array, flag), arrays, flags)
    return _zipped(lambda axis, pair: function(axis, *pair.both), axes, pairs)


class _Pair:
    def __init__(self, *both: Any) -> None:
        self.both = both


def _padded(array: jax.Array, sizes: dict[int, int]) -> jax.Array:
    """Zeros after the end of some axes, up to the given sizes."""
    widths = [(0, sizes.get(axis, size) - size) for axis, size in enumerate(array.shape)]
    return jnp.pad(array, widths) if any(after for _, after in widths) else array

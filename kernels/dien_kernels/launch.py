"""A backend's launch on rows of any number, split over devices, and under vmap.

Kernels see whole blocks of rows that lie on one device. What makes them so is here.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from dien_kernels.contract import Backend, Gates, Gradients, Kept, Layout, Operands, Plan

# Where rows are in each kind of array, as trees of axes: what vmap folds into and devices split.
# -1 is an array without rows. They have the types of the arrays' trees, hence Any.


def _wide(layout: Layout, kind: Any) -> Any:
    """The row axis of a tuple of arrays in the layout."""
    return kind(*[layout.index("b")] * len(kind._fields))


def _of_operands(layout: Layout) -> Any:
    kind: Any = Operands
    return kind(
        inputs=_wide(layout, Gates),
        offset=1,
        slope=1,
        lengths=0,
        recurrent=-1,
        bias=-1,
        initial=layout.index("b") - 1,
    )


def launch(
    backend: Backend, plan: Plan, what: Literal["forward", "keep", "backward"]
) -> Callable[..., Any]:
    """One launch of the backend, on padded rows, on each device's own rows, and under vmap."""
    layout = backend.layout
    rows, operands = layout.index("b"), _of_operands(layout)
    if what == "backward":
        arguments: tuple = (operands, rows, _wide(layout, Kept), rows)
        kind: Any = Gradients
        results = kind(_wide(layout, Gates), offset=1, slope=1, initial=rows - 1)

        def call(*parts: Any) -> Any:
            return backend.backward(plan, *parts)
    else:
        arguments = (operands,)
        results = rows if what == "forward" else (rows, _wide(layout, Kept))

        def call(*parts: Any) -> Any:
            states, kept = backend.forward(plan, *parts, what == "keep")
            return states if what == "forward" else (states, kept)

    whole = _whole_blocks(plan, call, arguments, results)
    return _mappable(sharded(plan, whole, arguments, results), arguments, results)


def _zipped(function: Callable, axes: Any, arrays: Any) -> Any:
    """Maps ``function(axis, array)`` over arrays, None staying None; one axis may do for many."""
    if isinstance(axes, int):
        return jax.tree.map(lambda array: function(axes, array), arrays)
    if arrays is None:
        return None
    made = [_zipped(function, axis, array) for axis, array in zip(axes, arrays, strict=True)]
    return tuple(made) if type(axes) is tuple else type(axes)(*made)


def _whole_blocks(plan: Plan, call: Callable, arguments: tuple, results: Any) -> Callable:
    """``call`` with rows padded up to whole blocks, by rows of length 0."""
    assert plan.blocks is not None
    block = plan.blocks.rows

    def filled(*parts: Any) -> Any:
        rows = parts[0].lengths.shape[0]
        whole = -(-rows // block) * block
        if whole == rows:
            return call(*parts)
        parts = _zipped(
            lambda axis, array: array if axis < 0 else padded(array, {axis: whole}),
            arguments,
            parts,
        )
        return _zipped(
            lambda axis, array: jax.lax.slice_in_dim(array, 0, rows, axis=axis),
            results,
            call(*parts),
        )

    return filled


def shards(sharding: NamedSharding) -> int:
    """Into how many parts rows are split."""
    axes = sharding.spec[0] if len(sharding.spec) else None
    names = () if axes is None else (axes if isinstance(axes, tuple) else (axes,))
    return int(functools.reduce(lambda size, name: size * sharding.mesh.shape[name], names, 1))


def sharded(plan: Plan, call: Callable, arguments: tuple, results: Any) -> Callable:
    """``call`` on each device's own rows: XLA does not split a kernel by itself.

    Results without rows are sums over rows, here over those of all devices.
    """
    sharding = plan.sharding
    if sharding is None:
        return call
    rows = sharding.spec[0] if len(sharding.spec) else None

    def spec(axis: int, _: Any = None) -> PartitionSpec:
        return PartitionSpec() if axis < 0 else PartitionSpec(*[None] * axis, rows)

    def total(axis: int, array: jax.Array) -> jax.Array:
        return jax.lax.psum(array, rows) if axis < 0 and rows is not None else array

    def split(*parts: Any) -> Any:
        shapes = jax.eval_shape(call, *parts)
        return jax.shard_map(
            lambda *own: _zipped(total, results, call(*own)),
            mesh=sharding.mesh,
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


def no_gradient(integers: jax.Array) -> Any:
    """What stands for the gradient of integers."""
    return jnp.zeros(integers.shape, jax.dtypes.float0)


def padded(array: jax.Array, sizes: dict[int, int]) -> jax.Array:
    """Zeros after the end of some axes, up to the given sizes."""
    widths = [(0, sizes.get(axis, size) - size) for axis, size in enumerate(array.shape)]
    return jnp.pad(array, widths) if any(after for _, after in widths) else array

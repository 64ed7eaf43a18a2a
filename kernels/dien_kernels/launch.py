"""A backend's launch on any number of rows, and under vmap.

Kernels see whole blocks of rows. This module brings rows into that form.

Row axes of arguments and results are given as prefixes of their trees: the axis that vmap folds
rows into. -1 stands for arrays without rows.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from dien_kernels.contract import Backend, Gradients, Operands, Plan

Pass = Literal["forward", "keep", "backward"]  # "keep" is forward with kept gates


def launch(backend: Backend, plan: Plan, kind: Pass) -> Callable[..., Any]:
    """Return one launch of the backend for any rows, and under vmap."""
    rows: Any = backend.layout.index("b")
    no_rows: Any = -1
    operands = Operands(rows, 1, 1, 0, recurrent=no_rows, bias=no_rows, initial=rows - 1)
    if kind == "backward":
        arguments: tuple = (operands, rows, rows, rows)
        results: Any = Gradients(rows, offset=1, slope=1, initial=rows - 1)
    else:
        arguments = (operands,)
        results = rows if kind == "forward" else (rows, rows)

    def call(*parts: Any) -> Any:
        if kind == "backward":
            return backend.backward(plan, *parts)
        states, kept = backend.forward(plan, *parts, kind == "keep")
        return states if kind == "forward" else (states, kept)

    whole = _whole_blocks(plan, call, arguments, results)
    return mappable(whole, arguments, results)


def _map(function: Callable, axes: Any, *trees: Any) -> Any:
    """Map ``function(axis, *leaves)`` over trees of which ``axes`` is a prefix; None stays None."""

    def inner(axis: int, *parts: Any) -> Any:
        return jax.tree.map(functools.partial(function, axis), *parts)

    return jax.tree.map(inner, axes, *trees)


def _whole_blocks(plan: Plan, call: Callable, arguments: tuple, results: Any) -> Callable:
    """Return ``call`` with rows padded to whole blocks by rows of length 0."""
    assert plan.blocks is not None
    block = plan.blocks.rows

    def filled(*parts: Any) -> Any:
        rows = parts[0].lengths.shape[0]
        whole = -(-rows // block) * block
        if whole == rows:
            return call(*parts)

        def pad(axis: int, array: jax.Array) -> jax.Array:
            return array if axis < 0 else padded(array, {axis: whole})

        def unpad(axis: int, array: jax.Array) -> jax.Array:
            return jax.lax.slice_in_dim(array, 0, rows, axis=axis)

        return _map(unpad, results, call(*_map(pad, arguments, parts)))

    return filled


def mappable(call: Callable, arguments: tuple, results: Any) -> Callable:
    """Return ``call`` under vmap: the mapped axis becomes more rows, unless weights are mapped."""
    mapped = jax.custom_batching.custom_vmap(call)

    def rule(size: int, batched: Any, *parts: Any) -> tuple[Any, Any]:
        def repeated(axis: int, array: jax.Array, is_batched: bool) -> jax.Array:
            return array if is_batched else jnp.broadcast_to(array[None], (size, *array.shape))

        def fold(axis: int, array: jax.Array, is_batched: bool) -> jax.Array:
            if axis < 0:
                return array
            array = jnp.moveaxis(repeated(axis, array, is_batched), 0, axis)
            return array.reshape(*array.shape[:axis], -1, *array.shape[axis + 2 :])

        def unfold(axis: int, array: jax.Array) -> jax.Array:
            apart = array.reshape(*array.shape[:axis], size, -1, *array.shape[axis + 1 :])
            return jnp.moveaxis(apart, axis, 0)

        flags = tuple(batched)
        mapped_weights = _map(lambda axis, flag: axis < 0 and flag, arguments, flags)
        if any(jax.tree.leaves(mapped_weights)):
            whole = _map(repeated, arguments, parts, flags)
            out = jax.lax.map(lambda example: mapped(*example), whole)
        else:
            out = _map(unfold, results, mapped(*_map(fold, arguments, parts, flags)))
        return out, jax.tree.map(lambda _: True, out)

    mapped.def_vmap(rule)
    return mapped


def no_gradient(integers: jax.Array) -> Any:
    return jnp.zeros(integers.shape, jax.dtypes.float0)


def padded(array: jax.Array, sizes: dict[int, int]) -> jax.Array:
    """Append zeros to some axes, up to the given sizes."""
    widths = [(0, sizes.get(axis, size) - size) for axis, size in enumerate(array.shape)]
    return jnp.pad(array, widths) if any(after for _, after in widths) else array

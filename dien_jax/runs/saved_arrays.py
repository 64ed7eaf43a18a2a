"""Arrays of a checkpoint: their names, what Orbax writes and reads of a state, and checks of it."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from dien_jax.errors import UserError
from dien_jax.steps.row_blocks import RowBlocks
from dien_jax.steps.state import TrainState

STATE = "state"
"""Folder of the arrays of a checkpoint."""


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def is_split(leaf: Any) -> bool:
    return isinstance(leaf, RowBlocks)


def tables_by_name(names: list[str], state: TrainState) -> dict[str, RowBlocks]:
    """Return the split tables of a state by their names in a folder."""
    return dict(zip(names, filter(is_split, jax.tree.leaves(state)), strict=True))


def arrays_in(path: Path) -> dict[str, Any]:
    """Return shape, type and name of all arrays of a checkpoint."""
    metadata: Any = ocp.PyTreeCheckpointHandler().metadata(path / STATE)
    return named_leaves(metadata.tree)


def table_names(arrays: dict[str, Any], state: TrainState) -> list[str]:
    """Return the names in the folder of the split tables of a state, in its order."""
    leaves = named_leaves(state)
    return [arrays[name].name for name, leaf in leaves.items() if is_split(leaf)]


def all_but_tables(path: Path, expected: dict[str, Any]) -> ocp.args.PyTreeRestore:
    """Return what to read of the arrays of a checkpoint."""
    if not any(map(is_split, expected.values())):
        return ocp.args.PyTreeRestore()
    metadata: Any = ocp.PyTreeCheckpointHandler().metadata(path / STATE)

    def left_out(place: tuple, leaf: Any) -> Any:
        name = jax.tree_util.keystr(place, simple=True, separator="/")
        return ocp.PLACEHOLDER if is_split(expected[name]) else leaf

    item = jax.tree_util.tree_map_with_path(left_out, metadata.tree)
    return ocp.args.PyTreeRestore(item=item)


def to_write(leaf: Any) -> Any:
    """Return what Orbax writes: for a split table an array that stands for it."""
    return np.zeros(1, leaf.dtype) if is_split(leaf) else _without_key(leaf)


def _without_key(leaf: Any) -> Any:
    """Return the integers of a typed PRNG key, and any other array unchanged."""
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def with_key(saved: np.ndarray, leaf: Any) -> Any:
    """Return a saved array, as a typed key if ``leaf`` is one."""
    if not _is_key(leaf):
        return saved
    impl = jax.random.key_impl(leaf) if isinstance(leaf, jax.Array) else None  # the default
    return jax.random.wrap_key_data(jnp.asarray(saved), impl=impl)


def named_leaves(tree: Any) -> dict[str, Any]:
    """Return the leaves by names like ``params/embedding/item``, since Orbax loses tuples."""
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}


def check_arrays(path: Path, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Refuse arrays of other names, types or shapes than those of the configuration."""
    mismatch = f"the checkpoint {path} does not fit the configuration:"
    for name, leaf in expected.items():
        wanted = _described(leaf if is_split(leaf) else jax.eval_shape(_without_key, leaf))
        actual = _described(found[name]) if name in found else "nothing"
        if actual != wanted:
            raise UserError(f"{mismatch} expected {name} as {wanted}, found {actual}")
    for name in found:
        if name not in expected:
            raise UserError(f"{mismatch} it has {name}, which the configuration lacks")


def _described(array: Any) -> str:
    return f"{array.dtype} {list(array.shape)}"

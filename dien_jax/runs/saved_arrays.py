"""Arrays of a checkpoint: their names, what Orbax writes and reads of a state, and checks of it."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding

from dien_jax.errors import UserError
from dien_jax.steps.placement import SavedTable

STATE = "state"
"""Folder of the arrays of a checkpoint."""
MOST_FILLER = 4096
"""Rows behind those of a table in a file, fewer than there were devices."""


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def arrays_in(path: Path) -> dict[str, Any]:
    """Return shape, type and name of all arrays of a checkpoint."""
    metadata: Any = ocp.PyTreeCheckpointHandler().metadata(path / STATE)
    return named_leaves(metadata.tree)


def all_arrays(path: Path, expected: dict[str, Any]) -> ocp.args.PyTreeRestore:
    """Return how to read the arrays of a checkpoint, as the leaves by name have them."""
    metadata: Any = ocp.PyTreeCheckpointHandler().metadata(path / STATE)

    def how(place: tuple, leaf: Any) -> Any:
        del leaf
        return _how_to_read(expected[jax.tree_util.keystr(place, simple=True, separator="/")])

    arguments = jax.tree_util.tree_map_with_path(how, metadata.tree)
    return ocp.args.PyTreeRestore(item=metadata.tree, restore_args=arguments)


def _how_to_read(leaf: Any) -> Any:
    """Return how Orbax reads an array: where the leaf is divided over devices, or on the host."""
    sharding = getattr(leaf, "sharding", None)
    if not isinstance(sharding, NamedSharding) or isinstance(leaf, jax.Array):
        return ocp.RestoreArgs(restore_type=np.ndarray)
    plain = jax.eval_shape(_without_key, leaf) if _is_key(leaf) else leaf
    return ocp.ArrayRestoreArgs(
        sharding=sharding, global_shape=plain.shape, dtype=plain.dtype, strict=False
    )


def to_write(leaf: Any) -> Any:
    """Return what Orbax writes: an array that is divided over devices, or on the host."""
    leaf = _without_key(leaf)
    sharding = getattr(leaf, "sharding", None)
    return leaf if isinstance(sharding, NamedSharding) else jax.device_get(leaf)


def _without_key(leaf: Any) -> Any:
    """Return the integers of a typed PRNG key, and any other array unchanged."""
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def with_key(saved: Any, leaf: Any) -> Any:
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
        plain = leaf if isinstance(leaf, SavedTable) else jax.eval_shape(_without_key, leaf)
        wanted, array = _described(plain), found.get(name)
        actual = "nothing" if array is None else _described(array)
        if actual != wanted and not (isinstance(leaf, SavedTable) and _has_rows(array, leaf)):
            raise UserError(f"{mismatch} expected {name} as {wanted}, found {actual}")
    for name in found:
        if name not in expected:
            raise UserError(f"{mismatch} it has {name}, which the configuration lacks")


def _has_rows(array: Any, table: SavedTable) -> bool:
    """Return whether an array has the rows of a table, and little behind them."""
    if array is None or not array.shape:
        return False
    same = array.dtype == table.dtype and tuple(array.shape[1:]) == table.shape[1:]
    return same and table.used <= array.shape[0] < table.used + MOST_FILLER


def _described(array: Any) -> str:
    return f"{array.dtype} {list(array.shape)}"

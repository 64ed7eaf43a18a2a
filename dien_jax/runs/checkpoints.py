"""Checkpoints of a run: the whole training state, the latest and the best, through Orbax.

    CHECKPOINTS/1200/            one checkpoint: ``state`` (the arrays) and ``host`` (JSON)
    CHECKPOINTS/1200-1/          the same step, saved again
    CHECKPOINTS/1500.<suffix>/   an interrupted save or removal; deleted at the next start

Orbax renames a folder once it is complete; a removal renames first, for the same reason. The best
checkpoint is marked inside itself, so that no other file has to change with it.
"""

import contextlib
import gc
import logging
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from dien_jax.errors import UserError, reason
from dien_jax.model.batch_norm import TOTAL_WEIGHT, without_total_weight
from dien_jax.steps.state import TrainState, placed_like
from dien_jax.utils.json_values import as_type
from dien_jax.utils.processes import count, index

_COMPLETE = re.compile(r"(\d+)(?:-(\d+))?")
_LEFTOVER = re.compile(r"\d+(-\d+)?\..+")

_Saved = tuple[int, int]
"""Step, and how many times that step was saved before."""


class _Host(TypedDict):
    """Form of ``host``."""

    best: bool
    host: dict[str, Any]


class Checkpoints:
    """The checkpoints in one folder. Only one process may write there at a time.

    Args:
      directory: the folder; created, and cleared of leftovers, unless ``read_only``.
      read_only: change nothing.

    Raises:
      UserError: when the folder cannot be written or, in methods, a checkpoint cannot be read.
    """

    def __init__(self, directory: Path, *, read_only: bool = False) -> None:
        self._directory = directory.absolute()
        self._checkpointer = _checkpointer()
        if not read_only:
            with _orbax_errors(f"cannot use {directory} for checkpoints"):
                directory.mkdir(parents=True, exist_ok=True)
                self._remove_leftovers()

    def latest_step(self) -> int | None:
        """Return the step of the last checkpoint; None without any."""
        saved = self._complete()
        return saved[-1][0] if saved else None

    def best_step(self) -> int | None:
        """Return the step of the last checkpoint saved as best; None without any."""
        best = self._best()
        return best[0] if best else None

    def best_path(self) -> Path | None:
        """Return the folder of the last checkpoint saved as best; None without any."""
        best = self._best()
        return self._path(best) if best else None

    def save(self, step: int, state: TrainState, host: dict[str, Any], *, best: bool) -> None:
        """Save a checkpoint, then remove those that are neither the latest nor the best.

        The checkpoint is complete and on disk when this returns. A kill at any moment leaves the
        latest and the best either as before or as after, and so does a full disk. A step that is
        saved again stays the best if it was.

        Args:
          step: steps done, at least the latest (else ValueError).
          state: arrays, typed PRNG keys among them.
          host: values for JSON; floats are restored bit for bit.
          best: true for the best checkpoint so far.
        """
        earlier = self._complete()
        kept = self._best()
        if earlier and step < earlier[-1][0]:
            raise ValueError(f"step must be at least the latest, {earlier[-1][0]}, got {step}")
        best = best or (kept is not None and kept[0] == step)
        again = [attempt + 1 for saved, attempt in earlier if saved == step]
        path = self._path((step, max(again, default=0)))
        arrays = jax.device_get(jax.tree.map(_without_key, state))
        try:
            with _orbax_errors(f"cannot save the checkpoint {path}"):
                values = ocp.args.JsonSave({"best": best, "host": host})
                content = ocp.args.Composite(state=ocp.args.PyTreeSave(arrays), host=values)
                self._checkpointer.save(path, args=content)
                for old in earlier:
                    if best or old != kept:
                        name = self._path(old)
                        name.rename(f"{name}.removed")
        finally:
            self._remove_leftovers()

    def restore(
        self,
        step: int,
        like: TrainState,
        put: Callable[[TrainState], TrainState] | None = None,
    ) -> tuple[TrainState, dict[str, Any]]:
        """Return the state and the host's values as they were saved, bit for bit.

        Only names, shapes, types and devices of ``like`` matter, a state of the same configuration,
        arrays or their shapes: each array is put on the device of its counterpart there, or the
        default device; or else ``put`` takes the state, on the host, to devices. An array that
        differs from it, or a checkpoint that does not exist, is a UserError. Running statistics
        that were saved without their total weight, by earlier versions, are returned without it.
        """
        attempts = [saved for saved in self._complete() if saved[0] == step]
        if not attempts:
            raise UserError(f"{self._directory} has no checkpoint of step {step}")
        path = self._path(attempts[-1])
        with _orbax_errors(f"cannot read the checkpoint {path}"):
            metadata: Any = ocp.PyTreeCheckpointHandler().metadata(path / "state")
            claimed = named_leaves(metadata.tree)
        if not any(name.endswith(f"/{TOTAL_WEIGHT}") for name in claimed):
            like = like._replace(batch_stats=without_total_weight(like.batch_stats))
        leaves, structure = jax.tree.flatten(like)
        expected = dict(zip(named_leaves(like), leaves, strict=True))
        _check_arrays(path, claimed, expected)  # before memory is taken for what it claims
        with _orbax_errors(f"cannot read the checkpoint {path}"):
            state, values = ocp.args.PyTreeRestore(), ocp.args.JsonRestore()
            arguments = ocp.args.Composite(state=state, host=values)
            content = self._checkpointer.restore(path, args=arguments)
            arrays = named_leaves(content["state"])
        host = as_type(content["host"], _Host, path / "host")["host"]
        _check_arrays(path, arrays, expected)
        restored = [_with_key(arrays[name], leaf) for name, leaf in expected.items()]
        on_host = jax.tree.unflatten(structure, restored)
        return placed_like(on_host, like) if put is None else put(on_host), host

    def _path(self, saved: _Saved) -> Path:
        step, attempt = saved
        return self._directory / (f"{step}-{attempt}" if attempt else str(step))

    def _complete(self) -> list[_Saved]:
        """Return the complete checkpoints, oldest first."""
        if not self._directory.is_dir():
            return []
        matches = [_COMPLETE.fullmatch(path.name) for path in self._directory.iterdir()]
        return sorted((int(match[1]), int(match[2] or 0)) for match in matches if match)

    def _best(self) -> _Saved | None:
        for saved in reversed(self._complete()):
            path = self._path(saved)
            with _orbax_errors(f"cannot read the checkpoint {path}"):
                arguments = ocp.args.Composite(host=ocp.args.JsonRestore())
                host = self._checkpointer.restore(path, args=arguments)["host"]
            if as_type(host, _Host, path / "host")["best"]:
                return saved
        return None

    def _remove_leftovers(self) -> None:
        """Delete leftovers; those that cannot be deleted are ignored and tried again later."""
        for path in self._directory.glob("*.*"):
            if _LEFTOVER.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)


def _checkpointer() -> ocp.Checkpointer:
    """Return Orbax's reader and writer; in a run of several processes it waits for none of them."""
    alone = ocp.options.MultiprocessingOptions()
    if count() > 1:
        alone = ocp.options.MultiprocessingOptions(primary_host=index(), active_processes={index()})
    composite = ocp.CompositeOptions(multiprocessing_options=alone)
    handler = ocp.CompositeCheckpointHandler("state", "host", composite_options=composite)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


@contextlib.contextmanager
def _orbax_errors(failure: str) -> Iterator[None]:
    """Turn an error of files, in any form that Orbax gives it, into a :class:`UserError`.

    Orbax reads and writes arrays concurrently. When one fails, the threads and tasks of the others
    find their event loop closed and print tracebacks, which are silenced: one message is enough.
    """
    jax.devices()  # Orbax asks for them; where there are none, no file is at fault
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels, hook = [logger.level for logger in loggers], sys.unraisablehook
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = lambda _: None
    problem = None
    try:
        yield
    except Exception as error:  # a damaged checkpoint raises exceptions of every kind
        problem = reason(error)
    finally:
        if problem is not None:
            time.sleep(0.1)  # Orbax's threads cannot be joined from here
            gc.collect()  # a task complains when it is collected
        sys.unraisablehook = hook
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    if problem is not None:
        raise UserError(f"{failure}: {problem}")


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _without_key(leaf: Any) -> Any:
    """Return the integers of a typed PRNG key, and any other array unchanged."""
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _with_key(saved: np.ndarray, leaf: Any) -> Any:
    """Return a saved array, as a typed key if ``leaf`` is one."""
    if not _is_key(leaf):
        return saved
    impl = jax.random.key_impl(leaf) if isinstance(leaf, jax.Array) else None  # the default
    return jax.random.wrap_key_data(jnp.asarray(saved), impl=impl)


def named_leaves(tree: Any) -> dict[str, Any]:
    """Return the leaves by names like ``params/embedding/item``, since Orbax loses tuples."""
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}


def _check_arrays(path: Path, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Refuse arrays of other names, types or shapes than those of the configuration."""
    mismatch = f"the checkpoint {path} does not fit the configuration:"
    for name, leaf in expected.items():
        wanted = _described(jax.eval_shape(_without_key, leaf))
        actual = _described(found[name]) if name in found else "nothing"
        if actual != wanted:
            raise UserError(f"{mismatch} expected {name} as {wanted}, found {actual}")
    for name in found:
        if name not in expected:
            raise UserError(f"{mismatch} it has {name}, which the configuration lacks")


def _described(array: Any) -> str:
    return f"{array.dtype} {list(array.shape)}"

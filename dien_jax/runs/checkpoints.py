"""Checkpoints of a run: the whole state of training, the latest and the best, through Orbax.

    CHECKPOINTS/1200/            one checkpoint: ``state`` (the arrays) and ``host`` (JSON)
    CHECKPOINTS/1200-1/          the same step, saved again
    CHECKPOINTS/1500.<suffix>/   a save or a removal that was cut short; removed at the next start

Orbax writes into a folder with a suffix and renames it when everything is in place, so a name
without a suffix is a checkpoint that is whole. A removal renames first, to the same end. Which
checkpoint is best is written inside it: nothing else would have to change at the same moment.
"""

import contextlib
import gc
import logging
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from dien_jax.errors import UserError
from dien_jax.steps.state import TrainState

_FINALISED = re.compile(r"(\d+)(?:-(\d+))?")
_LEFTOVER = re.compile(r"\d+(-\d+)?\..+")
_REMOVED_SUFFIX = ".removed"

_Saved = tuple[int, int]
"""Step, and how many times that step had been saved before."""


class Checkpoints:
    """The checkpoints in one folder. Only one process may write there at a time.

    Args:
      directory: the folder; made, and rid of leftovers, unless ``read_only``.
      read_only: touch nothing.

    Raises:
      UserError: when the folder cannot be written.
    """

    def __init__(self, directory: Path, *, read_only: bool = False) -> None:
        self._directory = directory.absolute()
        self._checkpointer = ocp.Checkpointer(ocp.CompositeCheckpointHandler("state", "host"))
        if not read_only:
            with _told(f"cannot use {directory} for checkpoints"):
                directory.mkdir(parents=True, exist_ok=True)
                self._remove_leftovers()

    def latest_step(self) -> int | None:
        """Step of the last checkpoint; None without any."""
        found = self._finalised()
        return found[-1][0] if found else None

    def best_step(self) -> int | None:
        """Step of the last checkpoint that was saved as best; None without any.

        Raises:
          UserError: when a checkpoint cannot be read.
        """
        best = self._best()
        return best[0] if best else None

    def best_path(self) -> Path | None:
        """Where the last checkpoint that was saved as best lies; None without any.

        Raises:
          UserError: when a checkpoint cannot be read.
        """
        best = self._best()
        return self._path(best) if best else None

    def save(self, step: int, state: TrainState, host: dict[str, Any], *, best: bool) -> None:
        """Saves a checkpoint, then removes those that are neither the latest nor the best.

        When this returns, the checkpoint is whole and on disk; a kill at any moment leaves the
        latest and the best as they were before or as they are after. A step can be saved again,
        and stays the best if it was.

        Args:
          step: steps done.
          state: arrays, typed PRNG keys among them.
          host: what JSON can hold; floats come back bit for bit.
          best: whether this is the best checkpoint so far.

        Raises:
          ValueError: for a step before the latest.
          UserError: when the folder cannot be written, the disk being full among the reasons; the
            checkpoints before are untouched.
        """
        found = self._finalised()
        kept = self._best()
        if found and step < found[-1][0]:
            raise ValueError(f"step must be at least the latest, {found[-1][0]}, got {step}")
        best = best or (kept is not None and kept[0] == step)
        again = [attempt + 1 for saved, attempt in found if saved == step]
        path = self._path((step, max(again, default=0)))
        arrays = jax.device_get(jax.tree.map(_without_key, state))
        try:
            with _told(f"cannot save the checkpoint {path}"):
                self._checkpointer.save(
                    path,
                    args=ocp.args.Composite(
                        state=ocp.args.PyTreeSave(arrays),
                        host=ocp.args.JsonSave({"best": best, "host": host}),
                    ),
                )
                for old in found:
                    if best or old != kept:
                        name = self._path(old)
                        name.rename(name.with_name(name.name + _REMOVED_SUFFIX))
        finally:
            self._remove_leftovers()

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The state and the host's values as they were saved, bit for bit.

        Args:
          step: a step of which there is a checkpoint.
          like: a state of the same configuration. Its values are not looked at; every array goes
            to the device of its namesake here, wherever it was when it was saved.

        Raises:
          UserError: when there is no such checkpoint, it cannot be read, or an array's name,
            shape or type is not that of ``like``; the message names the first that differs.
        """
        attempts = [found for found in self._finalised() if found[0] == step]
        if not attempts:
            raise UserError(f"{self._directory} has no checkpoint of step {step}")
        path = self._path(attempts[-1])
        with _told(f"cannot read the checkpoint {path}"):
            saved = self._checkpointer.restore(
                path,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeRestore(), host=ocp.args.JsonRestore()
                ),
            )
            found, host = _named(saved["state"]), saved["host"]["host"]
        leaves, structure = jax.tree.flatten(like)
        names = list(_named(like))
        for name, leaf in zip(names, leaves, strict=True):
            expected = _described(jax.eval_shape(_without_key, leaf))
            if name not in found or _described(found[name]) != expected:
                what = _described(found[name]) if name in found else "nothing"
                raise UserError(
                    f"the checkpoint {path} does not fit the configuration: expected {name} as "
                    f"{expected}, found {what}"
                )
        for name in found:
            if name not in names:
                raise UserError(
                    f"the checkpoint {path} does not fit the configuration: it has {name}, which "
                    f"the configuration lacks"
                )
        arrays = [_placed(found[name], leaf) for name, leaf in zip(names, leaves, strict=True)]
        return jax.tree.unflatten(structure, arrays), host

    def _path(self, saved: _Saved) -> Path:
        step, attempt = saved
        return self._directory / (f"{step}-{attempt}" if attempt else str(step))

    def _finalised(self) -> list[_Saved]:
        """All whole checkpoints, oldest first."""
        if not self._directory.is_dir():
            return []
        matches = [_FINALISED.fullmatch(path.name) for path in self._directory.iterdir()]
        return sorted((int(match[1]), int(match[2] or 0)) for match in matches if match)

    def _best(self) -> _Saved | None:
        for saved in reversed(self._finalised()):
            path = self._path(saved)
            with _told(f"cannot read the checkpoint {path}"):
                arguments = ocp.args.Composite(host=ocp.args.JsonRestore())
                if self._checkpointer.restore(path, args=arguments)["host"]["best"]:
                    return saved
        return None

    def _remove_leftovers(self) -> None:
        """What cannot be removed now counts for nothing, and is tried again."""
        for path in self._directory.glob("*.*"):
            if _LEFTOVER.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Turns what goes wrong with files, whichever way Orbax puts it, into a :class:`UserError`.

    Orbax reads and writes arrays at the same time. When one fails, the threads and tasks of the
    others find their event loop closed, and say so with tracebacks on standard error: the one
    message here is enough.
    """
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels, hook = [logger.level for logger in loggers], sys.unraisablehook
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = lambda _: None
    problem = None
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        problem = next(iter(str(error).splitlines()), type(error).__name__)
    finally:
        if problem is not None:
            time.sleep(0.1)  # the threads are not ours to join
            gc.collect()  # a task complains when it is collected
        sys.unraisablehook = hook
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    if problem is not None:
        raise UserError(f"{what}: {problem}")


def _without_key(leaf: jax.Array) -> jax.Array:
    """A typed PRNG key as the integers it is made of; any other array as it is."""
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


def _placed(saved: np.ndarray, leaf: jax.Array) -> jax.Array:
    """A saved array on the device of ``leaf``, as a typed key where that is one."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(jnp.asarray(saved), impl=jax.random.key_impl(leaf))
        return jax.device_put(key, leaf.sharding)
    return jax.device_put(saved, leaf.sharding)


def _named(tree: Any) -> dict[str, Any]:
    """The leaves by name, like ``params/embedding/item``; Orbax gives tuples back as lists."""
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}


def _described(array: Any) -> str:
    return f"{array.dtype} {list(array.shape)}"

"""State of JAX: its compile cache, numbers of 32 bits, and processes that lack its threads."""

import contextlib
import errno
import glob
import hashlib
import os
import platform
import re
import sys
import warnings
from pathlib import Path
from typing import Any

from dien_jax.errors import UserError
from dien_jax.utils.console import say
from dien_jax.utils.files import user_cache

LEAST_SECONDS = 0.3
"""Programs that compile faster than this are not cached."""
_DAMAGED = re.compile(r"Error reading persistent compilation cache entry for '(?P<name>[^']+)'")
"""JAX's warning of a program that it cannot read, and compiles again."""


def enable_compile_cache() -> None:
    """Keep compiled programs on disk, so that the next process loads them.

    A folder given by ``JAX_COMPILATION_CACHE_DIR`` is kept, and a cache turned off by
    ``JAX_ENABLE_COMPILATION_CACHE=false`` stays off. Each kind of processor has its own folder:
    a home folder may be shared by machines with different instruction sets. A user without a home
    folder has no cache, nor has one whose cache folder cannot be written, and is told.

    The commands call this when they start. Functions of the package never do: it changes the
    configuration of JAX for the whole process.

    >>> enable_compile_cache()
    """
    import jax  # here, so that importing dien_jax.utils does not import it

    if jax.config.values["jax_compilation_cache_dir"] is None:
        try:
            lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
            features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
        except OSError:
            features = platform.processor()
        kind = f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:8]}"
        try:
            folder = user_cache() / "compiled" / kind
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except UserError:
            return
        except OSError as error:
            say(f"compiled programs are not kept: {folder} cannot be written: {error.strerror}")
            return
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)
        _replace_damaged(folder)


def _replace_damaged(folder: Path) -> None:
    """Let JAX write programs anew that it cannot read, in place of warning of them.

    A process that was killed as it wrote one, or a full disk, leaves a part of it. JAX does not
    write over it: every later process would warn, and compile the program. Programs of the same
    name go with it, as JAX says no more; they are compiled again.
    """
    show = warnings.showwarning

    def remove(message: Warning | str, *rest: Any, **more: Any) -> None:
        damaged = _DAMAGED.match(str(message))
        if damaged is None:
            show(message, *rest, **more)
            return
        for file in folder.glob(f"{glob.escape(damaged['name'])}-*-cache"):
            with contextlib.suppress(OSError):
                file.unlink()

    warnings.showwarning = remove


_forked_from: list[int] = []
"""The process that this one was forked from after JAX had started there."""


def _note_fork() -> None:
    bridge = sys.modules.get("jax._src.xla_bridge")
    if bridge is not None and bridge.backends_are_initialized():
        _forked_from[:] = [os.getppid()]


os.register_at_fork(after_in_child=_note_fork)


def require_usable_jax() -> None:
    """Refuse states of JAX in which a call would wait for ever, or parameters have another type.

    A process that was forked after JAX had started lacks its threads. In the mode of 64 bits a run
    could be read by no other process.

    >>> require_usable_jax()

    Raises:
      UserError: in a forked process, and when the mode is on.
    """
    import jax  # here, so that importing dien_jax.utils does not import it

    if _forked_from:
        problem = f"process {os.getpid()} was forked from process {_forked_from[0]}, without the"
        raise UserError(f"{problem} threads of JAX that run there: start processes by spawn")
    if jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        problem = "JAX computes in 64 bits (JAX_ENABLE_X64, or jax_enable_x64 of its configuration)"
        raise UserError(f"{problem}; expected 32 bits, which runs are trained and saved in")

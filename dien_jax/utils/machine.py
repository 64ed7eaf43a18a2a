"""Memory, threads and JAX settings of this process."""

import contextlib
import ctypes
import errno
import glob
import hashlib
import os
import platform
import re
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from threadpoolctl import threadpool_info

from dien_jax.errors import UserError, require_unforked

_OPTIONS = "ARENA_MAX MMAP_MAX_ MMAP_THRESHOLD_ TOP_PAD_ TRIM_THRESHOLD_"
GLIBC_VARIABLES = ("GLIBC_TUNABLES", *(f"MALLOC_{name}" for name in _OPTIONS.split()))
"""Environment variables that configure glibc's allocator."""

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # options of mallopt(3)
LEAST_SECONDS = 0.05  # programs that compile faster than this are not cached
_DAMAGED = re.compile(r"Error reading persistent compilation cache entry for '(?P<name>[^']+)'")
"""JAX's warning about a cached program that it cannot read, and compiles again."""


def keep_freed_memory() -> bool:
    """Keep memory that the process frees; return True if that could be set.

    XLA's CPU backend allocates the temporaries of a program at every call and frees them after it.
    glibc returns large blocks to the system, so each step has page faults on all of their pages.
    With this setting the pages stay: steps are faster, and the resident memory of the process stays
    at its peak. Call it before the first computation. Commands call it when they start; functions
    of the package never do, as it changes the allocator of the whole process.

    Nothing changes, and the result is False, if the C library is not glibc, or if the environment
    configures the allocator by ``GLIBC_TUNABLES`` or a ``MALLOC_...`` variable.

    >>> isinstance(keep_freed_memory(), bool)
    True
    """
    if any(name in os.environ for name in GLIBC_VARIABLES):
        return False
    try:
        library = ctypes.CDLL(None)
        mallopt = library.gnu_get_libc_version and library.mallopt
    except AttributeError:  # another C library
        return False
    # One arena: heaps of other threads cannot hold blocks over 64 MB, which would be mapped.
    settings = ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1))  # -1: never
    return all(mallopt(option, value) for option, value in settings)


def enable_compile_cache() -> None:
    """Keep compiled programs on disk, so that the next process loads them.

    A folder given by ``JAX_COMPILATION_CACHE_DIR`` is kept, and a cache turned off by
    ``JAX_ENABLE_COMPILATION_CACHE=false`` stays off. Each kind of processor has its own folder, as
    machines may share a home folder. Without a home folder there is no cache; if its folder cannot
    be written, there is none either, and a message says so. Commands call this when they start;
    functions of the package never do, as it changes JAX's configuration for the whole process.

    >>> enable_compile_cache()
    """
    import jax  # imported here: importing this module stays cheap

    from dien_jax.utils.console import say
    from dien_jax.utils.files import user_cache

    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
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
    """Delete cached programs that JAX cannot read, so that it writes them again; hide its warnings.

    A kill or a full disk during a write leaves an incomplete file, which JAX would never overwrite.
    All programs of the name in the warning are deleted, as it has no other detail.
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


def require_usable_jax() -> None:
    """Refuse states of JAX in which a call would hang, or parameters have another type.

    A process that was forked after JAX had started lacks its threads. Runs of a process in 64-bit
    mode could not be read by others. Both are a ``UserError``.
    """
    import jax  # imported here: importing this module stays cheap

    require_unforked()
    if jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        problem = "JAX computes in 64 bits (JAX_ENABLE_X64, or jax_enable_x64 of its configuration)"
        raise UserError(f"{problem}; expected 32 bits, which runs are trained and saved in")


def trim_memory() -> None:
    """Return freed memory to the system, if the C library is glibc."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def require_memory(needed: int, available: int | None, subject: str, advice: str) -> None:
    """Refuse work that needs more bytes than available, if known; ``subject`` is a plural."""
    if available is not None and needed > available:
        more = f"more than the {available / 1e9:,.1f} GB of memory"
        raise UserError(f"{subject} take at least {needed / 1e9:,.1f} GB, {more}; {advice}")


T = TypeVar("T")
U = TypeVar("U")


def thread_count() -> int:
    """Return the number of threads for shared work: that of NumPy's matrix products."""
    of_blas = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
    if of_blas:
        return max(of_blas)
    # Apple's library does not report it.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_in_order(
    function: Callable[[T], U],
    values: Iterable[T],
    threads: int,
    is_large: Callable[[T], bool] = lambda _: False,
    ahead: int = 0,
) -> Iterator[U]:
    """Yield the results of a function for each value, in the order of the values.

    Threads are at most ``threads`` values ahead, or ``ahead`` if that is more, and a large value is
    processed alone: this bounds the memory of values and results. One thread that need not be ahead
    is the caller's.

    >>> list(map_in_order(lambda n: n * n, range(4), threads=2))
    [0, 1, 4, 9]
    """
    most = max(threads, ahead)
    if most == 1:
        yield from map(function, values)
        return
    pending: deque[Future[U]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        room = most
        for value in values:
            is_alone = is_large(value)
            while len(pending) >= (1 if is_alone else room):
                yield pending.popleft().result()
            pending.append(pool.submit(function, value))
            room = 1 if is_alone else most
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)

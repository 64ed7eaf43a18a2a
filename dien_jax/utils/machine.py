"""Memory, threads and JAX settings of this process: what it keeps, and shared work."""

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
"""Variables by which a user sets glibc's allocator."""

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # options of mallopt(3)
LEAST_SECONDS = 0.05  # programs that compile faster than this are not cached
_DAMAGED = re.compile(r"Error reading persistent compilation cache entry for '(?P<name>[^']+)'")
"""JAX's warning of a program that it cannot read, and compiles again."""


def keep_freed_memory() -> bool:
    """Keep memory that the process frees; return True if that could be set.

    XLA's CPU backend allocates the temporaries of a program at every call and frees them after it,
    and glibc gives large blocks back to the system, so that each step touches all of their pages
    for the first time. With this setting the pages stay: steps are faster, and the resident memory
    of the process stays at its peak. Call it before the first computation; commands do when they
    start, functions of the package never, as it changes the allocator of the whole process.

    Nothing changes, and the result is False, where the C library is not glibc, and where the
    environment sets the allocator: ``GLIBC_TUNABLES`` or a ``MALLOC_...`` variable.

    >>> isinstance(keep_freed_memory(), bool)
    True
    """
    if any(name in os.environ for name in GLIBC_VARIABLES):
        return False
    try:
        library = ctypes.CDLL(None)
        mallopt = library.gnu_get_libc_version and library.mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or a system without dlopen
        return False
    # One arena: heaps of other threads hold no block over 64 MB, which would be mapped after all.
    settings = ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1))  # -1: never
    return all(mallopt(option, value) for option, value in settings)


def enable_compile_cache() -> None:
    """Keep compiled programs on disk, so that the next process loads them.

    A folder given by ``JAX_COMPILATION_CACHE_DIR`` is kept, and a cache turned off by
    ``JAX_ENABLE_COMPILATION_CACHE=false`` stays off. Each kind of processor has its own folder, as
    machines may share a home folder. A user without a home folder has no cache, nor has one whose
    cache folder cannot be written, and is told. Commands call this when they start, functions of
    the package never: it changes the configuration of JAX for the whole process.

    >>> enable_compile_cache()
    """
    import jax  # here, as importing this module is cheap otherwise

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
    """Let JAX write programs anew that it cannot read, in place of warning of them.

    A process that was killed as it wrote one, or a full disk, leaves a part of it, which JAX does
    not write over. Programs of the same name go with it, as JAX says no more.
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
    """Refuse states of JAX in which a call would wait for ever, or parameters have another type.

    A process that was forked after JAX had started lacks its threads. In the mode of 64 bits a run
    could be read by no other process. Both are a ``UserError``.
    """
    import jax  # here, as importing this module is cheap otherwise

    require_unforked()
    if jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        problem = "JAX computes in 64 bits (JAX_ENABLE_X64, or jax_enable_x64 of its configuration)"
        raise UserError(f"{problem}; expected 32 bits, which runs are trained and saved in")


def trim_memory() -> None:
    """Give freed memory back to the system, where the C library is glibc."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def machine_bytes() -> int | None:
    """Return the memory of this machine in bytes; None where it is unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def require_memory(needed: int, available: int | None, subject: str, advice: str) -> None:
    """Refuse work of ``subject``, a plural, that needs more bytes than are known to be there."""
    if available is not None and needed > available:
        more = f"more than the {available / 1e9:,.1f} GB of memory"
        raise UserError(f"{subject} take at least {needed / 1e9:,.1f} GB, {more}; {advice}")


T = TypeVar("T")
U = TypeVar("U")


def thread_count() -> int:
    """Return how many threads NumPy's matrix products use, those that work is shared by."""
    of_blas = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
    if of_blas:
        return max(of_blas)
    # Apple's library does not tell.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_in_order(
    function: Callable[[T], U],
    values: Iterable[T],
    threads: int,
    is_large: Callable[[T], bool] = lambda _: False,
) -> Iterator[U]:
    """Yield what a function returns for each value, in the order of the values.

    Threads are at most ``threads`` values ahead, and a large value is worked at alone: this bounds
    the memory that values and results take.

    >>> list(map_in_order(lambda n: n * n, range(4), threads=2))
    [0, 1, 4, 9]
    """
    if threads == 1:
        yield from map(function, values)
        return
    pending: deque[Future[U]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            room = threads
            for value in values:
                is_alone = is_large(value)
                while len(pending) >= (1 if is_alone else room):
                    yield pending.popleft().result()
                pending.append(pool.submit(function, value))
                room = 1 if is_alone else threads
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()

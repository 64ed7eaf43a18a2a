"""Memory and threads of this process: what it keeps, what is too large, and shared work.

NumPy's loops let other threads run.
"""

import contextlib
import ctypes
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import threadpool_info

from dien_jax.errors import UserError

GLIBC_VARIABLES = (
    "GLIBC_TUNABLES",
    "MALLOC_ARENA_MAX",
    "MALLOC_MMAP_MAX_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "MALLOC_TRIM_THRESHOLD_",
)
"""Variables by which a user sets glibc's allocator."""

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # options of mallopt(3)
_NEVER = -1


def keep_freed_memory() -> bool:
    """Keep memory that the process frees; return True if that could be set.

    XLA's CPU backend allocates the temporaries of a program at every call and frees them after it.
    The allocator of glibc takes large blocks from the system and gives them back, so that each
    training step touches all of their pages for the first time. With this setting the pages stay:
    steps are faster, and the resident memory of the process stays at its peak.

    The commands call this when they start. Functions of the package never do: it changes the
    allocator of the whole process. Call it before the first computation.

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
    settings = ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER))
    return all(mallopt(option, value) for option, value in settings)


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
    """Refuse work whose least memory, in bytes, is more than there is.

    Args:
      needed: an estimate that the work cannot stay below.
      available: the memory; None where it is unknown, and nothing is refused.
      subject: what takes the memory, in the plural, with the settings that decide it.
      advice: the remedy.

    Raises:
      UserError: with both sizes.
    """
    if available is not None and needed > available:
        raise UserError(
            f"{subject} take at least {needed / 1e9:,.1f} GB, "
            f"more than the {available / 1e9:,.1f} GB of memory; {advice}"
        )


T = TypeVar("T")
U = TypeVar("U")


def thread_count() -> int:
    """Return how many threads NumPy's matrix products use, those that work is shared by.

    They are as many as the processors of this process, unless the environment sets fewer, as with
    ``OPENBLAS_NUM_THREADS``.
    """
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

    Threads are no further ahead than ``threads`` values, and a large value is worked at while no
    other one is: this bounds the memory that values and results take.

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


Progress = Callable[[float], None]
"""Called with the share of some work that is done, from 0 to 1."""


def unseen(_share: float) -> None:
    """Show no progress."""


def part_of_progress(progress: Progress, done: int, own: int, whole: int) -> Progress:
    """Return the progress of a part of some work.

    Args:
      progress: that of all work.
      done: units of work before the part.
      own: units of the part.
      whole: units of all work.

    >>> part_of_progress(print, 1, 2, 4)(0.5)
    0.5
    """
    return lambda share: progress((done + own * share) / whole)

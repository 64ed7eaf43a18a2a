"""Work shared by threads, and its progress; NumPy's loops let other threads run."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import threadpool_info

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

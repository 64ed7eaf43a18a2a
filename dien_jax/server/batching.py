"""A bounded queue, and the one thread that works it off in batches.

Requests that came while a batch was computed are the next one: nothing waits for company, and the
busier the server, the larger its batches. The order is that of arrival.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from dien_jax.errors import UserError
from dien_jax.inference.requests import RankRequest
from dien_jax.server.prometheus import Figures

LOG = logging.getLogger("dien_jax.serve")


class QueueFullError(Exception):
    """As many wait as may.

    Attributes:
      retry_after: whole seconds, by when those who wait will have been served.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"the queue is full; try again in {retry_after} s")
        self.retry_after = retry_after


@dataclass
class _Job:
    """Something to rank, or else to call."""

    request: RankRequest | None
    call: Callable[[], Any] | None
    future: Future = field(default_factory=Future)
    arrived: float = field(default_factory=time.perf_counter)


class Batcher:
    """Ranks and calls in a thread of its own, in the order of arrival.

    Args:
      rank: of several requests; gives as many outcomes, exceptions among them.
      capacity: requests that may wait.
      most: requests in one batch.
      figures: where it is counted.
    """

    def __init__(
        self,
        rank: Callable[[Sequence[RankRequest]], Sequence[Any]],
        *,
        capacity: int,
        most: int,
        figures: Figures,
    ) -> None:
        self._rank, self._capacity, self._most, self._figures = rank, capacity, most, figures
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._seconds = 0.0  # that a request takes, lately
        figures.queue_depth.set_function(lambda: len(self._jobs))
        self._thread = threading.Thread(target=self._work, name="ranking", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread is there."""
        return self._thread.is_alive()

    def rank(self, request: RankRequest) -> Future:
        """The outcome of a request, later.

        Raises:
          QueueFullError: when too many wait.
        """
        return self._put(_Job(request, None), bounded=True)

    def call(self, call: Callable[[], Any], *, bounded: bool = True) -> Future:
        """What ``call()`` gives, later, once all that came before is done.

        Raises:
          QueueFullError: when too many wait, unless not ``bounded``.
        """
        return self._put(_Job(None, call), bounded=bounded)

    def close(self) -> None:
        """Ends the thread, once all that waits is done."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _put(self, job: _Job, *, bounded: bool) -> Future:
        with self._changed:
            if bounded and len(self._jobs) >= self._capacity:
                raise QueueFullError(max(math.ceil(len(self._jobs) * self._seconds), 1))
            self._jobs.append(job)
            self._changed.notify()
        return job.future

    def _take(self) -> list[_Job]:
        """The next job, with those behind it that can be ranked together; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            taken: list[_Job] = []
            while self._jobs and len(taken) < self._most:
                if taken and (taken[0].call or self._jobs[0].call):
                    break
                taken.append(self._jobs.popleft())
            return taken

    def _work(self) -> None:
        while jobs := self._take():
            start = time.perf_counter()
            jobs = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            for job in jobs:
                self._figures.queue_seconds.observe(start - job.arrived)
            if not jobs:
                continue
            outcomes = self._outcomes(jobs)
            for job, outcome in zip(jobs, outcomes, strict=True):
                if isinstance(outcome, Exception):
                    job.future.set_exception(outcome)
                else:
                    job.future.set_result(outcome)
            taken = (time.perf_counter() - start) / len(jobs)
            self._seconds += (taken - self._seconds) / 10

    def _outcomes(self, jobs: Sequence[_Job]) -> Sequence[Any]:
        try:
            if jobs[0].call:
                return [jobs[0].call()]
            self._figures.batch_size.observe(len(jobs))
            with self._figures.batch_seconds.time():
                return self._rank([job.request for job in jobs if job.request])
        except UserError as error:
            return [error] * len(jobs)
        except Exception as error:
            if len(jobs) > 1:  # only the one that fails shall
                return [outcome for job in jobs for outcome in self._outcomes([job])]
            LOG.exception("ranking failed")
            return [error]

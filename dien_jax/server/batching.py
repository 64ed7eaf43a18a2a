"""A bounded queue, the thread that ranks its requests in batches, and the metrics of a server.

All requests that arrived while a batch was computed form the next one, so no request waits for
others, and batches grow with the load. Requests are processed in the order of arrival. Metrics are
in the format of Prometheus.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import prometheus_client

from dien_jax.errors import UserError
from dien_jax.inference.bucketed_programs import RankRequest
from dien_jax.server.options import ServerOptions

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Upper bounds of the histograms of times."""


class Metrics:
    """Counters, gauges and histograms of one server, all named ``dien_...``."""

    def __init__(self) -> None:
        self._registry = registry = prometheus_client.CollectorRegistry()
        prometheus_client.ProcessCollector(registry=registry)
        counter = partial(prometheus_client.Counter, registry=registry)
        gauge = partial(prometheus_client.Gauge, registry=registry)
        histogram = partial(prometheus_client.Histogram, registry=registry)
        seconds = partial(histogram, buckets=SECONDS)
        self.requests = counter("dien_requests", "Requests answered.", ("path", "status"))
        self.request_seconds = seconds(
            "dien_request_seconds", "Time from request headers to complete response.", ("path",)
        )
        self.queue_seconds = seconds("dien_queue_seconds", "Time of requests in the queue.")
        self.batch_seconds = seconds("dien_batch_seconds", "Time to rank a batch.")
        self.batch_size = histogram(
            "dien_batch_size", "Requests ranked in one batch.", buckets=(1, 2, 4, 8, 16, 32, 64)
        )
        self.queue_depth = gauge("dien_queue_depth", "Requests waiting in the queue.")
        self.candidates = counter("dien_candidates", "Candidates ranked.")
        self.unknown = counter("dien_unknown_ids", "Unknown ids and values.", ("kind",))
        self.remembered = gauge("dien_remembered_users", "Remembered users.")
        self.reloads = counter("dien_reloads", "Reloads of the model.", ("result",))
        self.step = gauge("dien_checkpoint_step", "Training step of the checkpoint in use.")
        self.ready = gauge("dien_ready", "1 if the server is ready to rank, else 0.")
        for kind in ("history", "candidate", "context"):
            self.unknown.labels(kind)
        for result in ("ok", "failed"):
            self.reloads.labels(result)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return prometheus_client.generate_latest(self._registry)


LOG = logging.getLogger(__name__)


class QueueFullError(Exception):
    """The queue is full; its requests should be answered after ``retry_after`` whole seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"the queue is full; try again in {retry_after} s")
        self.retry_after = retry_after


@dataclass
class _Job:
    work: RankRequest | Callable[[], Any]
    future: Future = field(default_factory=Future)
    arrived: float = field(default_factory=time.perf_counter)


class Batcher:
    """Rank requests and call functions in a separate thread, in the order of arrival.

    ``rank`` takes several requests and returns a result or an exception for each.
    """

    def __init__(
        self,
        rank: Callable[[Sequence[RankRequest]], Sequence[Any]],
        metrics: Metrics,
        options: ServerOptions,
    ) -> None:
        self._rank, self._metrics, self._options = rank, metrics, options
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._seconds = 0.0  # per request, a moving average
        metrics.queue_depth.set_function(lambda: len(self._jobs))
        self._thread = threading.Thread(target=self._work, name="ranking", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """True while the thread runs."""
        return self._thread.is_alive()

    def submit(self, work: RankRequest | Callable[[], Any], *, bounded: bool = True) -> Future:
        """Return the future result, or raise QueueFullError if ``bounded`` and too many wait."""
        job = _Job(work)
        with self._changed:
            if bounded and len(self._jobs) >= self._options.queue:
                raise QueueFullError(max(math.ceil(len(self._jobs) * self._seconds), 1))
            self._jobs.append(job)
            self._changed.notify()
        return job.future

    def close(self) -> None:
        """Finish all waiting jobs, then stop the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _take(self) -> list[_Job]:
        """Wait for the next batch, a function or up to ``max_batch`` requests; empty at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            batch: list[_Job] = []
            while self._jobs and len(batch) < self._options.max_batch:
                if batch and (callable(batch[0].work) or callable(self._jobs[0].work)):
                    break
                batch.append(self._jobs.popleft())
            return batch

    def _work(self) -> None:
        while jobs := self._take():
            start = time.perf_counter()
            jobs = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            for job in jobs:
                self._metrics.queue_seconds.observe(start - job.arrived)
            if not jobs:
                continue
            outcomes = self._outcomes(jobs)
            for job, outcome in zip(jobs, outcomes, strict=True):
                if isinstance(outcome, Exception):
                    job.future.set_exception(outcome)
                else:
                    job.future.set_result(outcome)
            seconds = (time.perf_counter() - start) / len(jobs)
            self._seconds += (seconds - self._seconds) / 10

    def _outcomes(self, jobs: Sequence[_Job]) -> Sequence[Any]:
        try:
            if callable(jobs[0].work):
                return [jobs[0].work()]
            self._metrics.batch_size.observe(len(jobs))
            with self._metrics.batch_seconds.time():
                return self._rank([job.work for job in jobs if not callable(job.work)])
        except UserError as error:
            return [error] * len(jobs)
        except Exception as error:
            if len(jobs) > 1:  # find the request that fails, and answer the others
                return [outcome for job in jobs for outcome in self._outcomes([job])]
            LOG.exception("ranking failed")
            return [error]

"""The model in use, the thread that ranks with it in batches, and the thread that replaces it.

All requests that arrive while a batch is computed form the next one. So no request waits for a
batch to fill, and batches grow with the load. A newer checkpoint replaces the model between two.
"""

import contextlib
import itertools
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import msgspec
import prometheus_client
from starlette.exceptions import HTTPException

from dien_jax.data.schema import listed
from dien_jax.errors import UserError, encodable, reading
from dien_jax.inference.bucketed_programs import RankRequest
from dien_jax.inference.lists import Ranking
from dien_jax.inference.ranker import Ranker
from dien_jax.runs.calibration import CALIBRATION_FILE
from dien_jax.runs.checkpoints import Checkpoints
from dien_jax.runs.folder import CHECKPOINTS_FOLDER, CONFIG_FILE, Run
from dien_jax.runs.list_weights import WEIGHTS_FILE
from dien_jax.server.messages import Ranked, Remembered, request_decoders, utc_text
from dien_jax.server.run import MODEL_THREAD, ServerOptions
from dien_jax.utils.console import stage

LOG = logging.getLogger(__name__)
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Bucket bounds of the time histograms."""


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
        self.written = gauge(
            "dien_model_written_seconds", "Unix time at which the model in use was written."
        )
        self.ready = gauge("dien_ready", "1 if the server is ready to rank, else 0.")
        for kind in ("history", "candidate", "value"):
            self.unknown.labels(kind)
        for result in ("ok", "failed"):
            self.reloads.labels(result)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return prometheus_client.generate_latest(self._registry)


@dataclass
class _Job:
    work: RankRequest | Callable[[], Any]
    future: Future = field(default_factory=Future)
    arrived: float = field(default_factory=time.perf_counter)


class Batcher:
    """A thread that ranks requests in batches and calls functions, in the order of arrival."""

    def __init__(
        self,
        rank: Callable[[Sequence[RankRequest]], Sequence[Any]],
        metrics: Metrics,
        options: ServerOptions,
    ) -> None:
        self._rank, self._metrics, self._options = rank, metrics, options
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._seconds = 0.0  # per request, a moving average
        metrics.queue_depth.set_function(self._jobs.qsize)
        self._thread = threading.Thread(target=self._work, name="ranking", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """True while the thread runs."""
        return self._thread.is_alive()

    def submit(self, work: RankRequest | Callable[[], Any], *, bounded: bool = True) -> Future:
        """Queue work and return its future; status 429 if ``bounded`` and the queue is full."""
        if bounded and (waiting := self._jobs.qsize()) >= self._options.queue:
            seconds = max(math.ceil(waiting * self._seconds), 1)
            problem = f"the queue is full; try again in {seconds} s"
            raise HTTPException(429, problem, {"Retry-After": str(seconds)})
        job = _Job(work)
        self._jobs.put(job)
        return job.future

    def close(self) -> None:
        """Finish all waiting jobs, then stop the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        jobs: list[_Job | None] = []
        while None not in jobs:  # which close() puts last
            jobs = [self._jobs.get()]
            while len(jobs) < self._options.max_batch and not self._jobs.empty():
                jobs.append(self._jobs.get())
            running = [job for job in jobs if job and job.future.set_running_or_notify_cancel()]
            for _, group in itertools.groupby(running, lambda j: id(j) if callable(j.work) else 0):
                self._answer(list(group))

    def _answer(self, jobs: list[_Job]) -> None:
        """Answer one call, or a batch of requests."""
        start = time.perf_counter()
        for job in jobs:
            self._metrics.queue_seconds.observe(start - job.arrived)
        for job, outcome in zip(jobs, self._outcomes(jobs), strict=True):
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


class ModelVersion(NamedTuple):
    """Names and times of a model's files, which differ for another model.

    ``model`` is the name of its folder or file, with links resolved; ``times`` are modification
    times in nanoseconds, of its checkpoint or file ``name``, then of the other files of a run.
    """

    model: str
    name: str
    times: tuple[int, ...]

    @property
    def written(self) -> float:
        """Unix time at which the checkpoint or file was written."""
        return self.times[0] / 1e9


class ServedModel(NamedTuple):
    """A ranker, the version of its files, and the decoders of its requests."""

    ranker: Ranker
    version: ModelVersion
    decoders: dict[str, msgspec.json.Decoder]

    def __str__(self) -> str:
        version = self.version
        where = f"checkpoint {self.ranker.step} of {version.model}"
        return f"{where}, written {utc_text(version.written)}"

    def forms(self) -> tuple[str, set[str]]:
        """Return the features that requests give, and the item features of their at_most."""
        schema = self.ranker.schema
        request, event = (
            listed(sorted(features, key=lambda feature: feature.name))
            for features in (schema.request, schema.event)
        )
        given = f"{request}, of events {event}" if schema.event else request
        return given, {f.name for f in schema.item[1:] if f.kind == "categorical"}


def model_version(path: Path) -> ModelVersion:
    """Return the version of the model at a path: names and modification times of its files."""

    def of_files(*files: Path) -> ModelVersion:
        with reading(path):
            times = tuple(file.stat().st_mtime_ns for file in files)
            return ModelVersion(encodable(Path(os.path.realpath(path)).name), files[0].name, times)

    def of_run() -> ModelVersion:
        if (best := checkpoints.best_path()) is None:
            raise UserError(f"{path} has no evaluated checkpoint yet")
        fitted = (path / name for name in (CALIBRATION_FILE, WEIGHTS_FILE))
        return of_files(best, path / CONFIG_FILE, *(file for file in fitted if file.exists()))

    if not path.is_dir():
        return of_files(path)
    Run.load(path)
    checkpoints = Checkpoints(path / CHECKPOINTS_FOLDER, read_only=True)
    return checkpoints.settled(of_run)


class CurrentModel:
    """The model in use, ``served``. A thread warms it up, and replaces it by newer ones.

    ``warm`` is True once requests can be ranked. ``reload_error`` is the error of the last reload,
    if it failed. The thread of the batcher calls ``rank``, ``recommend`` and ``change_user``.
    """

    def __init__(self, options: ServerOptions, metrics: Metrics) -> None:
        self._options, self._metrics = options, metrics
        self._wake = threading.Event()
        self._stopped = False
        self._failed_version: ModelVersion | str | None = None
        self.reload_error: str | None = None
        self.warm = False
        self._use(self._load(model_version(options.run)))
        metrics.remembered.set_function(lambda: self.served.ranker.remembered_users)

    def _use(self, model: ServedModel) -> None:
        self.served = model
        self._metrics.step.set(model.ranker.step)
        self._metrics.written.set(model.version.written)

    @property
    def state(self) -> str:
        """State in one word. Send new requests only to a server that is "ready"."""
        return "stopping" if self._stopped else "ready" if self.warm else "compiling"

    def rank(self, requests: Sequence[RankRequest]) -> list[Ranked | UserError]:
        """Rank a batch; return a response or an error for each request."""
        ranker = self.served.ranker
        return [
            outcome if isinstance(outcome, UserError) else self._answer(outcome, ranker.step)
            for outcome in ranker.rank_many(requests)
        ]

    def recommend(self, fields: dict[str, Any]) -> Ranked:
        """List the next items of a user."""
        ranker = self.served.ranker
        return self._answer(ranker.recommend(**fields), ranker.step)

    def _answer(self, ranking: Ranking, step: int) -> Ranked:
        unknown = ranking[2:]
        self._metrics.candidates.inc(len(ranking.ids))
        for kind, count in zip(("history", "candidate", "value"), unknown, strict=True):
            self._metrics.unknown.labels(kind).inc(count)
        return Ranked([*map(encodable, ranking.ids)], ranking.scores.tolist(), *unknown, step)

    def change_user(self, method: str, fields: dict[str, Any]) -> Remembered:
        """Remember a user's history, or append an event to it."""
        ranker = self.served.ranker
        getattr(ranker, method)(**fields)
        return Remembered(str(fields["user"]), ranker.remembered_users)

    def start(
        self, batcher: Batcher, ready: Callable[[], None], failed: Callable[[BaseException], None]
    ) -> threading.Thread:
        """Start the thread that warms the model up, reports that, and polls for newer models."""

        def is_warm() -> None:
            self.warm = True
            self._metrics.ready.set(not self._stopped)
            ready()

        def work() -> None:
            try:
                self._warm_up(self.served, is_warm)
            except CancelledError:  # the server stops during the warm-up
                return
            except BaseException as error:
                failed(error)
                return
            while not self._stopped:
                requested = self._wake.wait(self._options.poll_seconds or None)
                self._wake.clear()
                if not self._stopped:
                    self.update(batcher, force=requested)

        thread = threading.Thread(target=work, name=MODEL_THREAD, daemon=True)
        thread.start()
        return thread

    def request_reload(self) -> None:
        """Make the thread reload the model, even if its version is the same."""
        self._wake.set()

    def stop(self) -> None:
        """Report the server as not ready and stop the thread; requests are still ranked."""
        self._stopped = True
        self._metrics.ready.set(0)
        self._wake.set()

    def update(self, batcher: Batcher, *, force: bool = False) -> bool:
        """Replace the model if it has changed, or if ``force``; log each failure once."""
        version = None
        try:
            version = model_version(self._options.run)
            if not force and version == self.served.version:
                self._failed_version = self.reload_error = None
                return False
            newer = self._load(version, again=not force and version == self._failed_version)
            (old, limited), (new, limits) = self.served.forms(), newer.forms()
            lost, problem, changes = ", ".join(sorted(limited - limits)), "", ""
            if lost:
                problem = f"at_most of requests may name {lost}, which is no category any more"
                changes = f"; no category {lost}"
            if old != new:
                problem = f"requests have the features {old}; the new model expects {new}"
                changes = f"; request features {new}, before {old}{changes}"
            if problem and not self._options.accept_other_features:  # clients would get 422
                raise UserError(
                    f"{problem}. Start a new server for it, or give --accept-other-features to "
                    f"replace the model all the same"
                )
            before, now = (model.ranker.vocabularies.items for model in (self.served, newer))
            if before != now:
                changes += f"; other items: {len(now) - 1:,}, before {len(before) - 1:,}"
            self._warm_up(newer)

            def replace() -> None:
                newer.ranker.adopt(self.served.ranker)
                self._use(newer)

            batcher.submit(replace, bounded=False).result()
        except CancelledError:
            return False
        except Exception as error:
            self._metrics.reloads.labels("failed").inc()
            failed_version = version or str(error)
            if failed_version != self._failed_version:
                traceback = None if isinstance(error, UserError) else error
                LOG.error("reload failed, model kept: %s", error, exc_info=traceback)
            self._failed_version, self.reload_error = failed_version, str(error)
            return False
        self._failed_version = self.reload_error = None
        self._metrics.reloads.labels("ok").inc()
        LOG.info("reloaded: %s, is in use%s", newer, changes)
        return True

    def _load(self, version: ModelVersion, *, again: bool = False) -> ServedModel:
        """Load the model; print that, unless a poll tries a failed version ``again``."""
        options = self._options
        with contextlib.nullcontext() if again else stage(f"loading {options.run}"):
            ranker = Ranker(
                options.run, options.data, max_users=options.max_users, separator=options.separator
            )
            now = model_version(options.run)
        if (now.model, now.times[1:]) != (version.model, version.times[1:]):
            return self._load(now, again=again)  # its parts may be of two runs
        return ServedModel(ranker, version, request_decoders(ranker.schema, options))

    def _warm_up(self, model: ServedModel, ready: Callable[[], None] = lambda: None) -> None:
        with stage("compiling for all request sizes") as current:

            def progress(share: float) -> None:
                current.share, current.note = share, f"{share:.0%}"
                if self._stopped:
                    raise CancelledError

            candidates = self._options.max_candidates
            model.ranker.warm_up(candidates, lists=True, progress=progress, ready=ready)

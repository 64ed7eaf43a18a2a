"""Hot reload: the model in use, and the thread that replaces it by a newer checkpoint."""

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from dien_jax.errors import UserError, reading
from dien_jax.inference.bucketed_programs import RankRequest
from dien_jax.inference.ranker import Ranker
from dien_jax.runs.calibration import CALIBRATION_FILE
from dien_jax.runs.checkpoints import Checkpoints
from dien_jax.runs.folder import CHECKPOINTS_FOLDER, CONFIG_FILE, Run
from dien_jax.server.batching import Batcher, Metrics
from dien_jax.server.messages import Ranked, Remembered, request_decoders
from dien_jax.server.options import MODEL_THREAD, ServerOptions
from dien_jax.utils.console import stage

LOG = logging.getLogger(__name__)


class _StoppedError(Exception):
    """The server stops during a warm-up."""


class ServedModel(NamedTuple):
    """A ranker, the version of its files, and the decoders of its requests."""

    ranker: Ranker
    version: str
    decoders: dict[str, msgspec.json.Decoder]


def model_version(path: Path) -> str:
    """Return a string that changes with the model at a path, from names and times of files."""
    files = [path]
    if not path.is_file():
        Run.load(path)
        best = Checkpoints(path / CHECKPOINTS_FOLDER, read_only=True).best_path()
        if best is None:
            raise UserError(f"{path} has no evaluated checkpoint yet")
        files = [best, path / CONFIG_FILE]
        files += [file] if (file := path / CALIBRATION_FILE).exists() else []
    times = []
    for file in files:
        with reading(file):
            times.append(file.stat().st_mtime_ns)
    return f"{files[0].name} {times}"


class CurrentModel:
    """The model in use. A thread warms it up and replaces it when there is a newer one.

    ``rank``, ``remember`` and ``observe`` are for the thread of the batcher.

    Attributes:
      served: the model in use; replaced as a whole.
      warm: True once all programs are compiled and requests are ranked.
    """

    def __init__(self, options: ServerOptions, metrics: Metrics) -> None:
        self._options, self._metrics = options, metrics
        self._wake = threading.Event()
        self._stopped = False
        self._failed_version = ""
        self.warm = False
        self.served = self._load(model_version(options.run))
        metrics.remembered.set_function(lambda: self.served.ranker.remembered_users)
        metrics.step.set(self.served.ranker.step)

    @property
    def ready(self) -> bool:
        """True if new requests should be sent to this server."""
        return self.warm and not self._stopped

    def rank(self, requests: Sequence[RankRequest]) -> list[Ranked | UserError]:
        """Rank a batch; return a response or an error for each request."""
        ranker = self.served.ranker
        responses: list[Ranked | UserError] = []
        for outcome in ranker.rank_many(requests):
            if isinstance(outcome, UserError):
                responses.append(outcome)
                continue
            unknown = outcome[2:]
            self._metrics.candidates.inc(len(outcome.ids))
            for kind, count in zip(("history", "candidate", "context"), unknown, strict=True):
                self._metrics.unknown.labels(kind).inc(count)
            responses.append(Ranked(outcome.ids, outcome.scores.tolist(), *unknown, ranker.step))
        return responses

    def remember(self, message: Any) -> Remembered:
        """Remember a user's history."""
        ranker = self.served.ranker
        ranker.remember(message.user, message.history)
        return Remembered(str(message.user), ranker.remembered_users)

    def observe(self, message: Any) -> Remembered:
        """Append an event to a remembered history."""
        ranker = self.served.ranker
        ranker.observe(message.user, message.event)
        return Remembered(str(message.user), ranker.remembered_users)

    def start(
        self, batcher: Batcher, ready: Callable[[], None], failed: Callable[[BaseException], None]
    ) -> threading.Thread:
        """Start the thread that warms the model up, calls ``ready``, and checks for newer models.

        The batcher replaces the model between two batches. ``failed`` takes the error of a failed
        warm-up.
        """

        def work() -> None:
            try:
                self._warm_up(self.served)
            except _StoppedError:
                return
            except BaseException as error:
                failed(error)
                return
            self.warm = True
            self._metrics.ready.set(1)
            ready()
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
        """Replace the model if there is a newer one, or ``force``; return whether it was replaced.

        A version that cannot be loaded is logged once, and the model in use is kept.
        """
        version = ""
        try:
            version = model_version(self._options.run)
            if not force and version == self.served.version:
                self._failed_version = ""
                return False
            newer = self._load(version)
            self._warm_up(newer)
            batcher.submit(lambda: self._replace(newer), bounded=False).result()
        except _StoppedError:
            return False
        except Exception as error:
            self._metrics.reloads.labels("failed").inc()
            failed_version = version or str(error)
            if failed_version != self._failed_version:
                traceback = None if isinstance(error, UserError) else error
                LOG.error("reload failed, model kept: %s", error, exc_info=traceback)
            self._failed_version = failed_version
            return False
        self._failed_version = ""
        self._metrics.reloads.labels("ok").inc()
        LOG.info("reloaded: checkpoint %s is in use", newer.ranker.step)
        return True

    def _load(self, version: str) -> ServedModel:
        options = self._options
        with stage(f"loading {options.run}"):
            ranker = Ranker(
                options.run,
                options.data,
                max_users=options.max_users,
                separator=options.separator,
            )
        return ServedModel(ranker, version, request_decoders(ranker.schema, options))

    def _warm_up(self, model: ServedModel) -> None:
        with stage("compiling for all request sizes") as current:

            def progress(share: float) -> None:
                current.share, current.note = share, f"{share:.0%}"
                if self._stopped:
                    raise _StoppedError

            options = self._options
            model.ranker.warm_up(options.max_batch, options.max_candidates, progress)
            progress(1.0)

    def _replace(self, newer: ServedModel) -> None:
        newer.ranker.adopt(self.served.ranker)
        self.served = newer
        self._metrics.step.set(newer.ranker.step)

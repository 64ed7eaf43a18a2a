"""The model that is served: loaded, warmed up, and replaced by a newer one without a pause."""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dien_jax.errors import UserError
from dien_jax.inference.ranker import Ranker
from dien_jax.inference.requests import RankRequest
from dien_jax.runs.checkpoints import Checkpoints
from dien_jax.runs.folder import CHECKPOINTS_FOLDER, CONFIG_FILE, Run
from dien_jax.server.batching import Batcher
from dien_jax.server.messages import Limits, Messages, Ranked, Remembered, messages
from dien_jax.server.prometheus import Figures
from dien_jax.utils.console import stage

LOG = logging.getLogger("dien_jax.serve")


class NotRememberedError(UserError):
    """Nothing is remembered of a user."""


class _EndedError(Exception):
    """The server ends, and a warm-up with it."""


@dataclass(frozen=True)
class Source:
    """Where models come from.

    Attributes:
      path: the run folder, or a file that ``python -m dien_jax.export`` wrote.
      data: the run's dataset folder, where that has moved.
      max_users: remembered users.
      separator: see :class:`dien_jax.Ranker`.
    """

    path: Path
    data: Path | None = None
    max_users: int = 1000
    separator: str = "|"

    def load(self) -> Ranker:
        """The model that is there now.

        Raises:
          UserError: when it cannot be read.
        """
        return Ranker(self.path, self.data, max_users=self.max_users, separator=self.separator)

    def version(self) -> str:
        """Tells that model from any other, without reading it.

        Raises:
          UserError: when it is not there.
        """
        files = [self.path]
        if not self.path.is_file():
            Run.load(self.path)
            best = Checkpoints(self.path / CHECKPOINTS_FOLDER, read_only=True).best_path()
            if best is None:
                raise UserError(f"{self.path} has no evaluated checkpoint yet")
            files = [best, self.path / CONFIG_FILE]
        try:
            times = [file.stat().st_mtime_ns for file in files]
        except OSError as error:
            raise UserError(f"{error.filename} cannot be read: {error.strerror}") from error
        return f"{files[0].name} {times}"


@dataclass(frozen=True)
class Model:
    """A loaded model.

    Attributes:
      ranker: it.
      version: what :meth:`Source.version` said before it was loaded.
      messages: the types of its requests.
    """

    ranker: Ranker
    version: str
    messages: Messages


class Models:
    """The current model, and the thread that warms it up and looks for a newer one.

    Args:
      source: where models come from.
      limits: of requests.
      most: requests in one batch.
      poll_seconds: between two looks; 0 looks only when :meth:`reload` is called.
      figures: where it is counted.

    Attributes:
      current: the model.
      warm: whether it is ranked with.

    Raises:
      UserError: when there is no model that can be read.
    """

    def __init__(
        self, source: Source, limits: Limits, most: int, poll_seconds: float, figures: Figures
    ) -> None:
        self._source, self._limits, self._most = source, limits, most
        self._poll_seconds, self._figures = poll_seconds, figures
        self._wanted = threading.Event()
        self._ended = False
        self._complaint = ""
        self.warm = False
        self.current = self._load()
        figures.remembered.set_function(lambda: self.current.ranker.remembered_users)
        figures.step.set(self.current.ranker.step)

    def rank(self, requests: Sequence[RankRequest]) -> list[Ranked | UserError]:
        """Outcomes for the batcher."""
        ranker = self.current.ranker
        outcomes: list[Ranked | UserError] = []
        unknown, labels = Counter[str](), ("history", "candidate", "context")
        for request, outcome in zip(requests, ranker.rank_many(requests), strict=True):
            if isinstance(outcome, UserError):
                forgotten = request.history is None and request.user not in ranker
                outcomes.append(_not_remembered(request.user) if forgotten else outcome)
                continue
            unknown.update(dict(zip(labels, outcome[2:], strict=True)))
            self._figures.candidates.inc(len(outcome.ids))
            outcomes.append(Ranked(outcome.ids, outcome.scores.tolist(), *outcome[2:], ranker.step))
        for kind, count in unknown.items():
            self._figures.unknown.labels(kind).inc(count)
        return outcomes

    def remember(self, user: str | int, history: Sequence[str | int]) -> Remembered:
        """See :meth:`dien_jax.inference.ranker.Ranker.remember`; for the batcher's thread."""
        ranker = self.current.ranker
        ranker.remember(user, history)
        return Remembered(str(user), ranker.remembered_users)

    def observe(self, user: str | int, event: str | int) -> Remembered:
        """See :meth:`dien_jax.inference.ranker.Ranker.observe`; for the batcher's thread.

        Raises:
          NotRememberedError: of the user.
        """
        ranker = self.current.ranker
        if user not in ranker:
            raise _not_remembered(user)
        ranker.observe(user, event)
        return Remembered(str(user), ranker.remembered_users)

    def start(
        self,
        batcher: Batcher,
        ready: Callable[[], None],
        failed: Callable[[BaseException], None],
    ) -> threading.Thread:
        """Warms up, then looks for newer models, in a thread of its own.

        Args:
          batcher: in whose thread models change places, between two batches.
          ready: is called when requests are ranked.
          failed: is called with the error when the first model cannot be warmed up.
        """

        def work() -> None:
            try:
                self._warm(self.current)
            except _EndedError:
                return
            except BaseException as error:
                failed(error)
                return
            self.warm = True
            self._figures.ready.set(1)
            ready()
            while not self._ended:
                asked = self._wanted.wait(self._poll_seconds or None)
                self._wanted.clear()
                if not self._ended:
                    self.look(batcher, anyhow=asked)

        thread = threading.Thread(target=work, name="models", daemon=True)
        thread.start()
        return thread

    @property
    def ready(self) -> bool:
        """Whether requests should be sent here."""
        return self.warm and not self._ended

    def reload(self) -> None:
        """Has the model loaded anew, soon, whether or not it seems to be another."""
        self._wanted.set()

    def end(self) -> None:
        """No longer ready, and no more models looked for; requests are still ranked."""
        self._ended = True
        self._figures.ready.set(0)
        self._wanted.set()

    def look(self, batcher: Batcher, *, anyhow: bool = False) -> bool:
        """Replaces the model by a newer one, if there is one; says whether it did.

        What cannot be read leaves the model as it is, and is told once.
        """
        try:
            if not anyhow and self._source.version() == self.current.version:
                self._complaint = ""
                return False
            newer = self._load()
            self._warm(newer)
            batcher.call(lambda: self._replace(newer), bounded=False).result()
        except _EndedError:
            return False
        except Exception as error:
            self._figures.reloads.labels("failed").inc()
            if str(error) != self._complaint:
                known = isinstance(error, UserError)
                LOG.error("kept the model: %s", error, exc_info=None if known else error)
            self._complaint = str(error)
            return False
        self._complaint = ""
        self._figures.reloads.labels("ok").inc()
        LOG.info("checkpoint %s replaced the one before", newer.ranker.step)
        return True

    def _load(self) -> Model:
        version = self._source.version()
        with stage(f"loading {self._source.path}"):
            ranker = self._source.load()
        return Model(ranker, version, messages(ranker.schema, self._limits))

    def _warm(self, model: Model) -> None:
        with stage("compiling what requests may need") as current:

            def progress(share: float) -> None:
                current.share, current.note = share, f"{share:.0%}"
                if self._ended:
                    raise _EndedError

            limits = self._limits
            model.ranker.warm_up(self._most, limits.candidates, progress)
            progress(1.0)

    def _replace(self, newer: Model) -> None:
        newer.ranker.adopt(self.current.ranker)
        self.current = newer
        self._figures.step.set(newer.ranker.step)


def _not_remembered(user: str | int | None) -> NotRememberedError:
    return NotRememberedError(
        f"user {str(user)[:100]!r} is not remembered, or no longer: send the history, with the "
        f"request or to /v1/remember"
    )

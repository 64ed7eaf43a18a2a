"""The loggers of a run, and ``loggers.json`` of its folder, for a later resumption.

``loggers.json`` has the names of the loggers and, for those that keep runs elsewhere, the id of the
run there. A run with TensorBoard alone has no such file.
"""

import contextlib
import functools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from dien_jax.config.settings import DEFAULT_LOGGERS, LOGGERS, LoggerName
from dien_jax.errors import UserError, suggestion
from dien_jax.training.loggers.protocol import Logger
from dien_jax.training.loggers.tensorboard import TensorBoard
from dien_jax.training.loggers.trackers import TRACKERS, Background
from dien_jax.utils.console import say
from dien_jax.utils.files import read_json, write_json

LOGGERS_FILE = "loggers.json"


class _LoggersFile(TypedDict):
    """Form of ``loggers.json``."""

    loggers: list[LoggerName]
    runs: dict[str, str]


class Loggers:
    """The loggers of a run as one.

    Attributes:
      problems: lines to be said, of what a logger could not do.
    """

    def __init__(self, loggers: Sequence[Logger] = (), problems: deque[str] | None = None) -> None:
        self._loggers = loggers
        self.problems: deque[str] = deque() if problems is None else problems

    def begin(self, settings: Mapping[str, Any], restored_step: int) -> None:
        """See :class:`Logger`."""
        for logger in self._loggers:
            logger.begin(settings, restored_step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See :class:`Logger`."""
        for logger in self._loggers:
            logger.scalars(step, values)

    def histograms(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        """See :class:`Logger`."""
        for logger in self._loggers:
            logger.histograms(step, values)

    def finish(self, step: int, metrics: Mapping[str, float], files: Sequence[Path]) -> None:
        """See :class:`Logger`."""
        for logger in self._loggers:
            logger.finish(step, metrics, files)


@contextlib.contextmanager
def opened_loggers(folder: Path, names: Sequence[str] | None = None) -> Iterator[Loggers]:
    """Open the loggers of a run for a block.

    Args:
      folder: the run folder; it exists.
      names: the loggers; None for those that the run has, TensorBoard if it is new.

    Raises:
      UserError: for a name that is unknown, an extra that is not installed, a server that cannot be
        reached or does not have the run, and ``loggers.json`` that is damaged.
    """
    file = folder / LOGGERS_FILE
    known: _LoggersFile = {"loggers": list(DEFAULT_LOGGERS), "runs": {}}
    if file.exists():
        known = read_json(file, _LoggersFile)
    for name in names or ():
        if name not in LOGGERS:
            found = f"found {name!r}{suggestion(name, LOGGERS)}"
            raise UserError(f"loggers: expected some of {', '.join(LOGGERS)}; {found}")
    chosen = known["loggers"] if names is None else names
    now: _LoggersFile = {
        "loggers": [name for name in LOGGERS if name in chosen],
        "runs": dict(known["runs"]),
    }
    problems: deque[str] = deque()
    loggers: list[Logger] = []
    with contextlib.ExitStack() as stack:
        stack.callback(_say_all, problems)
        for name in now["loggers"]:
            loggers.append(_opened(name, folder, now["runs"], problems))
            stack.push(functools.partial(_close, loggers[-1]))
        if now != known:
            write_json(file, dict(now))
        yield Loggers(loggers, problems)


def _opened(name: LoggerName, folder: Path, runs: dict[str, str], problems: deque[str]) -> Logger:
    """Return a logger; ``runs`` gets the id of its run."""
    if name == "tensorboard":
        return TensorBoard(folder)
    title, tracker = TRACKERS[name]
    made = tracker(folder.absolute().name, runs.get(name))
    runs[name] = made.run_id
    return Background(title, made, problems)


def _close(logger: Logger, kind: object, error: BaseException | None, trace: object) -> None:
    logger.close(error)


def _say_all(lines: deque[str]) -> None:
    while lines:
        say(lines.popleft())

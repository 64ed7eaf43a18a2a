"""The loggers of a run: which they are, and ``loggers.json`` of its folder, for a later resumption.

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

from dien_jax.config.loggers import DEFAULT_LOGGERS, LOGGERS, LoggerName
from dien_jax.errors import UserError, suggestion
from dien_jax.training.loggers.mlflow import MLflow
from dien_jax.training.loggers.protocol import Logger
from dien_jax.training.loggers.tensorboard import TensorBoard
from dien_jax.training.loggers.wandb import WeightsAndBiases
from dien_jax.utils.console import say
from dien_jax.utils.files import read_json, write_json

LOGGERS_FILE = "loggers.json"
TRACKERS: dict[str, Any] = {"mlflow": MLflow, "wandb": WeightsAndBiases}
"""Loggers that keep runs elsewhere; they import their clients when they are made."""


class _LoggersFile(TypedDict):
    """Form of ``loggers.json``."""

    loggers: list[LoggerName]
    runs: dict[str, str]


class Loggers:
    """The loggers of a run as one, and what they could not do.

    Attributes:
      problems: lines to be said.
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
      UserError: for a name that is unknown or given twice, an extra that is not installed, a server
        that cannot be reached or does not have the run, and ``loggers.json`` that is damaged.
    """
    known = _read(folder)
    source = str(folder / LOGGERS_FILE) if names is None else "loggers"
    names = _checked(known["loggers"] if names is None else names, source)
    problems: deque[str] = deque()
    loggers, runs = [], dict(known["runs"])
    with contextlib.ExitStack() as stack:
        stack.callback(_say_all, problems)
        for name in names:
            logger = _opened(name, folder, runs, problems)
            stack.push(functools.partial(_close, logger))
            loggers.append(logger)
        now: _LoggersFile = {"loggers": names, "runs": runs}
        if now != known:
            write_json(folder / LOGGERS_FILE, dict(now))
        yield Loggers(loggers, problems)


def _read(folder: Path) -> _LoggersFile:
    file = folder / LOGGERS_FILE
    if not file.exists():
        return {"loggers": list(DEFAULT_LOGGERS), "runs": {}}
    return read_json(file, _LoggersFile)


def _checked(names: Sequence[str], source: str) -> list[LoggerName]:
    """Return names of different loggers; a :class:`UserError` for others."""
    for name in names:
        if name not in LOGGERS:
            expected = f"expected some of {', '.join(LOGGERS)}"
            raise UserError(f"{source}: {expected}; found {name!r}{suggestion(name, LOGGERS)}")
    if len({*names}) < len(names):
        raise UserError(f"{source}: expected different loggers, found {' '.join(names)}")
    return [name for name in LOGGERS if name in names]


def _opened(name: LoggerName, folder: Path, runs: dict[str, str], problems: deque[str]) -> Logger:
    """Return a logger; ``runs`` gets the id of its run."""
    if name == "tensorboard":
        return TensorBoard(folder)
    logger = TRACKERS[name](folder.absolute().name, runs.get(name), problems)
    runs[name] = logger.run_id
    return logger


def _close(logger: Logger, kind: object, error: BaseException | None, trace: object) -> None:
    logger.close(error)


def _say_all(lines: deque[str]) -> None:
    while lines:
        say(lines.popleft())

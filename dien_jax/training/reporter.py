"""Reports of a run: the console, ``metrics.jsonl`` and the loggers."""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dien_jax.metrics.scores import METRICS
from dien_jax.runs.folder import append_evaluation
from dien_jax.training.loggers import Logger
from dien_jax.training.progress import StepReport, losses_in_words
from dien_jax.utils.console import SECONDS_BETWEEN_LINES, ProgressLine, Stage

LEAST_REPORTS, REPORTS = 5, 32
"""Least and largest number of reports that estimate the time left; the first include compiling."""


class Reporter:
    """Reports of one run from its start, or its restored step, to its result.

    A process that leaves printing to process 0 has one too, without loggers.
    """

    def __init__(self, folder: Path, loggers: Sequence[Logger]) -> None:
        self._folder, self._loggers = folder, loggers
        self._line = ProgressLine()
        self._reports: deque[tuple[int, float]] = deque(maxlen=REPORTS)
        self._total_steps = 0
        self._scoring = Stage("scoring")

    def progress(self, report: StepReport) -> None:
        """Report a step between evaluations; the loggers get all its metrics."""
        step = report.step
        scalars = report.metrics | {"learning_rate": report.learning_rate}
        parts = [f"step {step:,} of {report.total_steps:,}", *losses_in_words(report.metrics)]
        if (speed := report.examples_per_second) is not None:
            scalars["examples_per_second"] = speed
            parts.append(f"{speed:,.0f} examples/s")
        self._log(step, {f"train/{name}": value for name, value in scalars.items()})
        if report.total_steps != self._total_steps:  # another part of the model: another speed
            self._total_steps = report.total_steps
            self._reports.clear()
        self._reports.append((step, time.monotonic()))
        if len(self._reports) >= LEAST_REPORTS:
            steps, times = np.array(self._reports).T
            # Compilations and evaluations are in the slower intervals.
            pace = float(np.quantile(np.diff(times) / np.maximum(np.diff(steps), 1), 0.25))
            left = round(pace * (report.total_steps - step))
            parts.append(f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left")
        self._line.update(", ".join(parts), step / report.total_steps)

    def scoring(self, split: str, examples: int, share: float) -> None:
        """Report the share of a split that is scored, 0 first; print it if this takes seconds."""
        if share == 0:
            self._scoring = Stage(f"scoring {examples:,} {split} examples")
        self._scoring.share = share
        passed = self._scoring.seconds()
        if passed >= SECONDS_BETWEEN_LINES:
            left = self._scoring.left(passed)
            self._line.update(f"{self._scoring}, {passed:.0f} s{left}", share)

    def evaluation(self, record: Mapping[str, Any]) -> None:
        """Report an evaluation; it is on disk when this returns.

        ``record`` has ``step``, ``epoch``, ``part``, and ``train`` and ``valid``: metrics by
        name, None where undefined. A number that is not finite is a ValueError.
        """
        append_evaluation(self._folder, record)
        metrics = record["valid"].items()
        found = {f"valid/{name}": value for name, value in metrics if isinstance(value, float)}
        self._log(record["step"], found)
        parts = [f"training {loss}" for loss in losses_in_words(record["train"])]
        parts += [
            f"validation {metric.label} {record['valid'][name]:.4f}"
            for name, metric in METRICS.items()
            if record["valid"].get(name) is not None
        ]
        of = ", counts alone" if record["part"] == "tower" else ""
        where = f"step {record['step']:,}, epoch {record['epoch']:.2f}{of}"
        self._line.say(f"{where}: {', '.join(parts)}")

    def note(self, line: str) -> None:
        self._line.say(line)

    def finish(self, step: int, metrics: Mapping[str, float | None], files: Sequence[Path]) -> None:
        """Report the metrics of the best checkpoint, and files of the run, to the loggers."""
        defined = {name: value for name, value in metrics.items() if value is not None}
        for logger in self._loggers:
            logger.finish(step, defined, files)

    def close(self) -> None:
        self._line.close()

    def _log(self, step: int, values: Mapping[str, float]) -> None:
        for logger in self._loggers:
            logger.scalars(step, values)

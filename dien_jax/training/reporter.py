"""Reports of a run: the console, ``metrics.jsonl`` and TensorBoard.

A run that resumes from a checkpoint takes back the reports of later steps.
"""

import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import histogram, hparams, scalar

from dien_jax.errors import writing
from dien_jax.metrics.scores import METRICS
from dien_jax.runs.evaluations import append_evaluation, cut_back
from dien_jax.training.progress import StepReport
from dien_jax.utils.console import SECONDS_BETWEEN_LINES, ProgressLine
from dien_jax.utils.files import atomic_path

TENSORBOARD_FOLDER = "tensorboard"
HPARAMS_FILE = "events.out.tfevents.9999999999.hparams"
"""Sorts after all other event files, whose names start with the second they were made in."""
HISTOGRAM_BINS = 64


class Reporter:
    """Reports of one run from its start, or its restored step, to :meth:`close`.

    tensorboardX's ``SummaryWriter`` is not used: it writes in a thread, so that ``flush`` may
    return before events are in the file, and an event that cannot be written ends that thread
    silently and then blocks training.

    Args:
      folder: the run folder.
      restored_step: step of the checkpoint that the run resumes from; 0 for a fresh run.
      evaluated_step: step of the last evaluation before that checkpoint was saved; later lines of
        ``metrics.jsonl`` are dropped.

    Raises:
      UserError: when the folder cannot be written, or ``metrics.jsonl`` is damaged.
    """

    def __init__(self, folder: Path, *, restored_step: int = 0, evaluated_step: int = 0) -> None:
        self._folder = folder
        self._line = ProgressLine()
        self._first: tuple[int, float] | None = None
        self._flushed_at = float("-inf")
        cut_back(folder, evaluated_step)
        board = folder / TENSORBOARD_FOLDER
        with writing(board):
            board.mkdir(parents=True, exist_ok=True)
            # TensorBoard reads files in order of their names, which start with the time.
            self._board = EventsWriter(str(board / "events"), f".{time.time_ns():020d}")
        if restored_step:  # TensorBoard drops earlier events from this step on
            self._event(restored_step + 1, session_log=SessionLog(status=SessionLog.START))

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def progress(self, report: StepReport) -> None:
        """Report a step between evaluations; all its metrics go to TensorBoard."""
        step = report.step
        scalars = report.metrics | {"learning_rate": report.learning_rate}
        if report.examples_per_second is not None:
            scalars["examples_per_second"] = report.examples_per_second
        for name, value in scalars.items():
            self._event(step, summary=scalar(f"train/{name}", value))
        now = time.monotonic()
        if self._first is None:
            self._first = (step, now)
        first_step, first_time = self._first
        line = str(report)
        if step > first_step:  # includes evaluations, but not the first compilation
            pace = (now - first_time) / (step - first_step)
            left = round(pace * (report.total_steps - step))
            line += f", {left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"
        self._line.update(line, step / report.total_steps)
        if now - self._flushed_at >= SECONDS_BETWEEN_LINES:
            self._flushed_at = now
            self._flush()

    def evaluation(self, record: Mapping[str, Any]) -> None:
        """Report an evaluation, which is on disk when this returns.

        ``record`` has ``step``, ``epoch``, and ``train`` and ``valid``: metrics by name, None where
        undefined. A number that is not finite is a ValueError.
        """
        append_evaluation(self._folder, record)
        for name, value in record["valid"].items():
            if isinstance(value, float):
                self._event(record["step"], summary=scalar(f"valid/{name}", value))
        self._flush()
        parts = [f"training loss {record['train']['loss']:.4f}"] if record["train"] else []
        parts += [
            f"validation {metric.label} {record['valid'][name]:.4f}"
            for name, metric in METRICS.items()
            if record["valid"].get(name) is not None
        ]
        self._line.say(f"step {record['step']:,}, epoch {record['epoch']:.2f}: {', '.join(parts)}")

    def histograms(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        """Report distributions of the finite values of arrays, by name."""
        for name, array in values.items():
            finite = array[np.isfinite(array)].astype(np.float64)
            if finite.size:
                self._event(step, summary=histogram(name, finite, HISTOGRAM_BINS))

    def close(self) -> None:
        """Remove the progress line and close the files."""
        self._line.close()
        with writing(self._folder / TENSORBOARD_FOLDER):
            self._board.close()

    def _event(self, step: int, **content: Any) -> None:
        with writing(self._folder / TENSORBOARD_FOLDER):
            self._board.write_event(Event(wall_time=time.time(), step=step, **content))

    def _flush(self) -> None:
        with writing(self._folder / TENSORBOARD_FOLDER):
            self._board.flush()


class NoReports:
    """The :class:`Reporter` of a process that leaves reports to process 0."""

    def __enter__(self) -> "NoReports":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def progress(self, report: StepReport) -> None:
        """Report nothing."""

    def evaluation(self, record: Mapping[str, Any]) -> None:
        """Report nothing."""

    def histograms(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        """Report nothing."""


def write_hparams(
    folder: Path, step: int, settings: Mapping[str, Any], metrics: Mapping[str, float | None]
) -> None:
    """Add a finished run to the rows of TensorBoard's HPARAMS tab.

    One file is replaced as a whole, so a run that is killed and ends twice has one row. A tuple
    among the settings becomes text; settings and metrics that are None are left out.
    """
    defined = {tag: value for tag, value in metrics.items() if value is not None}
    texts = {
        name: ",".join(map(str, value)) if isinstance(value, tuple) else value
        for name, value in settings.items()
    }
    summaries = [*hparams(texts, defined), *(scalar(tag, defined[tag]) for tag in defined)]
    now = time.time()
    events = [Event(wall_time=now, file_version="brain.Event:2")]
    events += [Event(wall_time=now, step=step, summary=summary) for summary in summaries]
    file = folder / TENSORBOARD_FOLDER / HPARAMS_FILE
    with writing(file), atomic_path(file) as path, closing(RecordWriter(str(path))) as writer:
        for event in events:
            writer.write(event.SerializeToString())

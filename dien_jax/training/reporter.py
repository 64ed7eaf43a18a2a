"""What a run tells: the console, ``metrics.jsonl``, TensorBoard and curves.

    RUN/metrics.jsonl    one JSON object per evaluation
    RUN/tensorboard/     scalars and histograms by step; settings and final metrics at the end
    RUN/curves.png       losses and AUC by step, where matplotlib is installed

Everything said goes to standard error. A run that goes on from a checkpoint takes back what was
told of the steps after it.
"""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import histogram, hparams, scalar

from dien_jax.metrics.scores import METRICS
from dien_jax.runs.evaluations import METRICS_FILE, _writing, cut_back
from dien_jax.utils.files import atomic_path

if TYPE_CHECKING:
    pass


TENSORBOARD_FOLDER = "tensorboard"


HPARAMS_FILE = "events.out.tfevents.9999999999.hparams"
"""A name after those of all other files, which start with the second they were made in."""

SECONDS_BETWEEN_LINES = 5.0
"""Least time between lines of progress where there is no terminal, and TensorBoard flushes."""

HISTOGRAM_BINS = 64

_PROGRESS_METRICS = {"loss": "loss", "auxiliary_loss": "auxiliary loss"}


@runtime_checkable
class Listener(Protocol):
    """Told now and then how training goes."""

    def progress(
        self,
        step: int,
        metrics: Mapping[str, float],
        *,
        examples_per_second: float | None,
        learning_rate: float,
    ) -> None:
        """See :meth:`Reporter.progress`."""


class Reporter:
    """Tells how one run goes, from its start, or its restored step, to :meth:`close`.

    A context manager. On a terminal a bar shows how far the run is; elsewhere a line says so
    every few seconds.

    Args:
      folder: the run folder.
      total_steps: steps at most.
      restored_step: step of the checkpoint that the run goes on from; 0 for a fresh run.
      evaluated_step: the last evaluation before that checkpoint was saved; later lines of
        ``metrics.jsonl`` are dropped.

    Raises:
      UserError: when the folder cannot be written (so do the methods), or ``metrics.jsonl`` is
        damaged.
    """

    def __init__(
        self,
        folder: Path,
        *,
        total_steps: int,
        restored_step: int = 0,
        evaluated_step: int = 0,
    ) -> None:
        self._folder = folder
        self._total_steps = total_steps
        self._console = Console(
            stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True
        )
        self._bar: Progress | None = None
        self._first: tuple[int, float] | None = None
        self._told_at = -SECONDS_BETWEEN_LINES
        cut_back(folder, evaluated_step)
        board = folder / TENSORBOARD_FOLDER
        with _writing(board):
            board.mkdir(parents=True, exist_ok=True)
            # TensorBoard reads the files of a folder in order of their names, which start with
            # the second they were made in.
            self._board = EventsWriter(str(board / "events"), f".{time.time_ns():020d}")
        if restored_step:
            start = SessionLog(status=SessionLog.START)
            self._event(restored_step + 1, session_log=start)

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def say(self, text: str) -> None:
        """One line, above the bar if there is one."""
        self._console.print(text)

    def progress(
        self,
        step: int,
        metrics: Mapping[str, float],
        *,
        examples_per_second: float | None,
        learning_rate: float,
    ) -> None:
        """Tells where training is.

        Args:
          step: steps done.
          metrics: of training since the last call; ``loss`` and ``auxiliary_loss`` are shown, all
            go to TensorBoard.
          examples_per_second: None while that is unknown.
          learning_rate: of the last step.
        """
        scalars = {**metrics, "learning_rate": learning_rate}
        if examples_per_second is not None:
            scalars["examples_per_second"] = examples_per_second
        for name, value in scalars.items():
            self._event(step, summary=scalar(f"train/{name}", value))
        now = time.monotonic()
        if self._first is None:
            self._first = (step, now)
        parts = [f"step {step:,} of {self._total_steps:,}"]
        parts += [
            f"{text} {metrics[name]:.4f}"
            for name, text in _PROGRESS_METRICS.items()
            if name in metrics
        ]
        if examples_per_second is not None:
            parts.append(f"{examples_per_second:,.0f} examples/s")
        first_step, first_time = self._first
        if step > first_step:  # evaluations are in the pace, the first compilation is not
            pace = (now - first_time) / (step - first_step)
            parts.append(f"{_clock(pace * (self._total_steps - step))} left")
        due = now - self._told_at >= SECONDS_BETWEEN_LINES
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._move_bar(step, ", ".join(parts))
        elif due:
            self.say(", ".join(parts))
        if due:
            self._told_at = now
            self._flush()

    def evaluation(self, record: Mapping[str, Any]) -> None:
        """Tells what an evaluation found, on disk before this returns.

        Args:
          record: ``step``, ``epoch``, ``train`` and ``valid`` (metrics by name, None where
            undefined), and whatever else ``metrics.jsonl`` shall hold.

        Raises:
          ValueError: for a number that is not finite.
        """
        line = json.dumps(record, allow_nan=False) + "\n"
        file = self._folder / METRICS_FILE
        with _writing(file), file.open("ab") as stream:
            stream.write(line.encode())
            stream.flush()
            os.fsync(stream.fileno())
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
        self.say(f"step {record['step']:,}, epoch {record['epoch']:.2f}: {', '.join(parts)}")

    def histograms(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        """Distributions for TensorBoard.

        Args:
          step: steps done.
          values: by name, floats of any shape. Those that are not finite are left out, and so is
            an array without any other.
        """
        for name, array in values.items():
            finite = array[np.isfinite(array)].astype(np.float64)
            if finite.size:
                self._event(step, summary=histogram(name, finite, HISTOGRAM_BINS))

    def close(self) -> None:
        """Takes the bar down and closes the files."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        with _writing(self._folder / TENSORBOARD_FOLDER):
            self._board.close()

    def _event(self, step: int, **content: Any) -> None:
        with _writing(self._folder / TENSORBOARD_FOLDER):
            self._board.write_event(Event(wall_time=time.time(), step=step, **content))

    def _flush(self) -> None:
        with _writing(self._folder / TENSORBOARD_FOLDER):
            self._board.flush()

    def _move_bar(self, step: int, text: str) -> None:
        if self._bar is None:
            self._bar = Progress(
                BarColumn(bar_width=12),
                TextColumn("{task.description}", table_column=Column(no_wrap=False)),
                console=self._console,
                redirect_stdout=False,
                refresh_per_second=4,
            )
            self._bar.start()
            self._console.show_cursor(True)  # a process that is killed could not give it back
            self._bar.add_task(text, total=self._total_steps)
        self._bar.update(self._bar.task_ids[0], completed=step, description=text)


def write_hparams(
    folder: Path, step: int, settings: Mapping[str, Any], metrics: Mapping[str, float | None]
) -> None:
    """Puts a finished run among the rows of TensorBoard's HPARAMS tab.

    In one file that is replaced whole: a run that ends twice, killed in between, is one row.

    Args:
      folder: the run folder.
      step: of the best checkpoint.
      settings: by name; a tuple becomes text, and None is left out.
      metrics: of the best checkpoint, by tag; None, which is undefined, is left out.

    Raises:
      UserError: when the file cannot be written.
    """
    defined = {tag: value for tag, value in metrics.items() if value is not None}
    described = {
        name: ",".join(map(str, value)) if isinstance(value, tuple) else value
        for name, value in settings.items()
    }
    summaries = [*hparams(described, defined), *(scalar(tag, defined[tag]) for tag in defined)]
    now = time.time()
    events = [Event(wall_time=now, file_version="brain.Event:2")]
    events += [Event(wall_time=now, step=step, summary=summary) for summary in summaries]
    file = folder / TENSORBOARD_FOLDER / HPARAMS_FILE
    with _writing(file), atomic_path(file) as partial:
        writer = RecordWriter(str(partial))
        try:
            for event in events:
                writer.write(event.SerializeToString())
        finally:
            writer.close()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"

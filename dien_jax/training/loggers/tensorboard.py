"""TensorBoard: event files in the run folder."""

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import histogram, hparams, scalar

from dien_jax.errors import writing
from dien_jax.utils.files import atomic_path

TENSORBOARD_FOLDER = "tensorboard"
HISTOGRAM_BINS = 64
HPARAMS_FILE = "events.out.tfevents.9999999999.hparams"
"""Sorts after all other event files, whose names start with the second they were made in."""


class TensorBoard:
    """The :class:`Logger` that writes event files, which are on disk when a method returns.

    tensorboardX's ``SummaryWriter`` is not used: it writes in a thread, so that ``flush`` may
    return before events are in the file, and an event that cannot be written ends that thread
    silently and then blocks training. The run folder gets a folder ``tensorboard``; a file that
    cannot be written is a ``UserError``.
    """

    def __init__(self, run_dir: Path) -> None:
        self._folder = run_dir / TENSORBOARD_FOLDER
        self._settings: Mapping[str, Any] = {}
        self._writer: EventsWriter | None = None

    def begin(self, settings: Mapping[str, Any], restored_step: int) -> None:
        """Begin another file; settings are written when the run finishes."""
        self._settings = settings
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            # TensorBoard reads files in order of their names, which start with the time.
            self._writer = EventsWriter(str(self._folder / "events"), f".{time.time_ns():020d}")
        if restored_step:  # TensorBoard drops earlier events from this step on
            restart = SessionLog(status=SessionLog.START)
            self._write(Event(step=restored_step + 1, session_log=restart))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers."""
        self._write(*(Event(step=step, summary=scalar(*entry)) for entry in values.items()))

    def histograms(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        """Write distributions."""
        bins = HISTOGRAM_BINS
        summaries = [histogram(name, array, bins) for name, array in values.items()]
        self._write(*(Event(step=step, summary=summary) for summary in summaries))

    def finish(self, step: int, metrics: Mapping[str, float], files: Sequence[Path]) -> None:
        """Add the run to the rows of the HPARAMS tab; files are not copied.

        One file is replaced as a whole, so a run that is killed and ends twice has one row. A tuple
        among the settings becomes text; settings that are None are left out.
        """
        texts = {
            name: ",".join(map(str, value)) if isinstance(value, tuple) else value
            for name, value in self._settings.items()
        }
        summaries = [*hparams(texts, dict(metrics)), *(scalar(*entry) for entry in metrics.items())]
        now = time.time()
        events = [Event(wall_time=now, file_version="brain.Event:2")]
        events += [Event(wall_time=now, step=step, summary=summary) for summary in summaries]
        file = self._folder / HPARAMS_FILE
        with writing(file), atomic_path(file) as path, closing(RecordWriter(str(path))) as writer:
            for event in events:
                writer.write(event.SerializeToString())

    def close(self, error: BaseException | None) -> None:
        """Close the file."""
        if self._writer is not None:
            with writing(self._folder):
                self._writer.close()

    def _write(self, *events: Event) -> None:
        assert self._writer is not None
        with writing(self._folder):
            for event in events:
                event.wall_time = time.time()
                self._writer.write_event(event)
            self._writer.flush()

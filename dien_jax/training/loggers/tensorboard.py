"""TensorBoard: event files in the run folder."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from dien_jax.errors import writing

TENSORBOARD_FOLDER = "tensorboard"


class TensorBoard:
    """The :class:`Logger` that writes event files, which are on disk when a method returns.

    tensorboardX's ``SummaryWriter`` is not used: it writes in a thread, so that ``flush`` may
    return before events are in the file, and an event that cannot be written ends that thread
    silently and then blocks training. The run folder gets a folder ``tensorboard``; a file that
    cannot be written is a ``UserError``.
    """

    def __init__(self, run_dir: Path, restored_step: int = 0) -> None:
        self._folder, self._restored_step = run_dir / TENSORBOARD_FOLDER, restored_step
        self._writer: EventsWriter | None = None

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers."""
        self._write(*(Event(step=step, summary=scalar(*entry)) for entry in values.items()))

    def finish(self, step: int, metrics: Mapping[str, float], files: Sequence[Path]) -> None:
        """Write the metrics; files are not copied."""
        self.scalars(step, metrics)

    def close(self, error: BaseException | None) -> None:
        """Close the file."""
        if self._writer is not None:
            with writing(self._folder):
                self._writer.close()

    def _write(self, *events: Event) -> None:
        with writing(self._folder):
            if self._writer is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                # TensorBoard reads files in order of their names, which start with the time.
                self._writer = EventsWriter(str(self._folder / "events"), f".{time.time_ns():020d}")
                if self._restored_step:  # TensorBoard drops earlier events from this step on
                    restart = SessionLog(status=SessionLog.START)
                    events = Event(step=self._restored_step + 1, session_log=restart), *events
            for event in events:
                event.wall_time = time.time()
                self._writer.write_event(event)
            self._writer.flush()

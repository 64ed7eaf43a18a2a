"""The loggers of a run: TensorBoard in its folder, and MLflow and W&B, each in a thread.

A logger with a server connects before the slow work of a run, so an unreachable server is an error
at once. Later, no failure or delay of a server stops or slows training.

``loggers.json`` of a run folder has the names of the loggers and, for those with a server, the id
of the run there, with which a resumed run continues. A run with TensorBoard alone has no such
file.
"""

import contextlib
import logging
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypedDict, runtime_checkable

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from dien_jax.config.settings import DEFAULT_LOGGERS, LOGGERS, LoggerName
from dien_jax.errors import Interrupted, UserError, reason, require, require_choice, writing
from dien_jax.utils.console import say
from dien_jax.utils.files import read_json, write_json

LOGGERS_FILE = "loggers.json"
LONGEST_QUEUE = 1000
"""Maximum number of calls that wait for a server; further ones are dropped."""
CLOSE_SECONDS = 40.0
"""Seconds that the end of a run waits for a server."""
MLFLOW_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""Environment variables of MLflow, unless they are set: an unreachable server is an error within
seconds, and standard output has only the result of the run."""
WANDB_SETTINGS: Any = {
    "console": "off", "silent": True, "finish_timeout": 30, "finish_timeout_raises": True,
}  # fmt: skip
"""Settings of W&B's client, which has 30 seconds to send the last reports."""


@runtime_checkable
class Logger(Protocol):
    """A destination of the reports of a run.

    One thread calls the methods, in the order below. Names of scalars have slashes, such as
    ``train/loss``.
    """

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log finite numbers by name. After a resume, steps beyond the checkpoint come again.

        MLflow and W&B keep the earlier numbers of such a step too.
        """

    def finish(self, step: int, metrics: Mapping[str, float], files: Sequence[Path]) -> None:
        """Log the metrics of the best checkpoint, from ``step``, and files of the run.

        A run that was killed at its end may call this twice, with the same content.
        """

    def close(self, error: BaseException | None) -> None:
        """Close; ``error`` is the exception that ended the run before its result, or None."""


class Background(Logger):
    """A :class:`Logger` that passes its calls to a tracker in a thread.

    Training never waits for the tracker. A call that fails is dropped, and later calls are made;
    one warning says so. The thread does not keep the process alive.
    """

    def __init__(self, title: str, tracker: Logger) -> None:
        self._title, self._tracker, self._lacks_reports = title, tracker, False
        self._calls: queue.Queue[Callable[[], None] | None] = queue.Queue(LONGEST_QUEUE)
        self._thread = threading.Thread(target=self._work, name=f"logger {title}", daemon=True)
        self._thread.start()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._later(partial(self._tracker.scalars, step, values))

    def finish(self, step: int, metrics: Mapping[str, float], files: Sequence[Path]) -> None:
        self._later(partial(self._tracker.finish, step, metrics, files))

    def close(self, error: BaseException | None, seconds: float = CLOSE_SECONDS) -> None:
        """Close the tracker after all calls, and wait for it for a limited time."""
        self._later(partial(self._tracker.close, error))
        self._later(None)
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._leave_out("it does not answer")

    def _later(self, call: Callable[[], None] | None) -> None:
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self._leave_out("it does not answer")

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except Exception as error:  # clients raise errors of every kind
                self._leave_out(without_password(reason(error)))

    def _leave_out(self, why: str) -> None:
        if not self._lacks_reports:
            say(f"warning: {self._title} lacks reports of this run: {why}")
        self._lacks_reports = True


class TensorBoard:
    """A :class:`Logger` that writes event files, which are on disk when a method returns.

    tensorboardX's ``SummaryWriter`` is not used: it writes in a thread, so ``flush`` may return
    before events are in the file, and an event that cannot be written silently ends that thread,
    which then blocks training. Event files are in ``tensorboard`` of the run folder; one that
    cannot be written is a ``UserError``.
    """

    def __init__(self, run_dir: Path, restored_step: int = 0) -> None:
        self._folder, self._restored_step = run_dir / "tensorboard", restored_step
        self._writer: EventsWriter | None = None

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        events = [Event(step=step, summary=scalar(*entry)) for entry in values.items()]
        with writing(self._folder):
            if self._writer is None:
                continues = self._folder.exists()  # even without a checkpoint
                self._folder.mkdir(parents=True, exist_ok=True)
                # TensorBoard reads files in order of their names, which start with the time.
                self._writer = EventsWriter(str(self._folder / "events"), f".{time.time_ns():020d}")
                if continues:  # TensorBoard drops earlier events from this step on
                    restart = SessionLog(status=SessionLog.START)
                    events.insert(0, Event(step=self._restored_step + 1, session_log=restart))
            for event in events:
                event.wall_time = time.time()
                self._writer.write_event(event)
            self._writer.flush()

    def finish(self, step: int, metrics: Mapping[str, float], files: Sequence[Path]) -> None:
        """Write the metrics; files are not copied."""
        self.scalars(step, metrics)

    def close(self, error: BaseException | None) -> None:
        if self._writer is not None:
            with writing(self._folder):
                self._writer.close()


@contextlib.contextmanager
def _refused(problem: str, advice: str, name: str) -> Iterator[None]:
    """Turn every exception of a client, which may be of any kind, into a ``UserError``."""
    try:
        yield
    except Exception as error:
        why = f"{problem}: {without_password(reason(error))}. {advice}"
        raise UserError(f"{why}; --loggers without {name} trains without it") from error


class MLflow(Logger):
    """The :class:`Logger` of MLflow, whose environment variables choose the server.

    It continues the run ``run_id``, or creates one. Values of settings become text. A server that
    cannot be reached or does not have the run is a ``UserError``.
    """

    def __init__(self, name: str, settings: Mapping[str, Any], run_id: str | None) -> None:
        for variable, value in MLFLOW_DEFAULTS.items():
            os.environ.setdefault(variable, value)
        require("mlflow", "the logger mlflow")
        import mlflow

        # It would otherwise log the creation of tables in each new database.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
        where = without_password(mlflow.get_tracking_uri())
        with _refused(
            f"MLflow cannot be used at {where}", "MLFLOW_TRACKING_URI says where", "mlflow"
        ):
            client = mlflow.MlflowClient()
            if run_id is None:
                run_id = client.create_run(_experiment(client), run_name=name).info.run_id
                mlflow.log_params(dict(settings), run_id=run_id)
            else:
                client.update_run(run_id, status="RUNNING")
        self._mlflow, self._client, self.run_id = mlflow, client, str(run_id)
        say(f"MLflow: run {run_id} at {where}")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(values), step, run_id=self.run_id)

    def finish(self, step: int, metrics: Mapping[str, float], files: Sequence[Path]) -> None:
        self.scalars(step, metrics)
        for file in files:
            self._mlflow.log_artifact(str(file), run_id=self.run_id)

    def close(self, error: BaseException | None) -> None:
        """Record how the run ended: finished, killed (stopped by a signal) or failed."""
        stopped = isinstance(error, Interrupted | KeyboardInterrupt)
        status = "FINISHED" if error is None else "KILLED" if stopped else "FAILED"
        self._client.set_terminated(self.run_id, status)


def _experiment(client: Any) -> str:
    """Return the id of the experiment that the environment names; create it if it is new."""
    if (given := os.environ.get("MLFLOW_EXPERIMENT_ID")) is not None:
        return given
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "Default")
    known = client.get_experiment_by_name(name)
    return str(client.create_experiment(name) if known is None else known.experiment_id)


class WeightsAndBiases(Logger):
    """The :class:`Logger` of Weights & Biases, whose environment variables choose the server.

    It continues the run ``run_id``, or creates one. All charts use ``step`` as their axis, because
    W&B refuses to log one of its own steps again. Its client sends in a separate process, and
    repeats requests that the server did not accept. A server that cannot be reached or refuses the
    run is a ``UserError``.
    """

    def __init__(self, name: str, settings: Mapping[str, Any], run_id: str | None) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        require("wandb", "the logger wandb")
        import wandb

        resumed: Any = {"id": run_id, "resume": "allow", "reinit": "create_new"}
        with _refused("W&B cannot be used", "WANDB_MODE=offline needs no server", "wandb"):
            run = wandb.init(name=name, settings=wandb.Settings(**WANDB_SETTINGS), **resumed)
            run.define_metric("*", step_metric="step")
            run.config.update(settings, allow_val_change=True)
        self._wandb, self._run, self.run_id = wandb, run, str(run.id)
        say(f"W&B: run {run.id}, {Path(run.dir).parent if run.offline else run.url}")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "step": step})

    def finish(self, step: int, metrics: Mapping[str, float], files: Sequence[Path]) -> None:
        self._run.summary.update({**metrics, "best_step": step})
        artifact = self._wandb.Artifact(f"run-{self.run_id}", type="run")
        for file in files:
            artifact.add_file(str(file))
        self._run.log_artifact(artifact)

    def close(self, error: BaseException | None) -> None:
        """End the run, as failed after an error or a signal, and wait until all is sent."""
        self._run.finish(exit_code=int(error is not None))


TRACKERS: dict[str, tuple[str, Any]] = {
    "mlflow": ("MLflow", MLflow),
    "wandb": ("W&B", WeightsAndBiases),
}
"""Title and class by the name of the logger; a client is imported when its logger is created."""


def without_password(text: str) -> str:
    """Return text without user names and passwords in addresses, ``//NAME:PASSWORD@HOST``."""
    return re.sub(r"//[^/@\s]*@", "//", text)


class _LoggersFile(TypedDict):
    """Form of ``loggers.json``."""

    loggers: list[LoggerName]
    runs: dict[str, str]


@contextlib.contextmanager
def opened_loggers(
    folder: Path,
    names: Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    restored_step: int = 0,
) -> Iterator[list[Logger]]:
    """Open the loggers of a run for a block.

    Args:
      folder: run folder.
      names: names of the loggers; by default those of the run, or TensorBoard.
      settings: settings of the run by name, values of any type.
      restored_step: step of the checkpoint from which the run continues; 0 for a fresh run.

    Raises:
      UserError: a name is unknown, a server cannot be reached or does not have the run, or
        ``loggers.json`` is damaged.
    """
    file = folder / LOGGERS_FILE
    known: _LoggersFile = {"loggers": list(DEFAULT_LOGGERS), "runs": {}}
    if os.path.lexists(file):
        known = read_json(file, _LoggersFile)
    chosen = known["loggers"] if names is None else names
    for name in chosen:
        require_choice("loggers", name, LOGGERS)
    runs, opened = dict(known["runs"]), dict[str, Logger]()
    with contextlib.ExitStack() as stack:
        for name in (name for name in LOGGERS if name in chosen):
            if name == "tensorboard":
                opened[name] = TensorBoard(folder, restored_step)
            else:
                title, tracker = TRACKERS[name]
                made = tracker(folder.absolute().name, settings or {}, runs.get(name))
                opened[name], runs[name] = Background(title, made), made.run_id
            stack.push(lambda kind, error, trace, close=opened[name].close: close(error))
        if (now := {"loggers": [*opened], "runs": runs}) != known:
            write_json(file, now)
        yield [*opened.values()]

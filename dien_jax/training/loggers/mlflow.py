"""MLflow: a run of a tracking server or a local store."""

import contextlib
import functools
import logging
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dien_jax.errors import Interrupted, UserError, reason
from dien_jax.training.loggers.background import (
    CLOSE_SECONDS,
    FINISH_SECONDS,
    Background,
    without_password,
)
from dien_jax.utils.console import say
from dien_jax.utils.extras import require

MOST_PARAMS = 100
"""Parameters that a server takes at once."""
LONGEST_PARAM = 500
"""Characters of a parameter's value that every server takes."""
AT_START = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
"""Variables of MLflow while it connects: a server that cannot be reached is refused in seconds."""


class MLflow:
    """The :class:`Logger` of MLflow.

    MLflow's variables of the environment say where the run goes, such as ``MLFLOW_TRACKING_URI``
    and ``MLFLOW_EXPERIMENT_NAME``. Reports are sent in the background; one that the server does not
    take, after the repetitions of ``MLFLOW_HTTP_REQUEST_MAX_RETRIES``, is left out. MLflow has no
    histograms. Usage statistics of MLflow are not sent unless ``MLFLOW_DISABLE_TELEMETRY`` is set.

    Args:
      name: name of a new run.
      run_id: id of the run to go on in; None for a new one.
      problems: gets lines to be said.

    Attributes:
      run_id: id of the run.

    Raises:
      UserError: when the server cannot be reached or does not have the run, and without the extra
        ``mlflow``.
    """

    def __init__(self, name: str, run_id: str | None, problems: deque[str]) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        require("mlflow", "the logger mlflow")
        import mlflow

        # Else it says for each new database that it makes tables.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
        where = without_password(mlflow.get_tracking_uri())
        with _connecting(where, run_id):
            self._client = mlflow.MlflowClient()
            if run_id is None:
                experiment = _experiment(self._client)
                self.run_id = self._client.create_run(experiment, run_name=name).info.run_id
            else:
                self.run_id = run_id
                self._client.update_run(run_id, status="RUNNING")
        say(f"MLflow: run {self.run_id} at {where}")
        self._background = Background("MLflow", problems)

    def begin(self, settings: Mapping[str, Any], restored_step: int) -> None:
        """Send settings as parameters; one that is None is ``None``."""
        from mlflow.entities import Param

        params = [Param(name, str(value)[:LONGEST_PARAM]) for name, value in settings.items()]
        for start in range(0, len(params), MOST_PARAMS):
            self._send(params=params[start : start + MOST_PARAMS])

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Send numbers. What is sent of a step again is kept beside what was sent before."""
        from mlflow.entities import Metric

        now = round(time.time() * 1000)
        self._send(metrics=[Metric(name, value, now, step) for name, value in values.items()])

    def histograms(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        """Send nothing: MLflow has no histograms."""

    def finish(self, step: int, metrics: Mapping[str, float], files: Sequence[Path]) -> None:
        """Send metrics, and files as artifacts, and wait until the server has them."""
        self.scalars(step, metrics)
        for file in files:
            send = functools.partial(self._client.log_artifact, self.run_id, str(file))
            self._background.do(send)
        self._background.wait(FINISH_SECONDS)

    def close(self, error: BaseException | None) -> None:
        """Send how the run ended: finished, killed (stopped by a signal) or failed."""
        stopped = isinstance(error, Interrupted | KeyboardInterrupt)
        status = "FINISHED" if error is None else "KILLED" if stopped else "FAILED"
        self._background.do(lambda: self._client.set_terminated(self.run_id, status))
        self._background.end(CLOSE_SECONDS)

    def _send(self, **content: Any) -> None:
        self._background.do(lambda: self._client.log_batch(self.run_id, **content))


def _experiment(client: Any) -> str:
    """Return the id of the experiment that the environment names, which is made if it is new."""
    if (given := os.environ.get("MLFLOW_EXPERIMENT_ID")) is not None:
        return str(client.get_experiment(given).experiment_id)
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "Default")
    found = client.get_experiment_by_name(name)
    return str(client.create_experiment(name) if found is None else found.experiment_id)


@contextlib.contextmanager
def _connecting(where: str, run_id: str | None) -> Iterator[None]:
    """Turn any error of the block into a :class:`UserError`, after few repetitions."""
    ours = {name: value for name, value in AT_START.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    except Exception as error:  # clients raise errors of every kind
        why = without_password(reason(error))
        wanted = "" if run_id is None else f", or does not have the run {run_id}"
        raise UserError(
            f"MLflow cannot be used at {where}{wanted}: {why}. MLFLOW_TRACKING_URI says "
            f"where; --loggers without mlflow trains without it"
        ) from error
    finally:
        for name in ours:
            del os.environ[name]

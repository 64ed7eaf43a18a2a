"""Weights & Biases: a run of its server, or of a folder in its offline mode."""

import os
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dien_jax.errors import UserError, reason
from dien_jax.training.loggers.background import CLOSE_SECONDS, FINISH_SECONDS, Background
from dien_jax.training.loggers.protocol import HISTOGRAM_BINS
from dien_jax.utils.console import say
from dien_jax.utils.extras import require

STEP = "step"
"""The axis of all charts: W&B refuses a step of its own that was logged before."""


class WeightsAndBiases:
    """The :class:`Logger` of Weights & Biases.

    W&B's variables of the environment say where the run goes, such as ``WANDB_PROJECT``,
    ``WANDB_MODE`` and ``WANDB_DIR``. The client sends in a process of its own, and repeats what the
    server does not take. Its error reports are not sent unless ``WANDB_ERROR_REPORTING`` is set,
    and it keeps no output of the console.

    Args:
      name: name of the run.
      run_id: id of the run to go on in; None for a new one.
      problems: gets lines to be said.

    Attributes:
      run_id: id of the run.

    Raises:
      UserError: when the server cannot be reached or refuses the run, and without the extra
        ``wandb``.
    """

    def __init__(self, name: str, run_id: str | None, problems: deque[str]) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        require("wandb", "the logger wandb")
        import wandb

        settings = wandb.Settings(
            console="off",
            silent=True,
            finish_timeout=FINISH_SECONDS,
            finish_timeout_raises=True,
        )
        resumed: dict[str, Any] = {} if run_id is None else {"id": run_id, "resume": "allow"}
        try:
            run = wandb.init(name=name, settings=settings, reinit="create_new", **resumed)
            run.define_metric("*", step_metric=STEP)
        except Exception as error:  # the client raises errors of every kind
            raise UserError(
                f"W&B cannot be used: {reason(error)}. WANDB_MODE=offline needs no server; "
                f"--loggers without wandb trains without it"
            ) from error
        self._run, self.run_id = run, str(run.id)
        say(f"W&B: run {run.id}, {Path(run.dir).parent if run.offline else run.url}")
        self._problems = problems
        self._background = Background("W&B", problems)

    def begin(self, settings: Mapping[str, Any], restored_step: int) -> None:
        """Log settings as the run's config."""
        self._background.do(lambda: self._run.config.update(settings, allow_val_change=True))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers. What is logged of a step again is kept beside what was logged before."""
        self._background.do(lambda: self._run.log({**values, STEP: step}))

    def histograms(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        """Log distributions."""
        import wandb

        found = {
            name: wandb.Histogram(np_histogram=np.histogram(array, HISTOGRAM_BINS))
            for name, array in values.items()
        }
        self._background.do(lambda: self._run.log({**found, STEP: step}))

    def finish(self, step: int, metrics: Mapping[str, float], files: Sequence[Path]) -> None:
        """Log metrics in the summary, and files as an artifact of the type ``run``."""
        import wandb

        def send() -> None:
            self._run.summary.update({**metrics, "best_step": step})
            artifact = wandb.Artifact(f"run-{self.run_id}", type="run")
            for file in files:
                artifact.add_file(str(file))
            self._run.log_artifact(artifact)

        self._background.do(send)
        self._background.wait(FINISH_SECONDS)

    def close(self, error: BaseException | None) -> None:
        """End the run, as failed if an error or a signal ended it, and wait for what is sent."""
        self._background.do(lambda: self._end(int(error is not None)))
        self._background.end(FINISH_SECONDS + CLOSE_SECONDS)

    def _end(self, status: int) -> None:
        try:
            self._run.finish(exit_code=status)
        except TimeoutError:
            kept = Path(self._run.dir).parent
            self._problems.append(
                f"warning: W&B lacks reports of this run, which are kept; send them later with: "
                f"wandb sync {kept}"
            )

"""The result of a finished run: ``result.json`` and the model card."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dien_jax.config.preset_files import flat_settings
from dien_jax.errors import writing
from dien_jax.metrics.scores import METRICS
from dien_jax.runs.calibration import Calibration
from dien_jax.runs.folder import (
    RESULT_FILE,
    Metrics,
    Run,
    Seed,
    read_result,
)
from dien_jax.runs.model_card import CARD_FILE, model_card
from dien_jax.utils.files import write_json, write_text
from dien_jax.utils.json_values import Count, NotNegative


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """The result of a finished run: ``result.json`` of its folder.

    >>> from dien_jax import resume
    >>> result = resume("runs/first")
    >>> 0 < result.best_step <= result.steps, sorted(result.test)[:2]
    (True, ['auc', 'auc_known'])

    Attributes:
      run_dir, preset, data, seed: run folder, preset, path of the dataset and random seed.
      model: the row of the paper's table that the model is, or ``"custom"``.
      steps, epochs: length of the training.
      best_step: step of the checkpoint with the best validation score.
      valid, test: metrics of that checkpoint by name, with calibrated scores; None where undefined.
      train_examples_per_second: training speed without compilation and evaluation; None where
        nothing was timed.
      wall_seconds: duration, over all processes of the run.
      device: kind of the device.
      versions: of Python and the packages that decide the outcome.
      baselines: test AUC of popularity, of the tower alone (``"counts alone"``) if the model has
        one and, where the data has true probabilities, of these (``"best possible"``).
    """

    run_dir: Path = Path()
    model: str
    preset: str
    data: str
    seed: Seed
    steps: Count
    epochs: NotNegative
    best_step: Count
    valid: Metrics
    test: Metrics
    train_examples_per_second: NotNegative | None
    wall_seconds: NotNegative
    device: str
    versions: dict[str, str]
    baselines: dict[str, NotNegative | None]


def run_settings(run: Run) -> dict[str, Any]:
    """Return what loggers get of a run when it begins: preset, data, seed and all settings."""
    about = {"preset": run.preset, "data": Path(run.data).name, "seed": run.seed}
    return about | flat_settings(run.config)


def final_metrics(result: RunResult) -> dict[str, float | None]:
    """Return what loggers get of a result: ``final/SPLIT_METRIC``, None where undefined."""
    splits = {"valid": result.valid, "test": result.test}
    return {f"final/{split}_{name}": splits[split][name] for split in splits for name in METRICS}


def write_result(result: RunResult) -> None:
    """Write ``result.json`` last: a run that has it is complete."""
    file = result.run_dir / RESULT_FILE
    with writing(file):
        write_json(file, _content(result))


def write_card(
    run: Run,
    meta: Mapping[str, Any],
    result: RunResult,
    parameters: int,
    intervals: Mapping[str, tuple[float, float] | None],
    calibration: Calibration | None,
) -> None:
    """Write the model card of a finished run; ``intervals`` are those of the AUC by split."""
    about = {**vars(result), "parameters": parameters}
    text = model_card(run, meta, about, intervals, calibration)
    write_text(result.run_dir / CARD_FILE, text)


def read_finished(folder: Path) -> dict[str, Any] | None:
    """Return fields of a :class:`RunResult` from ``result.json``; None for an unfinished run."""
    result = read_result(folder, RunResult)
    return None if result is None else _content(result)


def _content(result: RunResult) -> dict[str, Any]:
    return {name: value for name, value in vars(result).items() if name != "run_dir"}

"""Report of a search: progress on the console, the best trial as text, and plots."""

import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

from dien_jax.experiments.search_space import chosen_settings
from dien_jax.metrics.scores import METRICS
from dien_jax.utils.files import atomic_path

if TYPE_CHECKING:
    import optuna

OBJECTIVE = METRICS["auc"]
"""The validation metric that trials are compared by."""

SECONDS_BETWEEN_LINES = 30.0
"""Least time between progress lines within an epoch, without a terminal."""


class SearchReporter:
    """Report the progress of a search on standard error: a bar on a terminal, lines elsewhere.

    A context manager.

    Args:
      trials: total number of trials.
    """

    def __init__(self, trials: int) -> None:
        self._trials = trials
        self._console = Console(
            stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True
        )
        self._bar = Progress(
            BarColumn(bar_width=12),
            TextColumn("{task.description}", table_column=Column(no_wrap=False), markup=False),
            console=self._console,
            redirect_stdout=False,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=trials)
        self._trial = ""
        self._printed_at = time.monotonic()

    def __enter__(self) -> "SearchReporter":
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def start(self, number: int, settings: Mapping[str, str]) -> None:
        """Report the start of a trial, counted from 1."""
        self._trial = f"trial {number} of {self._trials}"
        self._bar.update(self._task, completed=number - 1, description=self._trial)
        chosen = (f"{name} {value}" for name, value in settings.items())
        self._console.print(f"{self._trial}: {', '.join(chosen)}")

    def progress(
        self,
        step: int,
        metrics: Mapping[str, float],
        *,
        examples_per_second: float | None,
        learning_rate: float,
    ) -> None:
        """Report progress between two evaluations; see :meth:`Reporter.progress`."""
        text = f"{self._trial}, step {step:,}, loss {metrics['loss']:.4f}"
        if examples_per_second is not None:
            text += f", {examples_per_second:,.0f} examples/s"
        self._report(text, every=SECONDS_BETWEEN_LINES)

    def evaluation(self, record: Mapping[str, Any]) -> None:
        """Report an evaluation, a line of ``metrics.jsonl``."""
        text = f"{self._trial}, epoch {record['epoch']:.2f}: "
        text += f"validation {OBJECTIVE.label} {record['valid'][OBJECTIVE.name]:.4f}"
        self._report(text, every=0.0)

    def _report(self, text: str, *, every: float) -> None:
        self._bar.update(self._task, description=text)
        now = time.monotonic()
        if not self._console.is_terminal and now - self._printed_at >= every:
            self._printed_at = now
            self._console.print(f"  {text}")

    def end(
        self,
        finished: Sequence["optuna.trial.FrozenTrial"],
        best: "optuna.trial.FrozenTrial | None",
    ) -> None:
        """Report the end of the last of the finished trials."""
        trial = finished[-1]
        outcome = f"validation {OBJECTIVE.label} {trial.value or 0:.4f}"
        if trial.state.name == "PRUNED":
            outcome = "diverged" if "diverged" in trial.user_attrs else "pruned"
        text = f"{self._trial}: {outcome} after {trial.user_attrs.get('epochs', 0):g} epochs"
        if best is not None:
            text += f"; best {best.value:.4f}, trial {finished.index(best) + 1}"
        self._console.print(text)


def summary(
    finished: Sequence["optuna.trial.FrozenTrial"], best: "optuna.trial.FrozenTrial"
) -> str:
    """Return the best trial and its settings as text."""
    diverged = sum("diverged" in trial.user_attrs for trial in finished)
    pruned = sum(trial.state.name == "PRUNED" for trial in finished) - diverged
    counts = "".join(
        f", {count} {kind}" for count, kind in ((pruned, "pruned"), (diverged, "diverged")) if count
    )
    settings = searched_settings(best)
    width = max(map(len, settings), default=0)
    return "\n".join(
        [
            f"best of {len(finished)} trials{counts}: trial {finished.index(best) + 1}, "
            f"validation {OBJECTIVE.label} {best.value:.4f}",
            *(f"  {name:{width}}  {value}" for name, value in settings.items()),
        ]
    )


def searched_settings(trial: "optuna.Trial | optuna.trial.FrozenTrial") -> dict[str, str]:
    """Return the settings drawn for a trial as text, without those that the space fixes."""
    settings = {}
    for name, value in chosen_settings(trial.params).items():
        if not trial.distributions[name].single():
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
            settings[name] = text.replace(" ", "")
    return settings


def draw_plots(finished: Sequence["optuna.trial.FrozenTrial"], folder: Path) -> list[Path]:
    """Draw Optuna's plots of a study: history, objective over each setting, and importances.

    A pruned trial is in the history at the best value it reached.

    Returns:
      The files; none without matplotlib or before the first evaluation, and the history alone
      before the second completed trial.

    Raises:
      OSError: if a file cannot be written.
    """
    try:
        from matplotlib import pyplot
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        return []
    if not any(trial.intermediate_values for trial in finished):
        return []
    import optuna
    from optuna.visualization import matplotlib as plots

    study = optuna.create_study(direction=direction())  # in memory, numbered as on the console
    study.add_trials(finished)
    label = f"validation {OBJECTIVE.label}"
    figures: dict[str, Any] = {}
    with warnings.catch_warnings(), pyplot.rc_context():
        warnings.simplefilter("ignore")  # Optuna's, that these functions are experimental
        axes: Any = plots.plot_optimization_history(study, target_name=label)
        pruned = [
            (number, max(trial.intermediate_values.values()))
            for number, trial in enumerate(finished)
            if trial.state.name == "PRUNED" and trial.intermediate_values
        ]
        if pruned:
            axes.scatter(*zip(*pruned, strict=True), facecolors="none", edgecolors="tab:blue",
                         label="pruned")  # fmt: skip
        axes.legend()
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.xaxis.set_major_formatter(lambda number, _: f"{number + 1:.0f}")
        figures["history.png"] = axes.figure
        names = list(searched_settings(finished[0]))
        if names and sum(trial.state.name == "COMPLETE" for trial in finished) > 1:
            axes = plots.plot_slice(study, params=names, target_name=label)
            figures["settings.png"] = np.atleast_1d(axes).flat[0].figure
            evaluator = optuna.importance.PedAnovaImportanceEvaluator()
            axes = plots.plot_param_importances(
                study, params=names, evaluator=evaluator, target_name=label
            )
            figures["importances.png"] = axes.figure
        for name, figure in figures.items():
            with atomic_path(folder / name) as partial:
                figure.savefig(partial, format="png", dpi=120, bbox_inches="tight")
            pyplot.close(figure)
    return [folder / name for name in figures]


def direction() -> Literal["maximize", "minimize"]:
    """Return the direction of the objective, as Optuna names it."""
    return "maximize" if OBJECTIVE.higher_is_better else "minimize"

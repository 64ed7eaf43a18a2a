"""Report of a search: progress on the console, the best trial as text, and plots."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dien_jax.experiments.search_space import chosen_settings
from dien_jax.metrics.scores import METRICS
from dien_jax.training.progress import StepReport
from dien_jax.utils.console import ProgressLine
from dien_jax.utils.files import atomic_path

if TYPE_CHECKING:
    import optuna

OBJECTIVE = METRICS["auc"]
"""The validation metric that trials are compared by."""

DIRECTION: Literal["maximize", "minimize"] = (
    "maximize" if OBJECTIVE.higher_is_better else "minimize"
)


class TrainingLine:
    """A listener that shows training in a progress line.

    Args:
      line: the line.
      name: what is trained.
      share: the part of the whole work that is done, from 0 to 1.
    """

    def __init__(self, line: ProgressLine, name: str, share: float) -> None:
        self._line, self._name, self._share = line, name, share

    def progress(self, report: StepReport) -> None:
        """Show a step between evaluations."""
        self._line.update(f"{self._name}, {report}", self._share)

    def evaluation(self, record: Mapping[str, Any]) -> None:
        """Print the objective of an evaluation, a line of ``metrics.jsonl``."""
        value = f"validation {OBJECTIVE.label} {record['valid'][OBJECTIVE.name]:.4f}"
        self._line.say(f"  {self._name}, epoch {record['epoch']:.2f}: {value}")


def outcome(
    finished: Sequence["optuna.trial.FrozenTrial"], best: "optuna.trial.FrozenTrial | None"
) -> str:
    """Return the outcome of the last finished trial, and the best one so far, as text."""
    trial = finished[-1]
    text = f"validation {OBJECTIVE.label} {trial.value or 0:.4f}"
    if trial.state.name == "PRUNED":
        text = "diverged" if "diverged" in trial.user_attrs else "pruned"
    text += f" after {trial.user_attrs.get('epochs', 0):g} epochs"
    if best is not None:
        text += f"; best {best.value:.4f}, trial {finished.index(best) + 1}"
    return text


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

    study = optuna.create_study(direction=DIRECTION)  # in memory, numbered as on the console
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

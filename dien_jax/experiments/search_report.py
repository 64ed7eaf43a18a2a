"""Report of a search: progress on the console, the best trial as text, and plots."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from dien_jax.experiments.search_space import chosen_settings
from dien_jax.metrics.scores import METRICS
from dien_jax.training.progress import StepReport
from dien_jax.utils.console import ProgressLine
from dien_jax.utils.files import atomic_path

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

OBJECTIVE = METRICS["auc"]
"""The validation metric that trials are compared by."""

DIRECTION: Literal["maximize", "minimize"]
DIRECTION = "maximize" if OBJECTIVE.higher_is_better else "minimize"


class TrainingLine(NamedTuple):
    """A listener that shows training, named, in a line; ``share`` of the whole work is done."""

    line: ProgressLine
    name: str
    share: float

    def progress(self, report: StepReport) -> None:
        """Show a step between evaluations."""
        self.line.update(f"{self.name}, {report}", self.share)

    def evaluation(self, record: Mapping[str, Any]) -> None:
        """Print the objective of an evaluation, a line of ``metrics.jsonl``."""
        value = f"validation {OBJECTIVE.label} {record['valid'][OBJECTIVE.name]:.4f}"
        self.line.say(f"  {self.name}, epoch {record['epoch']:.2f}: {value}")


def outcome(finished: Sequence["FrozenTrial"], best: "FrozenTrial | None") -> str:
    """Return the outcome of the last finished trial, and the best one so far, as text."""
    trial = finished[-1]
    text = f"validation {OBJECTIVE.label} {trial.value or 0:.4f}"
    if trial.state.name == "PRUNED":
        text = "diverged" if "diverged" in trial.user_attrs else "pruned"
    text += f" after {trial.user_attrs.get('epochs', 0):g} epochs"
    if best is not None:
        text += f"; best {best.value:.4f}, trial {finished.index(best) + 1}"
    return text


def summary(finished: Sequence["FrozenTrial"], best: "FrozenTrial") -> str:
    """Return the best trial and its settings as text."""
    diverged = sum("diverged" in trial.user_attrs for trial in finished)
    pruned = sum(trial.state.name == "PRUNED" for trial in finished) - diverged
    counts = [f", {pruned} pruned"] * bool(pruned) + [f", {diverged} diverged"] * bool(diverged)
    settings = searched_settings(best)
    width = max(map(len, settings), default=0)
    first = (
        f"best of {len(finished)} trials{''.join(counts)}: trial {finished.index(best) + 1}, "
        f"validation {OBJECTIVE.label} {best.value:.4f}"
    )
    return "\n".join([first, *(f"  {name:{width}}  {value}" for name, value in settings.items())])


def searched_settings(trial: "optuna.Trial | FrozenTrial") -> dict[str, str]:
    """Return the settings drawn for a trial as text, without those that the space fixes."""
    return {
        name: (f"{value:.4g}" if isinstance(value, float) else str(value)).replace(" ", "")
        for name, value in chosen_settings(trial.params).items()
        if not trial.distributions[name].single()
    }


def draw_plots(finished: Sequence["FrozenTrial"], folder: Path) -> list[Path]:
    """Draw Optuna's plots of a study: history, objective over each setting, and importances.

    A pruned trial is in the history at the best value it reached. Return the files: none without
    matplotlib or before the first evaluation, the history alone before two completed trials.
    """
    try:
        from matplotlib import pyplot
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
        axes.locator_params(axis="x", integer=True)
        axes.xaxis.set_major_formatter(lambda number, _: f"{number + 1:.0f}")
        figures["history.png"] = axes.figure
        names = list(searched_settings(finished[0]))
        if names and sum(trial.state.name == "COMPLETE" for trial in finished) > 1:
            axes = plots.plot_slice(study, params=names, target_name=label)
            figures["settings.png"] = np.atleast_1d(axes).flat[0].figure
            evaluator = optuna.importance.PedAnovaImportanceEvaluator()
            figures["importances.png"] = plots.plot_param_importances(
                study, params=names, evaluator=evaluator, target_name=label
            ).figure
        for name, figure in figures.items():
            with atomic_path(folder / name) as partial:
                figure.savefig(partial, format="png", dpi=120, bbox_inches="tight")
            pyplot.close(figure)
    return [folder / name for name in figures]

"""Report of a search: progress on the console, and the best trial as text."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from dien_jax.experiments.search_space import chosen_settings
from dien_jax.metrics.scores import METRICS
from dien_jax.training.progress import StepReport
from dien_jax.utils.console import ProgressLine

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

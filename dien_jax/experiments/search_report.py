"""What tuning tells: progress on the console, the best trial, and the history in a picture."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

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

HISTORY_FILE = "history.png"

SECONDS_BETWEEN_LINES = 30.0
"""Least time between lines of progress within an epoch, where there is no terminal."""


class Teller:
    """Tells on standard error how tuning goes: a bar on a terminal, lines elsewhere.

    A context manager.

    Args:
      trials: how many there are to be.
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
        self._now = ""
        self._told_at = time.monotonic()

    def __enter__(self) -> "Teller":
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def start(self, number: int, settings: Mapping[str, str]) -> None:
        """A trial begins, counted from 1."""
        self._now = f"trial {number} of {self._trials}"
        self._bar.update(self._task, completed=number - 1, description=self._now)
        chosen = (f"{name} {value}" for name, value in settings.items())
        self._console.print(f"{self._now}: {', '.join(chosen)}")

    def progress(
        self,
        step: int,
        metrics: Mapping[str, float],
        *,
        examples_per_second: float | None,
        learning_rate: float,
    ) -> None:
        """Where the trial is between two evaluations; see :meth:`Reporter.progress`."""
        text = f"{self._now}, step {step:,}, loss {metrics['loss']:.4f}"
        if examples_per_second is not None:
            text += f", {examples_per_second:,.0f} examples/s"
        self._tell(text, every=SECONDS_BETWEEN_LINES)

    def evaluation(self, record: Mapping[str, Any]) -> None:
        """An evaluation of the trial, as ``metrics.jsonl`` would hold it."""
        text = f"{self._now}, epoch {record['epoch']:.2f}: "
        text += f"validation {OBJECTIVE.label} {record['valid'][OBJECTIVE.name]:.4f}"
        self._tell(text, every=0.0)

    def _tell(self, text: str, *, every: float) -> None:
        self._bar.update(self._task, description=text)
        now = time.monotonic()
        if not self._console.is_terminal and now - self._told_at >= every:
            self._told_at = now
            self._console.print(f"  {text}")

    def end(
        self,
        finished: Sequence["optuna.trial.FrozenTrial"],
        best: "optuna.trial.FrozenTrial | None",
    ) -> None:
        """The last of the finished trials is over."""
        text = f"{self._now}: {_outcome(finished[-1])}"
        if best is not None:
            text += f"; best {best.value:.4f}, trial {finished.index(best) + 1}"
        self._console.print(text)


def summary(
    finished: Sequence["optuna.trial.FrozenTrial"], best: "optuna.trial.FrozenTrial"
) -> str:
    """The best trial and its settings, for standard output."""
    diverged = sum("diverged" in trial.user_attrs for trial in finished)
    pruned = sum(trial.state.name == "PRUNED" for trial in finished) - diverged
    counts = "".join(
        f", {count} {what}" for count, what in ((pruned, "pruned"), (diverged, "diverged")) if count
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
    """What was drawn for a trial, as text; settings that the space fixes are left out."""
    found = {}
    for name, value in chosen_settings(trial.params).items():
        if not trial.distributions[name].single():
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
            found[name] = text.replace(" ", "")
    return found


def draw_history(finished: Sequence["optuna.trial.FrozenTrial"], folder: Path) -> Path | None:
    """Draws the validation AUC of each trial, and the best so far, to ``history.png``.

    A pruned trial is drawn at the best it had reached.

    Returns:
      The picture; None where matplotlib is not installed or no trial got as far as a value.

    Raises:
      OSError: when it cannot be written.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        return None
    reached = [
        (number, max(trial.intermediate_values.values()), trial.state.name == "COMPLETE")
        for number, trial in enumerate(finished, start=1)
        if trial.intermediate_values
    ]
    if not reached:
        return None
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    best, best_line = None, []
    for number, value, complete in reached:
        if complete and (best is None or value > best):
            best = value
        if best is not None:
            best_line.append((number, best))
    if best_line:
        numbers, values = zip(*[*best_line, (len(finished), best)], strict=True)
        axes.step(numbers, values, where="post", color="C1", label="best so far", zorder=1)
    for complete, label, face in ((True, "trained to the end", "C0"), (False, "pruned", "none")):
        points = [(number, value) for number, value, each in reached if each is complete]
        if points:
            numbers, values = zip(*points, strict=True)
            axes.scatter(
                numbers, values, s=30, facecolors=face, edgecolors="C0", label=label, zorder=2
            )
    axes.set(xlabel="trial", ylabel=f"best validation {OBJECTIVE.label}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, fontsize="small")
    file = folder / HISTORY_FILE
    with atomic_path(file) as partial:
        figure.savefig(partial, format="png", dpi=120)
    return file


def _outcome(trial: "optuna.trial.FrozenTrial") -> str:
    epochs = f"{trial.user_attrs.get('epochs', 0):g} epochs"
    if "diverged" in trial.user_attrs:
        return f"diverged after {epochs}"
    if trial.state.name == "PRUNED":
        return f"pruned after {epochs}"
    return f"validation {OBJECTIVE.label} {trial.value:.4f} after {epochs}"

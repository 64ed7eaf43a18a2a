"""The result of a finished run: ``result.json``, the model card and the learning curves."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dien_jax.data.dataset import Dataset, training_events
from dien_jax.metrics.scores import METRICS, auc
from dien_jax.runs.folder import (
    RESULT_FILE,
    ListMetrics,
    Metrics,
    Seed,
    read_evaluations,
    read_result,
)
from dien_jax.runs.model_card import lists_line
from dien_jax.utils.console import aligned
from dien_jax.utils.files import write_json
from dien_jax.utils.json_values import Count, NotNegative
from dien_jax.utils.plots import new_figure, save_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COUNTS_ALONE = "counts alone"
"""Name of the tower among baselines."""
CLEAR_MARGIN = 0.01
"""A smaller difference of AUC is small enough to be remarked."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """The result of a finished run: ``result.json`` of its folder.

    >>> from dien_jax import resume
    >>> result = resume("runs/first")
    >>> 0 < result.best_step <= result.steps, sorted(result.test)[:2]
    (True, ['auc', 'auc_known'])
    >>> "GAUC" in str(result)  # `print` shows a table and remarks
    True

    Attributes:
      run_dir, preset, data, seed: run folder, preset, path of the dataset and random seed.
      model: name of the model in the paper's table, or ``"custom"``.
      steps, epochs: length of the training.
      best_step: step of the checkpoint with the best validation score.
      valid, test: metrics of that checkpoint by name, with calibrated scores; None where undefined.
      valid_before: those before the first step of a warm start, not calibrated; None without one.
      train_examples_per_second: training speed without compilation and evaluation; None where
        nothing was timed.
      wall_seconds: duration, over all processes of the run.
      device: kind of the device.
      versions: versions of Python and of the packages that affect the result.
      baselines: test AUC of popularity, of the tower alone (``"counts alone"``) if the model has
        one and, if the data has true probabilities, of these (``"best possible"``).
      lists: metrics of lists over all items for clicks of the test split, see
        ``measure_finished`` of :mod:`dien_jax.inference.list_metrics`; None where not measured.
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
    valid_before: Metrics | None
    train_examples_per_second: NotNegative | None
    wall_seconds: NotNegative
    device: str
    versions: dict[str, str]
    baselines: dict[str, NotNegative | None]
    lists: ListMetrics | None

    def __repr__(self) -> str:
        """Return folder and preset, and test AUC and HR@10 of the model and of simple models."""
        values = {"test AUC": self.test.get("auc"), **self.baselines}
        if self.lists is not None:
            simple = self.lists["hr_10_popularity"], self.lists.get("hr_10_sequential_rules")
            names = "test HR@10", "of popular items", "of sequential rules"
            values |= dict(zip(names, (self.lists["hr_10"], *simple), strict=True))
        known = [f"{name} {value:.4f}" for name, value in values.items() if value is not None]
        return ", ".join([f"RunResult({str(self.run_dir)!r}, preset {self.preset!r}", *known]) + ")"

    def __str__(self) -> str:
        """Return the table that ``python -m dien_jax.train`` prints, with remarks below it."""
        rows: dict[str, Any] = {"validation": self.valid, "test": self.test}
        rows |= {f"test, {name}": {"auc": value} for name, value in self.baselines.items()}
        lines = [["", *(metric.label for metric in METRICS.values()), "examples"]]
        for name, metrics in rows.items():
            count = f"{metrics['examples']:,}" if "examples" in metrics else ""
            lines.append([name, *(metric.text(metrics) for metric in METRICS.values()), count])
        return "\n".join([aligned(lines, left=1), *_remarks(self)])


def _remarks(result: RunResult) -> Iterator[str]:
    """Yield remarks: what the network adds to counts, and other notable results."""
    area = result.test.get("auc")
    alone, popularity = (result.baselines.get(name) for name in (COUNTS_ALONE, "popularity"))
    if alone is not None and area is not None:
        added = round(area - alone, 4)
        if added == 0:
            yield "Reading the history adds nothing to counts alone."
        elif 0 < added < CLEAR_MARGIN:
            yield f"Reading the history adds only {added:.4f} to the AUC of counts alone."
        else:
            change = f"adds {added:.4f} to" if added > 0 else f"takes {-added:.4f} from"
            yield f"Reading the history in order {change} the AUC of counts alone."
    if popularity is not None and area is not None and area - popularity < CLEAR_MARGIN:
        margin, little = area - popularity, f": less than {CLEAR_MARGIN}"
        side, end = ("below", "") if margin < 0 else ("above", little)
        yield f"The test AUC is {abs(margin):.4f} {side} that of popularity{end}."
    if result.lists is not None:
        yield lists_line(result.lists)
    if result.best_step >= result.steps:
        yield "The last evaluation was the best one: more epochs (train.epochs) may be better."


def simple_baselines(dataset: Dataset) -> dict[str, float | None]:
    """Return the AUC on the test split without histories: popularity, and the best possible."""
    test = dataset.splits["test"]
    events = training_events(dataset, np.asarray(test.item))
    baselines = {"popularity": auc(np.asarray(test.label), events)}
    dataset.check_files()
    best = dataset.meta.get("best_possible", {}).get("test", {})
    if "auc" in best:
        baselines["best possible"] = best["auc"]
    return baselines


def write_result(result: RunResult) -> None:
    """Write ``result.json`` last: a run that has it is complete."""
    draw_curves(result.run_dir)
    write_json(result.run_dir / RESULT_FILE, _content(result))


def read_finished(folder: Path) -> dict[str, Any] | None:
    """Return fields of a :class:`RunResult` from ``result.json``; None for an unfinished run."""
    result = read_result(folder, RunResult)
    return None if result is None else _content(result)


def _content(result: RunResult) -> dict[str, Any]:
    return {name: value for name, value in vars(result).items() if name != "run_dir"}


CURVES_FILE = "curves.png"
_CURVES = {
    "loss": {
        "training click loss": ("train", "click_loss"),
        "training auxiliary loss": ("train", "auxiliary_loss"),
        "validation log loss": ("valid", "logloss"),
    },
    "AUC": {"validation AUC": ("valid", "auc"), "validation GAUC": ("valid", "gauc")},
}


def draw_curves(folder: Path) -> None:
    """Draw ``curves.png`` of a run's evaluations, if there are any and matplotlib is installed."""
    records = read_evaluations(folder)
    if records and (figure := curves_figure(records)) is not None:
        save_picture(figure, folder / CURVES_FILE)


def curves_figure(records: Sequence[Mapping[str, Any]]) -> "Figure | None":
    """Draw losses and AUC by step from evaluations; None where matplotlib is not installed."""
    try:
        figure, panels = new_figure(10.0, 4.0, columns=2)
    except ImportError:
        return None
    of_tower = [record["step"] for record in records if record["part"] == "tower"]
    for axes, (title, lines) in zip(panels, _CURVES.items(), strict=True):
        for label, (group, name) in lines.items():
            points = [(record["step"], record.get(group, {}).get(name)) for record in records]
            points = [point for point in points if point[1]]  # the tower has no auxiliary loss: 0
            if points:
                axes.plot(*zip(*points, strict=True), marker=".", label=label)
        axes.set(xlabel="step", ylabel=title)
        if of_tower and axes.lines:
            axes.axvline(of_tower[-1], color="0.5", ls="--", label="the network begins")
        if axes.lines:  # above the curves, where it hides none
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    return figure

"""The report on a run as text: its metrics, where its model is good, and examples of its errors."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from dien_jax.data.schema import UNKNOWN
from dien_jax.inspection.example_view import example_lines, measure_lines
from dien_jax.inspection.examples import Inspector, available_measures, missing_measures
from dien_jax.metrics import diagnostics
from dien_jax.metrics.scores import CALIBRATION_BINS, METRICS, calibration_error, example_losses
from dien_jax.runs.summary import RunSummary, load_summaries
from dien_jax.runs.trained import SplitScores, TrainedModel, load_run, score_split
from dien_jax.utils.console import aligned

LISTED = 10
"""Number of examples of each kind in a table."""
SHOWN = 2
"""Number of examples of each kind that are shown with their histories."""

_ABSENT = "-"


def report_run(
    run_dir: str | Path,
    split: str = "valid",
    data: str | Path | None = None,
    encoding: str = "utf-8",
) -> Iterator[str]:
    """Report on a run and on the errors of its best model.

    Args:
      run_dir: the run folder.
      split: ``"valid"`` or ``"test"``, the examples to inspect.
      data: dataset folder; the run's own by default.
      encoding: that of the reader; bars are ``#`` where it lacks blocks.

    Yields:
      The sections as text: metrics, calibration, AUC by history length and by item popularity, and
      examples with attention and gates, the most confidently wrong ones first.

    Raises:
      UserError: if the run, its checkpoint or the data cannot be read, or the split is empty.

    >>> from dien_jax.inspection import report_run
    >>> print(next(report_run("runs/first")).splitlines()[1].split()[:2])
    ['split', 'AUC']
    """
    folder = Path(run_dir)
    [summary] = load_summaries([folder])
    trained = load_run(folder, data)
    yield _run_section(summary, trained)
    scored = score_split(trained, split)
    yield _calibration_section(scored, split)
    yield from _part_sections(trained, split, scored)
    model, inspector = trained.run.config.model, Inspector(trained)
    yield "\n".join([*measure_lines(available_measures(model)), *missing_measures(model)])
    flags = [str(run_dir), *([] if data is None else ["--data", str(data)]), "--split", split]
    command = f"python -m dien_jax.explain {shlex.join(flags)}"
    picks = diagnostics.pick(scored.labels, scored.scores, LISTED)
    titles = {
        "Wrong: not clicked, at the highest probabilities": picks.false_alarms,
        "Wrong: clicked, at the lowest probabilities": picks.misses,
        "Right: clicked, at the highest probabilities": picks.hits,
        "Right: not clicked, at the lowest probabilities": picks.rejections,
        "Typical: loss near the median": picks.typical,
    }
    for title, numbers in titles.items():
        if numbers:
            title = f"{title}; {command} --example NUMBER"
            yield _table(title, _rows(inspector, split, numbers, scored), left=2)
            for example in inspector.examples(split, numbers[:SHOWN]):
                yield "\n".join(example_lines(example, inspector.names.feature, encoding))


def _number(value: float | None, undefined: str = _ABSENT) -> str:
    return undefined if value is None else f"{value:.4f}"


def _table(title: str, rows: Sequence[Sequence[str]], left: int = 1) -> str:
    return f"{title}\n{aligned(rows, left=left)}"


def _run_section(summary: RunSummary, trained: TrainedModel) -> str:
    run, result = trained.run, summary.result
    rows = [["split", *(metric.label for metric in METRICS.values()), "examples"]]
    for split in ("valid", "test"):
        if (metrics := summary.metrics(split)) is not None:
            numbers = [_number(metrics.get(name), "undefined") for name in METRICS]
            rows.append([split, *numbers, f"{metrics.get('examples') or 0:,}"])
    step = f", step {summary.best_step:,}" if summary.best_step else ""
    about = f"{summary.name}: {run.preset}, seed {run.seed}, data {trained.dataset.path}{step}"
    if result is None:
        about += "; unfinished, these are its best metrics so far"
    simple = {} if result is None else result.get("baselines", {})
    known = [f"{name} {value:.4f}" for name, value in simple.items() if value is not None]
    last = [f"test AUC of simple models and parts: {', '.join(known)}"] if known else []
    return "\n".join([_table(about, rows), *last])


def _calibration_section(scored: SplitScores, split: str) -> str:
    calibration = diagnostics.calibration(scored.labels, scored.scores)
    text = (
        f"The mean click probability is {scored.scores.mean():.4f}, and {scored.labels.mean():.4f} "
        f"of the {split} examples are clicked.\nThe expected calibration error is "
        f"{calibration.error:.4f} over {diagnostics.BINS} bins of equal width and "
        f"{_number(calibration_error(scored.labels, scored.scores))} over {CALIBRATION_BINS} bins "
        f"of equal counts."
    )
    rows = [["click probability", "examples", "mean", "share clicked"]]
    for part in calibration.bins:
        means = map(_number, (part.score, part.clicks))
        rows.append([f"{part.low:.1f} to {part.high:.1f}", f"{part.examples:,}", *means])
    return _table(text, rows)


def _part_sections(trained: TrainedModel, split: str, scored: SplitScores) -> Iterator[str]:
    dataset, most = trained.dataset, trained.run.config.train.max_history
    examples = dataset.splits[split]
    starts = dataset.event_offsets[np.asarray(examples.sequence)]
    lengths = np.minimum(np.asarray(examples.history_end) - starts, most)
    item = np.asarray(examples.item)
    popularity = np.where(item == UNKNOWN, 0, np.asarray(dataset.popularity)[item])
    for subject, sizes, factor in (
        ("number of behaviours that the model reads", lengths, 2),
        ("training events of the item (0: unknown)", popularity, 4),
    ):
        rows = [[subject, "examples", "clicks", "AUC", "standard error"]]
        for part in diagnostics.auc_by_size(scored.labels, scored.scores, sizes, factor):
            figures = [_number(part.auc, "undefined"), _number(part.standard_error)]
            rows.append([part.name, f"{part.examples:,}", f"{part.clicks:,}", *figures])
        yield _table("AUC of parts, with DeLong's standard errors", rows)


def _rows(
    inspector: Inspector, split: str, numbers: list[int], scored: SplitScores
) -> list[list[str]]:
    """Return a table of examples of a split."""
    names, dataset = inspector.names, inspector.trained.dataset
    examples = dataset.splits[split].take(np.asarray(numbers))
    losses = example_losses(np.asarray(examples.label), scored.scores[numbers])
    lengths = examples.history_end - dataset.event_offsets[np.asarray(examples.sequence)]
    rows = [["user", "item", "example", "probability", "loss", "history", "popularity"]]
    for row, number in enumerate(numbers):
        item = int(examples.item[row])
        ids = [names.user(int(examples.group[row])), names.item(item), str(number)]
        fit = [f"{scored.scores[number]:.4f}", f"{losses[row]:.3f}"]
        rows.append([*ids, *fit, f"{lengths[row]:,}", f"{dataset.popularity[item]:,}"])
    return rows

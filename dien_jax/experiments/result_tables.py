"""Results of many runs as tables: CSV, Markdown and plots.

    OUT/results.csv            one line for each run
    OUT/results.md             by table and data set: mean and deviation, paired differences
    OUT/family.png, ...        one plot for each table, if matplotlib is installed

A difference to a baseline is the mean over the seeds that both rows have. It has two errors: over
seeds, and of the test split, which a mean over seeds does not reduce (the mean over seeds of
DeLong's, see :mod:`dien_jax.metrics.intervals`).
"""

import contextlib
import csv
import functools
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from dien_jax.errors import UserError, writing
from dien_jax.metrics.intervals import delong, paired_seeds
from dien_jax.metrics.scores import METRICS
from dien_jax.utils.files import atomic_file, atomic_path

RESULTS_FILE = "results.csv"
Line = dict[str, str]
"""One run; the keys are the columns of ``results.csv``."""

_REQUIRED = ("data", "row", "seed", "test_auc", "settings", "data_digest", "seconds")


class Table(NamedTuple):
    """A table of results.

    Attributes:
      rows: what its rows stand for, such as settings, by their names and in order.
      baselines: the rows that the others are compared with, by the labels that columns use.
      digests: twelve digits by row that identify its settings in ``results.csv``; by default they
        are derived from all settings.
    """

    rows: Mapping[str, Any]
    baselines: Mapping[str, str]
    digests: Mapping[str, str] = MappingProxyType({})


def read_results(file: Path) -> list[Line]:
    """Read the lines of ``results.csv``; none if the file does not exist.

    Raises:
      UserError: if the file cannot be read or lacks a column or a value.
    """
    if not file.exists():
        return []
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream)
            lines, columns = list(reader), reader.fieldnames or ()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file}: cannot be read: {error}") from error
    required = [name for name in _REQUIRED if name != "test_auc" or name in columns]
    for number, line in enumerate(lines, start=2):
        for column in required:
            if not line.get(column) or None in line:
                raise UserError(f"{file}, line {number}: expected a value for {column!r}")
    return lines


def write_tables(
    out: Path, lines: Sequence[Line], tables: Mapping[str, Table], predictions: str
) -> None:
    """Write ``results.csv``, and every table of the runs that are done.

    Args:
      out: the folder.
      lines: the runs.
      tables: by name, in order.
      predictions: name of the file of test scores in ``out/runs/DATA/ROW/SEED``.

    Raises:
      UserError: if a file cannot be written.
    """
    order: dict[str, int] = {}
    for table in tables.values():
        for row in table.rows:
            order.setdefault(row, len(order))
    lines = sorted(
        lines,
        key=lambda line: (line["data"], order.get(line["row"], len(order)), int(line["seed"])),
    )
    for table in tables.values():
        for label, baseline in table.baselines.items():
            for line in lines:
                line.setdefault(_error_column(label), "")
                if line["row"] in table.rows:
                    _add_test_error(line, label, baseline, lines, out, predictions)
    with writing(out):
        with atomic_file(out / RESULTS_FILE) as stream:
            columns = list(dict.fromkeys(column for line in lines for column in line))
            writer = csv.DictWriter(stream, columns, lineterminator="\n", restval="")
            writer.writeheader()
            writer.writerows(lines)
        with atomic_file(out / "results.md") as stream:
            stream.write("\n".join(_markdown(lines, tables)) + "\n")
        for name, table in tables.items():
            _draw(out / f"{name}.png", name, table, lines)


def folder_of(row: str) -> str:
    """Return the name of a row's folder."""
    return row.translate({ord(" "): "-"} | dict.fromkeys(map(ord, ",()")))


def _error_column(label: str) -> str:
    return f"auc_difference_error_{label.lower()}"


def _add_test_error(
    line: Line, label: str, baseline: str, lines: Sequence[Line], out: Path, name: str
) -> None:
    """Add DeLong's standard error of the difference in AUC to the baseline of the same seed."""
    column = _error_column(label)
    has_baseline = any(
        (other["data"], other["seed"], other["row"]) == (line["data"], line["seed"], baseline)
        for other in lines
    )
    if line[column] or line["row"] == baseline or not has_baseline:
        return
    folder = out / "runs" / line["data"]
    ours, theirs = (
        folder / folder_of(row) / line["seed"] / name for row in (line["row"], baseline)
    )
    if ours.exists() and theirs.exists():
        labels, scores = _scores(ours)
        difference = delong(labels, scores, _scores(theirs)[1])
        line[column] = "" if difference is None else f"{difference.standard_error:.5f}"


@functools.lru_cache(maxsize=512)
def _scores(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read labels and scores from a file of predictions."""
    with file.open(encoding="utf-8", newline="") as stream:
        rows = [(int(row["label"]), float(row["score"])) for row in csv.DictReader(stream)]
    labels, scores = zip(*rows, strict=True)
    return np.array(labels), np.array(scores, np.float32)


def _by_row(lines: Sequence[Line], data: str) -> dict[str, dict[str, Line]]:
    """Return the runs on one data set by row, then seed."""
    runs: dict[str, dict[str, Line]] = {}
    for line in lines:
        if line["data"] == data:
            runs.setdefault(line["row"], {})[line["seed"]] = line
    return runs


def _markdown(lines: Sequence[Line], tables: Mapping[str, Table]) -> list[str]:
    first, *others = METRICS.values()
    text = []
    for number, (name, table) in enumerate(tables.items()):
        header = ["row", "n", f"test {first.label}", *(metric.label for metric in others)]
        header += [f"validation {first.label}"]
        header += [f"AUC less {label}'s" for label in table.baselines]
        for data in dict.fromkeys(line["data"] for line in lines):
            runs = _by_row(lines, data)
            present = [row for row in table.rows if row in runs]
            if len(present) < (1 if number == 0 else 2):
                continue
            text += [f"### {name}: {data}", "", f"| {' | '.join(header)} |"]
            text += ["|---" * len(header) + "|"]
            for row in present:
                seeds = list(runs[row].values())
                cells = [row, str(len(seeds))]
                for column in (*(f"test_{metric}" for metric in METRICS), f"valid_{first.name}"):
                    cells.append(_mean_and_deviation(_values(seeds, column)))
                cells += [_difference(runs, row, *each) for each in table.baselines.items()]
                text.append("| " + " | ".join(cells) + " |")
            text.append("")
    text += [
        "Mean ± standard deviation over n seeds. Differences: mean over the seeds of both ± its "
        "standard error over seeds (± standard error of the test split, DeLong).",
        "",
    ]
    systems = {f"{line['device']}, Python {line['python']}, JAX {line['jax']}" for line in lines}
    return text + sorted(systems)


def _values(lines: Sequence[Line], column: str) -> list[float]:
    return [float(line[column]) for line in lines if line.get(column)]


def _mean_and_deviation(values: Sequence[float]) -> str:
    if not values:
        return "none"
    if len(values) == 1:
        return f"{values[0]:.4f}"
    return f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"


def _difference(runs: Mapping[str, Mapping[str, Line]], row: str, label: str, baseline: str) -> str:
    """Return the mean difference over shared seeds and its two errors."""
    seeds = [seed for seed in runs[row] if seed in runs.get(baseline, {})]
    if row == baseline or not seeds:
        return ""
    ours, theirs = (
        [float(runs[name][seed]["test_auc"]) for seed in seeds] for name in (row, baseline)
    )
    over_seeds = paired_seeds(ours, theirs)
    of_test = _values([runs[row][seed] for seed in seeds], _error_column(label))
    text = f"{statistics.mean(ours) - statistics.mean(theirs):+.4f}"
    if over_seeds is not None:
        text += f" ± {over_seeds.standard_error:.4f}"
    return text + (f" (± {statistics.mean(of_test):.4f})" if of_test else "")


def _draw(file: Path, title: str, table: Table, lines: Sequence[Line]) -> None:
    """Draw the AUC of every run as a dot, and the mean of each row with its deviation."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    runs_by_data = {
        data: runs
        for data in dict.fromkeys(line["data"] for line in lines)
        if sum(row in (runs := _by_row(lines, data)) for row in table.rows) > 1
    }
    if not runs_by_data:
        return
    split = "test" if any(line.get("test_auc") for line in lines) else "valid"
    columns = min(len(runs_by_data), 2)
    height = math.ceil(len(runs_by_data) / columns)
    figure = Figure(
        figsize=(5.2 * columns, (0.32 * len(table.rows) + 1.1) * height), layout="constrained"
    )
    axes = figure.subplots(height, columns, squeeze=False).ravel()
    for axis in axes[len(runs_by_data) :]:
        axis.set_visible(False)
    for axis, (data, runs) in zip(axes, runs_by_data.items(), strict=False):
        present = [row for row in table.rows if row in runs]
        scores = {row: _values(list(runs[row].values()), f"{split}_auc") for row in present}
        for place, values in enumerate(scores.values()):
            axis.plot(values, [place] * len(values), "o", color="tab:blue", alpha=0.35, ms=4)
            deviation = statistics.stdev(values) if len(values) > 1 else 0
            axis.errorbar(statistics.mean(values), place, xerr=deviation, fmt="D", color="tab:blue",
                          ms=5, capsize=3)  # fmt: skip
        for (label, baseline), colour in zip(
            table.baselines.items(), ("tab:orange", "tab:green"), strict=False
        ):
            if baseline in present:
                mean = statistics.mean(scores[baseline])
                axis.axvline(mean, color=colour, lw=0.9, ls="--", label=label)
        axis.set_yticks(range(len(present)), present)
        axis.invert_yaxis()
        axis.grid(axis="x", alpha=0.3)
        axis.set_xlabel("test AUC" if split == "test" else "validation AUC")
        counts = {len(runs[row]) for row in present}
        axis.set_title(f"{data} (n = {'-'.join(map(str, sorted({min(counts), max(counts)})))})")
    dashed = f"; dashed: means of {' and '.join(table.baselines)}" if table.baselines else ""
    figure.suptitle(f"{title}: each run, mean and deviation{dashed}")
    with atomic_path(file) as partial, contextlib.suppress(ValueError):
        figure.savefig(partial, dpi=140, format="png")

"""Results of many runs as tables: ``results.csv``, ``results.md`` and one plot for each table.

A difference to a baseline is the mean over the seeds that both rows have. It has two errors: over
seeds, and of the test split, which a mean over seeds does not reduce (the mean over seeds of
DeLong's, see :mod:`dien_jax.metrics.intervals`).
"""

import csv
import functools
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dien_jax.errors import UserError, writing
from dien_jax.metrics.intervals import delong, paired_seeds
from dien_jax.metrics.scores import METRICS
from dien_jax.utils.files import atomic_file
from dien_jax.utils.plots import new_figure, save_picture

Line = dict[str, str]
"""One run; the keys are the columns of ``results.csv``."""

_NUMERIC = re.compile("seed$|seconds$|(test|valid)_|auc_difference_error_")
_REQUIRED = ("data", "row", "seed", "test_auc", "settings", "data_digest", "seconds")


class Table(NamedTuple):
    """A table of results.

    Attributes:
      rows: what its rows stand for, such as settings, by their names and in order.
      baselines: the rows that the others are compared with, by the labels that columns use.
    """

    rows: Mapping[str, Any]
    baselines: Mapping[str, str]


def read_results(file: Path) -> list[Line]:
    """Read the lines of ``results.csv``, which must have all values; none without the file."""
    if not file.exists():
        return []
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream)
            lines = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file}: cannot be read: {error}") from error
    for number, line in enumerate(lines, start=2):
        for column in _REQUIRED:
            if not line.get(column) or None in line:
                raise UserError(f"{file}, line {number}: expected a value for {column!r}")
        for column, text in line.items():
            if text and _NUMERIC.match(column) and not _is_number(text, whole=column == "seed"):
                expected = f"expected a number of 0 or more for {column!r}"
                raise UserError(f"{file}, line {number}: {expected}, found {text[:40]!r}")
    return lines


def _is_number(text: str, *, whole: bool) -> bool:
    try:
        return int(text) >= 0 if whole else 0 <= float(text) < math.inf
    except ValueError:
        return False


def write_tables(
    out: Path, lines: Sequence[Line], tables: Mapping[str, Table], predictions: str
) -> None:
    """Write ``results.csv``, and every table, by name, of the runs that are done.

    The file ``predictions`` in ``out/runs/DATA/ROW/SEED`` has a run's test scores, if it exists.
    """
    rows = list(dict.fromkeys(row for table in tables.values() for row in table.rows))
    order = {row: place for place, row in enumerate(rows)}
    lines = sorted(
        lines, key=lambda line: (line["data"], order.get(line["row"], len(rows)), int(line["seed"]))
    )
    for table in tables.values():
        for label, baseline in table.baselines.items():
            for line in lines:
                error = line.setdefault(_error_column(label), "")
                if line["row"] in table.rows and not error:
                    error = _test_error(line, baseline, lines, out / "runs", predictions)
                    line[_error_column(label)] = error
    with writing(out):
        with atomic_file(out / "results.csv") as stream:
            columns = list(dict.fromkeys(column for line in lines for column in line))
            writer = csv.DictWriter(stream, columns, lineterminator="\n", restval="")
            writer.writeheader()
            writer.writerows(lines)
        with atomic_file(out / "results.md") as stream:
            stream.write("\n".join(_markdown(lines, tables)) + "\n")
        for name in tables:
            _draw(out / f"{name}.png", name, tables, lines)


def folder_of(row: str) -> str:
    """Return the name of a row's folder."""
    return row.translate({ord(" "): "-"} | dict.fromkeys(map(ord, ",()")))


def _error_column(label: str) -> str:
    return f"auc_difference_error_{label.lower()}"


def _test_error(line: Line, baseline: str, lines: Sequence[Line], runs: Path, file: str) -> str:
    """Return DeLong's standard error of the difference in AUC to the baseline of the same seed."""
    data, row, seed = line["data"], line["row"], line["seed"]
    if row == baseline or seed not in _by_row(lines, data).get(baseline, {}):
        return ""
    ours, theirs = (runs / data / folder_of(name) / seed / file for name in (row, baseline))
    if not (ours.exists() and theirs.exists()):
        return ""
    difference = delong(*_scores(ours), _scores(theirs)[1])
    return f"{difference.standard_error:.5f}" if difference else ""


@functools.lru_cache(maxsize=512)
def _scores(file: Path) -> tuple[np.ndarray, np.ndarray]:
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
    named = {column for line in lines for column in line}
    first, *others = (m for m in METRICS.values() if m.name == "auc" or f"test_{m.name}" in named)
    columns = *(f"test_{metric.name}" for metric in (first, *others)), f"valid_{first.name}"
    labels = [f"test {first.label}", *(m.label for m in others), f"validation {first.label}"]
    text = []
    for name, table in tables.items():
        header = ["row", "n", *labels, *(f"AUC less {label}'s" for label in table.baselines)]
        for data in dict.fromkeys(line["data"] for line in lines):
            runs = _by_row(lines, data)
            if not (present := _shown_rows(name, tables, runs)):
                continue
            text += [f"### {name}: {data}", ""]
            text += [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
            for row in present:
                seeds = list(runs[row].values())
                cells = [row, str(len(seeds))]
                cells += [mean_and_deviation(_values(seeds, column)) for column in columns]
                cells += [_difference(runs, row, *pair) for pair in table.baselines.items()]
                text += [f"| {' | '.join(cells)} |"]
            text += [""]
    systems = {
        f"{line.get('device')}, Python {line.get('python')}, JAX {line.get('jax')}"
        for line in lines
    }
    return [
        *text,
        "Mean ± standard deviation over n seeds. Differences: mean over the seeds of both ± its "
        "standard error over seeds (± standard error of the test split, DeLong).",
        "",
        *sorted(systems),
    ]


def _values(lines: Sequence[Line], column: str) -> list[float]:
    return [float(line[column]) for line in lines if line.get(column)]


def mean_and_deviation(values: Sequence[float]) -> str:
    """Return mean ± standard deviation as text; only the value if there is one."""
    if len(values) < 2:
        return f"{values[0]:.4f}" if values else "none"
    return f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"


def _difference(runs: Mapping[str, Mapping[str, Line]], row: str, label: str, baseline: str) -> str:
    """Return the mean difference over shared seeds and its two errors."""
    seeds = [seed for seed in runs[row] if seed in runs.get(baseline, {})]
    if row == baseline or not seeds:
        return ""
    ours, theirs = ([runs[name][seed] for seed in seeds] for name in (row, baseline))
    aucs = [[float(line["test_auc"]) for line in side] for side in (ours, theirs)]
    test_errors = _values(ours, _error_column(label))
    text = f"{statistics.mean(aucs[0]) - statistics.mean(aucs[1]):+.4f}"
    if (over_seeds := paired_seeds(*aucs)) is not None:
        text += f" ± {over_seeds.standard_error:.4f}"
    return text + (f" (± {statistics.mean(test_errors):.4f})" if test_errors else "")


def _shown_rows(
    name: str, tables: Mapping[str, Table], runs: Mapping[str, Mapping[str, Line]]
) -> list[str]:
    """Return the rows of a table that have runs; none if all of them are rows of earlier tables.

    Tables after the first one need two.
    """
    number = list(tables).index(name)
    present = [row for row in tables[name].rows if row in runs]
    earlier = {row for table in list(tables.values())[:number] for row in table.rows}
    return present if not number or (len(present) > 1 and set(present) - earlier) else []


def _draw(file: Path, name: str, tables: Mapping[str, Table], lines: Sequence[Line]) -> None:
    """Draw the AUC of every run as a dot, and the mean of each row with its deviation."""
    runs_by_data = {
        data: runs
        for data in dict.fromkeys(line["data"] for line in lines)
        if len(_shown_rows(name, tables, runs := _by_row(lines, data))) > 1
    }
    if not runs_by_data:
        return
    width = min(len(runs_by_data), 2)
    height = math.ceil(len(runs_by_data) / width)
    size = 5.2 * width, (0.32 * len(tables[name].rows) + 1.1) * height
    try:
        figure, axes = new_figure(*size, rows=height, columns=width)
    except ImportError:
        return
    for axis in axes[len(runs_by_data) :]:
        axis.set_visible(False)
    for axis, (data, runs) in zip(axes, runs_by_data.items(), strict=False):
        present = [row for row in tables[name].rows if row in runs]
        for place, row in enumerate(present):
            values = _values(list(runs[row].values()), "test_auc")
            axis.plot(values, [place] * len(values), "o", color="tab:blue", alpha=0.35, ms=4)
            deviation = statistics.stdev(values) if len(values) > 1 else 0
            axis.errorbar(statistics.mean(values), place, xerr=deviation, fmt="D", color="tab:blue",
                          ms=5, capsize=3)  # fmt: skip
        axis.set_yticks(range(len(present)), present, parse_math=False)
        axis.invert_yaxis()
        axis.grid(visible=False, axis="y")
        axis.set_xlabel("test AUC")
        axis.set_title(data, parse_math=False)
    figure.suptitle(f"{name}: each run, mean and deviation", parse_math=False)
    save_picture(figure, file)


def result_line(
    data: str, row: str, seed: object, result: Mapping[str, Any], settings: str, data_digest: str
) -> Line:
    """Return the line of a run in ``results.csv``; ``result`` has values as :class:`RunResult`."""
    values: dict[str, Any] = {"data": data, "row": row, "seed": seed}
    for split in ("valid", "test"):
        values |= {f"{split}_{metric}": result[split].get(metric) for metric in METRICS}
    if "epochs" in result:  # a baseline has none
        values |= {"epochs": round(result["epochs"], 2), "best_step": result["best_step"]}
        values["examples_per_second"] = round(result["train_examples_per_second"] or 0)
    values |= {"seconds": round(result["wall_seconds"], 1), "device": result["device"]}
    values |= {name: result["versions"][name] for name in ("jax", "python")}
    values |= {"settings": settings, "data_digest": data_digest}
    return {name: "" if value is None else str(value) for name, value in values.items()}


def metric_headers(*columns: str) -> list[list[str]]:
    """Return both header rows of the given columns and every metric of both splits."""
    gap = [""] * (len(METRICS) - 1)
    labels = [metric.label for metric in METRICS.values()]
    return [[*[""] * len(columns), "validation", *gap, "test", *gap], [*columns, *labels, *labels]]


def aligned(rows: Sequence[Sequence[str]], *, left: int) -> str:
    """Align columns: the first ``left`` flush left, the others flush right."""
    columns = []
    for number, column in enumerate(zip(*rows, strict=True)):
        width, adjust = max(map(len, column)), str.ljust if number < left else str.rjust
        columns.append([adjust(cell, width) for cell in column])
    return "\n".join("  ".join(cells).rstrip() for cells in zip(*columns, strict=True))

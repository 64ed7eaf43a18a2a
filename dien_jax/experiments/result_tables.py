"""Results of many runs as tables: CSV, Markdown and a picture.

    OUT/results.csv            one line a run
    OUT/results.md             by table and data set: mean and deviation, paired differences
    OUT/family.png, ...        the same, where matplotlib is installed

A difference to DIN or DIEN is the mean over the seeds that both have. It has two errors: over
seeds, and of the test split, on which a mean over seeds is no surer (the mean of DeLong's over
seeds, see :mod:`dien_jax.metrics.intervals`).
"""

import contextlib
import csv
import functools
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from dien_jax.errors import UserError
from dien_jax.metrics.intervals import delong, paired_seeds
from dien_jax.metrics.scores import METRICS
from dien_jax.utils.files import atomic_file, atomic_path

RESULTS_FILE = "results.csv"
BASELINES = ("din", "dien")
Line = dict[str, str]
"""One run; the keys are the columns of ``results.csv``."""

_REQUIRED = ("data", "row", "seed", "test_auc", "settings", "data_digest", "seconds")


def read_results(file: Path) -> list[Line]:
    """The lines of ``results.csv``; none where there is no such file.

    Raises:
      UserError: when the file cannot be read or lacks a column or a value.
    """
    if not file.exists():
        return []
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            lines = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file}: cannot be read: {error}") from error
    for number, line in enumerate(lines, start=2):
        for column in _REQUIRED:
            if not line.get(column) or None in line:
                raise UserError(f"{file}, line {number}: expected a value for {column!r}")
    return lines


def write_tables(
    out: Path, lines: Sequence[Line], tables: Mapping[str, Sequence[str]], predictions: str
) -> None:
    """Writes every table of the runs that are there.

    Args:
      out: the folder.
      lines: the runs.
      tables: the rows of each table, in their order.
      predictions: name of the file of test scores in ``out/runs/DATA/ROW/SEED``.

    Raises:
      UserError: when a file cannot be written.
    """
    order = {
        row: number for number, row in enumerate(row for rows in tables.values() for row in rows)
    }
    lines = sorted(
        lines,
        key=lambda line: (line["data"], order.get(line["row"], len(order)), int(line["seed"])),
    )
    for line in lines:
        for name in BASELINES:
            _add_test_error(line, name, lines, out, predictions)
    try:
        with atomic_file(out / RESULTS_FILE) as stream:
            writer = csv.DictWriter(
                stream,
                list(dict.fromkeys(k for line in lines for k in line)),
                lineterminator="\n",
                restval="",
            )
            writer.writeheader()
            writer.writerows(lines)
        with atomic_file(out / "results.md") as stream:
            stream.write("\n".join(_markdown(lines, tables)) + "\n")
        for table, rows in tables.items():
            _draw(out / f"{table}.png", table, rows, lines)
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be written: {error.strerror}") from error


def folder_of(row: str) -> str:
    """A row's name as the name of a folder."""
    return row.replace(" ", "-").replace(",", "")


def _add_test_error(line: Line, baseline: str, lines: Sequence[Line], out: Path, name: str) -> None:
    """DeLong's standard error of the difference in AUC to a baseline of the same seed."""
    column = f"auc_difference_error_{baseline}"
    line.setdefault(column, "")
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
    """Labels and scores of a file of predictions."""
    with file.open(encoding="utf-8", newline="") as stream:
        rows = [(int(row["label"]), float(row["score"])) for row in csv.DictReader(stream)]
    labels, scores = zip(*rows, strict=True)
    return np.array(labels), np.array(scores, np.float32)


def _by_row(lines: Sequence[Line], data: str) -> dict[str, dict[str, Line]]:
    """The runs on one data set: row, then seed."""
    found: dict[str, dict[str, Line]] = {}
    for line in lines:
        if line["data"] == data:
            found.setdefault(line["row"], {})[line["seed"]] = line
    return found


def _markdown(lines: Sequence[Line], tables: Mapping[str, Sequence[str]]) -> list[str]:
    out = []
    first, *others = METRICS.values()
    columns = [
        "row",
        "n",
        f"test {first.label}",
        *(metric.label for metric in others),
        f"validation {first.label}",
        *(f"AUC less {name.upper()}'s" for name in BASELINES),
    ]
    for table, rows in tables.items():
        for data in dict.fromkeys(line["data"] for line in lines):
            runs = _by_row(lines, data)
            present = [row for row in rows if row in runs]
            if table != next(iter(tables)) and len(present) < 2:
                continue
            out += [
                f"### {table}: {data}",
                "",
                f"| {' | '.join(columns)} |",
                "|---" * len(columns) + "|",
            ]
            for row in present:
                seeds = list(runs[row].values())
                cells = [row, str(len(seeds))]
                for column in (*(f"test_{name}" for name in METRICS), f"valid_{first.name}"):
                    cells.append(_mean_and_deviation(_values(seeds, column)))
                cells += [_difference(runs, row, baseline) for baseline in BASELINES]
                out.append("| " + " | ".join(cells) + " |")
            out.append("")
    where = sorted(
        {f"{line['device']}, Python {line['python']}, JAX {line['jax']}" for line in lines}
    )
    out += [
        "Mean ± standard deviation over n seeds. Differences: mean over the seeds of both ± its "
        "standard error over seeds (± standard error of the test split, DeLong).",
        "",
        *where,
    ]
    return out


def _values(lines: Sequence[Line], column: str) -> list[float]:
    return [float(line[column]) for line in lines if line.get(column)]


def _mean_and_deviation(values: Sequence[float]) -> str:
    if not values:
        return "none"
    if len(values) == 1:
        return f"{values[0]:.4f}"
    return f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"


def _difference(runs: Mapping[str, Mapping[str, Line]], row: str, baseline: str) -> str:
    """Mean difference over shared seeds and its two errors."""
    seeds = [seed for seed in runs[row] if seed in runs.get(baseline, {})]
    if row == baseline or not seeds:
        return ""
    ours, theirs = (
        [float(runs[name][seed]["test_auc"]) for seed in seeds] for name in (row, baseline)
    )
    found = paired_seeds(ours, theirs)
    of_test = _values([runs[row][seed] for seed in seeds], f"auc_difference_error_{baseline}")
    text = f"{statistics.mean(ours) - statistics.mean(theirs):+.4f}"
    if found is not None:
        text += f" ± {found.standard_error:.4f}"
    return text + (f" (± {statistics.mean(of_test):.4f})" if of_test else "")


def _draw(file: Path, title: str, rows: Sequence[str], lines: Sequence[Line]) -> None:
    """Test AUC of every run as a dot, and the mean of each row with its deviation."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    sets = [
        data
        for data in dict.fromkeys(line["data"] for line in lines)
        if sum(row in _by_row(lines, data) for row in rows) > 1
    ]
    if not sets:
        return
    columns = min(len(sets), 2)
    height = math.ceil(len(sets) / columns)
    figure = Figure(
        figsize=(5.2 * columns, (0.32 * len(rows) + 1.1) * height), layout="constrained"
    )
    axes = np.atleast_1d(figure.subplots(height, columns, squeeze=False)).ravel()
    for axis in axes[len(sets) :]:
        axis.set_visible(False)
    for axis, data in zip(axes, sets, strict=False):
        runs = _by_row(lines, data)
        present = [row for row in rows if row in runs]
        for place, row in enumerate(present):
            scores = _values(list(runs[row].values()), "test_auc")
            axis.plot(scores, [place] * len(scores), "o", color="tab:blue", alpha=0.35, ms=4)
            deviation = statistics.stdev(scores) if len(scores) > 1 else 0
            axis.errorbar(
                statistics.mean(scores),
                place,
                xerr=deviation,
                fmt="D",
                color="tab:blue",
                ms=5,
                capsize=3,
            )
        for baseline, colour in zip(BASELINES, ("tab:orange", "tab:green"), strict=True):
            if baseline in present:
                mean = statistics.mean(_values(list(runs[baseline].values()), "test_auc"))
                axis.axvline(mean, color=colour, lw=0.9, ls="--", label=baseline)
        axis.set_yticks(range(len(present)), present)
        axis.invert_yaxis()
        axis.grid(axis="x", alpha=0.3)
        axis.set_xlabel("test AUC")
        counts = {len(runs[row]) for row in present}
        axis.set_title(f"{data} (n = {'-'.join(map(str, sorted({min(counts), max(counts)})))})")
    figure.suptitle(f"{title}: each run, mean and deviation; dashed: means of DIN and DIEN")
    with atomic_path(file) as partial, contextlib.suppress(ValueError):
        figure.savefig(partial, dpi=140, format="png")

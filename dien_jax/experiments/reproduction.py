"""The paper's table on other data: settings x data sets x seeds, trained, scored and compared.

A run that is done is never repeated, so a command that was stopped continues, and commands may
share a folder:

    OUT/runs/DATA/ROW/SEED/     run folders, with test-predictions.csv
    OUT/results.csv             one line for each run; a copy in another OUT counts as done there
    OUT/results.md              mean, deviation and paired differences

A difference to a baseline is the mean over the seeds of both. It has two errors: over seeds, and of
the test split, which a mean over seeds does not reduce (the mean over seeds of DeLong's).
"""

import csv
import dataclasses
import functools
import hashlib
import importlib.util
import itertools
import json
import re
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from dien_jax.config.preset_files import with_settings
from dien_jax.config.presets import FAMILY, PRESETS
from dien_jax.config.settings import Config
from dien_jax.data.dataset import Dataset, data_digest, open_dataset
from dien_jax.errors import UserError, suggestion, writing
from dien_jax.experiments.baselines import BASELINES, folder_of, run_baselines
from dien_jax.experiments.comparison import mean_and_deviation
from dien_jax.metrics.intervals import delong, paired_seeds
from dien_jax.metrics.scores import METRICS
from dien_jax.runs.folder import CONFIG_FILE, Run, decided_config, versions
from dien_jax.runs.trained import score_split, write_predictions
from dien_jax.training.run import fit, resume
from dien_jax.utils.command import stop_signals
from dien_jax.utils.console import say
from dien_jax.utils.files import atomic_file, content, locked

PARTS: dict[str, dict[str, Any]] = {
    "wide_augru": {"model.auxiliary_weight": 0.0},
    "gru_att, auxiliary loss": {"model.evolution": "gru_attention"},
    "aigru, auxiliary loss": {"model.evolution": "aigru"},
    "agru, auxiliary loss": {"model.evolution": "agru"},
    "auxiliary weight 1": {"model.auxiliary_weight": 1.0},
    "auxiliary negatives uniform": {"model.auxiliary_distribution": "uniform"},
    "no statistics": {"model.statistics": False},
    "random embeddings": {"model.initial_embeddings": "random"},
    "no dropout": {"model.dropout": 0.0},
    "activation PReLU": {"model.activation": "prelu"},
    "attention bilinear": {"model.attention": "bilinear"},
    "gates of the program": {"model.gates": "authors"},
}
"""The settings in which each row of the table ``parts`` differs from ``wide_dien``."""
RUNS_FOLDER, RESULTS_FILE = "runs", "results.csv"
PREDICTIONS_FILE = "test-predictions.csv"
PARTS_TABLE = "parts"
MOST_SEEDS = 2**32

Line = dict[str, str]
"""One run; the keys are the columns of ``results.csv``."""
Key = tuple[str, str, str]  # digest of the data, settings and seed: what identifies a result

_NUMERIC = re.compile("seed$|seconds$|(test|valid)_|auc_difference_error_")
_NUMBER = re.compile(r"\d+(\.\d*)?(e-?\d+)?")
_REQUIRED = ("data", "row", "seed", "test_auc", "settings", "data_digest", "seconds")


class Table(NamedTuple):
    """A table of results.

    Attributes:
      rows: settings by the names of its rows, in order.
      baselines: the rows that the others are compared with, by the labels that columns use.
    """

    rows: Mapping[str, Any]
    baselines: Mapping[str, str]


class _Task(NamedTuple):
    """One run of a table."""

    dataset: Dataset
    data: str
    row: str
    seed: int
    config: Config
    key: Key


def settings_digest(config: Config) -> str:
    """Return twelve digits that identify settings."""
    values = json.dumps(json.loads(config.to_json()), sort_keys=True)
    return hashlib.sha256(values.encode()).hexdigest()[:12]


def _task(dataset: Dataset, row: str, seed: int, config: Config) -> _Task:
    """Return a run with the settings that its data decides."""
    decided = decided_config(config, dataset)
    key = (data_digest(dataset), settings_digest(decided), str(seed))
    return _Task(dataset, dataset.path.absolute().name, row, seed, decided, key)


def paper_tables() -> dict[str, Table]:
    """Return the tables of ``python -m dien_jax.reproduce``.

    ``family`` has the presets of the paper's networks, ``wide`` the same networks beside counts;
    results of both have baselines too. ``parts`` changes one part of ``wide_dien`` at a time.

    >>> from dien_jax import preset
    >>> paper_tables()["family"].rows["dien"] == preset("dien")
    True
    """
    rows, counts = {name: PRESETS[name] for name in FAMILY}, {"model.statistics": True}
    wide = {f"wide_{name}": with_settings(config, counts) for name, config in rows.items()}
    whole = wide["wide_dien"]
    parts = {"wide_dien": whole, **{row: with_settings(whole, PARTS[row]) for row in PARTS}}
    return {
        "family": Table(rows, {"DIN": "din", "DIEN": "dien"}),
        "wide": Table(wide, {"DIN": "wide_din", "DIEN": "wide_dien"}),
        PARTS_TABLE: Table(parts, {"DIEN": "wide_dien"}),
    }


def reproduce_table(
    data: Sequence[str | Path],
    out: str | Path,
    table: str = "family",
    rows: Sequence[str] = (),
    seeds: int = 5,
) -> None:
    """Train what is missing of a table of the paper's models, and write the tables.

    The tables ``family`` and ``wide`` have rows of the baselines too, fitted where they are missing
    and the extra ``baselines`` is installed.

    Args:
      data: dataset folders of different names, which the tables use.
      out: folder of runs and tables.
      table: a name in :func:`paper_tables`.
      rows: rows of the table to train; all of them by default.
      seeds: runs of each row, with the seeds 0 to ``seeds - 1``.

    Raises:
      UserError: if data, a run folder or ``out`` is at fault.
      Interrupted, NotFiniteError: as :func:`dien_jax.training.fit`.

    >>> reproduce_table(["data"], "table", seeds=0)
    Traceback (most recent call last):
    dien_jax.errors.UserError: --seeds must be 1 to 4294967296, got 0
    """
    tables, out = paper_tables(), Path(out)
    settings = tables[table].rows
    if unknown := [row for row in rows if row not in settings]:
        rest = f"{suggestion(unknown[0], settings)} (rows: {', '.join(settings)})"
        raise UserError(f"--rows {unknown[0]!r} is not a row of the table {table!r}{rest}")
    if not 1 <= seeds <= MOST_SEEDS:
        raise UserError(f"--seeds must be 1 to {MOST_SEEDS}, got {seeds}")
    if not data:
        raise UserError("--data must name one dataset folder or more")
    datasets = {}
    for dataset in map(open_dataset, data):
        name = dataset.path.absolute().name
        if name in datasets:
            raise UserError(f"--data folders must have different names, got {name} twice")
        datasets[name] = dataset
    tasks = [
        _task(dataset, row, seed, settings[row])
        for seed in range(seeds)
        for dataset in datasets.values()
        for row in rows or settings
    ]
    with writing(out, "--out"):
        out.mkdir(parents=True, exist_ok=True)
        if (names := content(out)) and not {RESULTS_FILE, RUNS_FOLDER} & {*names}:
            found = f"--out {out} is not empty and holds no {RESULTS_FILE}"
            raise UserError(f"{found}; choose another folder")
    with locked(out, f"--out {out}"):
        lines = read_results(out / RESULTS_FILE)
        known = {(line["data_digest"], line["settings"], line["seed"]): line for line in lines}
        if table != PARTS_TABLE:
            both = {**settings, **dict.fromkeys(BASELINES)}
            tables = {**tables, table: tables[table]._replace(rows=both)}
            _add_baselines(datasets, out, known)
        write_tables(out, list(known.values()), tables)
        missing = [task for task in tasks if task.key not in known]
        say(f"{len(tasks)} runs, {len(tasks) - len(missing)} of them done")
        for number, task in enumerate(missing):
            say(f"[{number + 1}/{len(missing)}] {task.data}, {task.row}, seed {task.seed}")
            result, (digest, chosen, _) = _train_and_test(task, out), task.key
            known[task.key] = _line(task.data, task.row, task.seed, result, chosen, digest)
            write_tables(out, list(known.values()), tables)
            jax.clear_caches()
        say(f"results are in {out}")


def _add_baselines(datasets: Mapping[str, Dataset], out: Path, known: dict[Key, Line]) -> None:
    """Fit the baselines of data sets that have none in ``known``, and add their lines.

    Their only seed is 0: a fit does not depend on a seed.
    """
    for name, dataset in datasets.items():
        digest = data_digest(dataset)
        if any((digest, row, "0") in known for row in BASELINES):
            continue
        if importlib.util.find_spec("lightgbm") is None:
            say("no rows of baselines: they need pip install 'dien_jax[baselines]'")
            return
        say(f"baselines of {name}")
        start = time.perf_counter()
        results = run_baselines(dataset.path)
        about: dict[str, Any] = {"wall_seconds": (time.perf_counter() - start) / len(results)}
        about |= {"device": jax.devices()[0].device_kind, "versions": versions()}
        for result in results:
            with writing(out, "--out"):
                folder = out / RUNS_FOLDER / name / folder_of(result.name) / "0"
                folder.mkdir(parents=True, exist_ok=True)
                _write_predictions(folder, dataset, result.scores["test"])
            line = _line(name, result.name, 0, result._asdict() | about, result.name, digest)
            known[digest, result.name, "0"] = line


def _write_predictions(folder: Path, dataset: Dataset, scores: np.ndarray) -> None:
    file = folder / PREDICTIONS_FILE
    with writing(file), atomic_file(file) as stream:
        write_predictions(stream, dataset, "test", scores)


def _train_and_test(task: _Task, out: Path) -> dict[str, Any]:
    """Train a run or resume it; write its test predictions."""
    folder = out / RUNS_FOLDER / task.data / folder_of(task.row) / str(task.seed)
    with stop_signals() as stop_signal:
        if (folder / CONFIG_FILE).exists():
            run = Run.load(folder)
            run.check_same_data(task.dataset)
            if run.config != task.config:
                raise UserError(f"{folder} was begun with other settings; choose another --out")
            result = resume(folder, stop_signal=stop_signal)
        else:
            result = fit(task.config, data=task.dataset, run_dir=folder, seed=task.seed,
                         preset=task.row, stop_signal=stop_signal)  # fmt: skip
    if not (folder / PREDICTIONS_FILE).exists():
        scores = score_split(folder, "test", data=task.dataset).scores
        _write_predictions(folder, task.dataset, scores)
    return dataclasses.asdict(result)


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
            digits = text.isdecimal() if column == "seed" else _NUMBER.fullmatch(text)
            if text and _NUMERIC.match(column) and not digits:
                expected = f"expected a number of 0 or more for {column!r}"
                raise UserError(f"{file}, line {number}: {expected}, found {text[:40]!r}")
    return lines


def write_tables(out: Path, lines: Sequence[Line], tables: Mapping[str, Table]) -> None:
    """Write ``results.csv``, and every table, by name, of the runs that are done."""
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
                    error = _test_error(line, baseline, out / RUNS_FOLDER)
                    line[_error_column(label)] = error
    with writing(out):
        with atomic_file(out / RESULTS_FILE) as stream:
            columns = list(dict.fromkeys(column for line in lines for column in line))
            writer = csv.DictWriter(stream, columns, lineterminator="\n", restval="")
            writer.writeheader()
            writer.writerows(lines)
        with atomic_file(out / "results.md") as stream:
            stream.write("\n".join(_markdown(lines, tables)) + "\n")


def _error_column(label: str) -> str:
    return f"auc_difference_error_{label.lower()}"


def _test_error(line: Line, baseline: str, runs: Path) -> str:
    """Return DeLong's standard error of the difference in AUC to the baseline of the same seed."""
    data, row, seed = line["data"], line["row"], line["seed"]
    folders = (runs / data / folder_of(name) / seed for name in (row, baseline))
    ours, theirs = (folder / PREDICTIONS_FILE for folder in folders)
    if row == baseline or not (ours.exists() and theirs.exists()):
        return ""
    difference = delong(*_scores(ours), _scores(theirs)[1])
    return f"{difference.standard_error:.5f}" if difference else ""


@functools.lru_cache(maxsize=512)
def _scores(file: Path) -> tuple[np.ndarray, np.ndarray]:
    with file.open(encoding="utf-8", newline="") as stream:
        rows = [(int(row["label"]), float(row["score"])) for row in csv.DictReader(stream)]
    labels, scores = zip(*rows, strict=True)
    return np.array(labels), np.array(scores, np.float32)


def _markdown(lines: Sequence[Line], tables: Mapping[str, Table]) -> list[str]:
    named = {column for line in lines for column in line}
    first, *others = (m for m in METRICS.values() if m.name == "auc" or f"test_{m.name}" in named)
    columns = *(f"test_{metric.name}" for metric in (first, *others)), f"valid_{first.name}"
    labels = [f"test {first.label}", *(m.label for m in others), f"validation {first.label}"]
    text = []
    for name, table in tables.items():
        header = ["row", "n", *labels, *(f"AUC less {label}'s" for label in table.baselines)]
        for data in dict.fromkeys(line["data"] for line in lines):
            runs: dict[str, dict[str, Line]] = {}  # by row, then seed
            for line in lines:
                if line["data"] == data:
                    runs.setdefault(line["row"], {})[line["seed"]] = line
            if not (present := _shown_rows(name, tables, runs)):
                continue
            rule = "|---" * len(header) + "|"
            text += [f"### {name}: {data}", "", f"| {' | '.join(header)} |", rule]
            for row in present:
                seeds = list(runs[row].values())
                cells = [row, str(len(seeds))]
                cells += [mean_and_deviation(_values(seeds, column)) for column in columns]
                cells += [_difference(runs, row, *pair) for pair in table.baselines.items()]
                text += [f"| {' | '.join(cells)} |"]
            text += [""]
    systems = {"{device}, Python {python}, JAX {jax}".format(**line) for line in lines}
    return [
        *text,
        "Mean ± standard deviation over n seeds. Differences: mean over the seeds of both ± its "
        "standard error over seeds (± standard error of the test split, DeLong).",
        "",
        *sorted(systems),
    ]


def _values(lines: Sequence[Line], column: str) -> list[float]:
    return [float(line[column]) for line in lines if line.get(column)]


def _difference(runs: Mapping[str, Mapping[str, Line]], row: str, label: str, baseline: str) -> str:
    """Return the mean difference over shared seeds and its two errors."""
    seeds = [seed for seed in runs[row] if seed in runs.get(baseline, {})]
    if row == baseline or not seeds:
        return ""
    ours, theirs = ([runs[name][seed] for seed in seeds] for name in (row, baseline))
    aucs = [_values(side, "test_auc") for side in (ours, theirs)]
    test_errors = _values(ours, _error_column(label))
    text = f"{statistics.mean(aucs[0]) - statistics.mean(aucs[1]):+.4f}"
    if (over_seeds := paired_seeds(*aucs)) is not None:
        text += f" ± {over_seeds.standard_error:.4f}"
    return text + (f" (± {statistics.mean(test_errors):.4f})" if test_errors else "")


def _shown_rows(
    name: str, tables: Mapping[str, Table], runs: Mapping[str, Mapping[str, Line]]
) -> list[str]:
    """Return the rows of a table that have runs; none if all of them are rows of earlier tables."""
    earlier = itertools.takewhile(lambda other: other != name, tables)
    present = [row for row in tables[name].rows if row in runs]
    return present if set(present).difference(*(tables[other].rows for other in earlier)) else []


def _line(
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
    values |= {"jax": result["versions"]["jax"], "python": result["versions"]["python"]}
    values |= {"settings": settings, "data_digest": data_digest}
    return {name: "" if value is None else str(value) for name, value in values.items()}

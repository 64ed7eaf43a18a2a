"""Studies: settings x data sets x seeds, trained, scored and written as tables.

A run that is done is never repeated, so a study that was stopped continues, and studies may share
a folder:

    OUT/runs/DATA/ROW/SEED/     run folders, with test-predictions.csv
    OUT/results.csv             one line for each run; a copy in another OUT counts as done there
    OUT/results.md, *.png       mean, deviation and paired differences; a plot for each table
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from dien_jax.config.preset_files import with_settings
from dien_jax.config.presets import FAMILY, PRESETS
from dien_jax.config.settings import Config
from dien_jax.data.dataset import Dataset, open_dataset
from dien_jax.data.digests import data_digest
from dien_jax.errors import UserError, suggestion, writing
from dien_jax.experiments.baselines import BASELINES, add_baselines
from dien_jax.experiments.result_tables import (
    Line,
    Table,
    folder_of,
    read_results,
    result_line,
    write_tables,
)
from dien_jax.runs.folder import CONFIG_FILE, Run, decided_config
from dien_jax.runs.scoring import score_split, write_predictions
from dien_jax.training.run import fit, resume
from dien_jax.utils.command import stop_signals
from dien_jax.utils.console import say
from dien_jax.utils.files import atomic_file, locked, make_folder

PARTS: dict[str, dict[str, Any]] = {
    "augru": {"model.auxiliary_weight": 0.0},
    "gru_att, auxiliary loss": {"model.evolution": "gru_attention"},
    "aigru, auxiliary loss": {"model.evolution": "aigru"},
    "agru, auxiliary loss": {"model.evolution": "agru"},
    "auxiliary weight 1": {"model.auxiliary_weight": 1.0},
    "auxiliary negatives uniform": {"model.auxiliary_distribution": "uniform"},
    "no statistics": {"model.statistics": False},
    "no dropout": {"model.dropout": 0.0},
    "activation PReLU": {"model.activation": "prelu"},
    "attention bilinear": {"model.attention": "bilinear"},
    "gates of the program": {"model.gates": "authors"},
}
"""The settings in which each row of the table ``parts`` differs from the preset ``dien``."""
RUNS_FOLDER, RESULTS_FILE = "runs", "results.csv"
PREDICTIONS_FILE = "test-predictions.csv"
FAMILY_TABLE = "family"
MOST_SEEDS = 2**32


class _Task(NamedTuple):
    """One run of a study; ``key``, of data, settings and seed, identifies its result."""

    dataset: Dataset
    data: str
    row: str
    seed: int
    config: Config
    key: tuple[str, str, str]


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

    ``family`` has the presets of the paper's models; its results have baselines too. ``parts``
    changes one part of the preset ``dien`` at a time.

    >>> from dien_jax import preset
    >>> paper_tables()["family"].rows["dien"] == preset("dien")
    True
    """
    rows = {name: PRESETS[name] for name in FAMILY}
    changed = {row: with_settings(rows["dien"], changes) for row, changes in PARTS.items()}
    return {
        FAMILY_TABLE: Table(rows, {"DIN": "din", "DIEN": "dien"}),
        "parts": Table({"dien": rows["dien"], **changed}, {"DIEN": "dien"}),
    }


def reproduce_table(
    data: Sequence[Path], out: Path, table: str = "family", rows: Sequence[str] = (), seeds: int = 5
) -> None:
    """Train what is missing of a table of the paper's models, and write the tables.

    Args:
      data: dataset folders; the tables use their names.
      out: folder of runs and tables.
      table: a name in :func:`paper_tables`.
      rows: rows of the table to train; all of them by default.
      seeds: runs of each row, with the seeds 0 to ``seeds - 1``.

    Raises:
      UserError, Interrupted, NotFiniteError: as :func:`run_study`.

    >>> from pathlib import Path
    >>> reproduce_table([Path("data")], Path("table"), seeds=0)
    Traceback (most recent call last):
    dien_jax.errors.UserError: --seeds must be 1 to 4294967296, got 0
    """
    tables = paper_tables()
    known = tables[table].rows
    for row in rows:
        if row not in known:
            raise UserError(
                f"--rows {row!r} is not a row of the table {table!r}{suggestion(row, known)} "
                f"(rows: {', '.join(known)})"
            )
    if not 1 <= seeds <= MOST_SEEDS:
        raise UserError(f"--seeds must be 1 to {MOST_SEEDS}, got {seeds}")
    if not data:
        raise UserError("--data must name one dataset folder or more")
    chosen, datasets = {row: known[row] for row in rows or known}, list(map(open_dataset, data))
    with_baselines = table == FAMILY_TABLE
    run_study(chosen, datasets, range(seeds), out, tables=tables, baselines=with_baselines)


def run_study(
    rows: Mapping[str, Config],
    datasets: Sequence[Dataset],
    seeds: Sequence[int],
    out: Path,
    *,
    tables: Mapping[str, Table] | None = None,
    baselines: bool = False,
) -> list[Line]:
    """Train every row on every data set with every seed, unless it is done; write the tables.

    Args:
      rows: settings by the row's name.
      datasets: the data; folders must have different names.
      seeds: random seeds.
      out: folder of runs and tables.
      tables: the tables to write, by name; by default one, ``results``, of all rows.
      baselines: whether the first table has rows of the baselines too, fitted where they are
        missing and the extra ``baselines`` is installed.

    Returns:
      The lines of the study's runs, keyed by the columns of ``results.csv``, in order of seeds,
      then data sets, then rows.

    Raises:
      UserError: if data, a run folder or ``out`` is at fault.
      Interrupted, NotFiniteError: as :func:`dien_jax.training.fit`.
    """
    names = [dataset.path.absolute().name for dataset in datasets]
    if len(set(names)) < len(names):
        raise UserError(f"--data folders must have different names, got {', '.join(names)}")
    tables = tables or {"results": Table(rows, {})}
    tasks = [
        _task(dataset, row, seed, rows[row])
        for seed in seeds
        for dataset in datasets
        for row in rows
    ]
    make_folder(out, "--out", RESULTS_FILE, RUNS_FOLDER)
    with locked(out, f"--out {out}"):
        known = _known(out)
        if baselines:
            first, table = next(iter(tables.items()))
            table = table._replace(rows={**table.rows, **dict.fromkeys(BASELINES)})
            tables = {**tables, first: table}
            add_baselines(names, datasets, out, known, PREDICTIONS_FILE)
            write_tables(out, list(known.values()), tables, PREDICTIONS_FILE)
        missing = [task for task in tasks if task.key not in known]
        done = len(tasks) - len(missing)
        say(f"{len(tasks)} runs, {done} of them done")
        for number, task in enumerate(missing):
            name = f"{task.data}, {task.row}, seed {task.seed}"
            say(f"[{number + 1}/{len(missing)}] {name}")
            result = _train_and_test(task, out)
            digest, settings, _ = task.key
            known[task.key] = result_line(task.data, task.row, task.seed, result, settings, digest)
            write_tables(out, list(known.values()), tables, PREDICTIONS_FILE)
            jax.clear_caches()
        if not missing:
            write_tables(out, list(known.values()), tables, PREDICTIONS_FILE)
        say(f"results are in {out}")
    return [known[task.key] for task in tasks]


def _known(out: Path) -> dict[tuple[str, str, str], Line]:
    """Return the lines of ``results.csv`` by key."""
    lines = read_results(out / RESULTS_FILE)
    return {(line["data_digest"], line["settings"], line["seed"]): line for line in lines}


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
    if not (file := folder / PREDICTIONS_FILE).exists():
        scores = score_split(folder, "test", data=task.dataset).scores
        with writing(file), atomic_file(file) as stream:
            write_predictions(stream, task.dataset, "test", scores)
    return dataclasses.asdict(result)

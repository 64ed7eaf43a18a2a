"""The paper's table on other data: settings x data sets x seeds, which are trained and compared.

    OUT/runs/DATA/ROW/SEED/     run folders
    OUT/runs/DATA/baselines/    simple models, one folder each
    OUT/results.csv             one line for each finished run and each simple model of OUT

Finished runs are not repeated, so a command that was stopped can be run again to continue, and
several commands may share a folder.
"""

import csv
import importlib.util
import io
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from dien_jax.config.presets import FAMILY, PRESETS, with_settings
from dien_jax.config.settings import Config
from dien_jax.data.dataset import Dataset, data_digest, open_dataset
from dien_jax.errors import UserError, suggestion, writing
from dien_jax.experiments.baselines import BASELINES, folder_of, run_baselines
from dien_jax.experiments.comparison import seed_tables
from dien_jax.metrics.scores import METRICS
from dien_jax.runs.folder import CONFIG_FILE, RESULT_FILE, Run, decided_config
from dien_jax.runs.summary import load_summaries
from dien_jax.training.result import COUNTS_ALONE
from dien_jax.training.run import fit, resume
from dien_jax.utils.command import stop_signals
from dien_jax.utils.console import say
from dien_jax.utils.files import content, locked, write_text

PARTS: dict[str, dict[str, Any]] = {
    "wide_augru": {"model.auxiliary_weight": 0.0},
    "gru_att, auxiliary loss": {"model.evolution": "gru_attention"},
    "aigru, auxiliary loss": {"model.evolution": "aigru"},
    "agru, auxiliary loss": {"model.evolution": "agru"},
    "auxiliary weight 1": {"model.auxiliary_weight": 1.0},
    "no statistics": {"model.statistics": False},
    "random embeddings": {"model.initial_embeddings": "random"},
    "no dropout": {"model.dropout": 0.0},
    "activation PReLU": {"model.activation": "prelu"},
    "attention bilinear": {"model.attention": "bilinear"},
    "gates of the program": {"model.gates": "authors"},
    "order shuffled": {"train.order": "shuffled"},
}
"""The settings in which each row of the table ``parts`` differs from ``wide_dien``."""
RUNS_FOLDER, BASELINES_FOLDER, RESULTS_FILE = "runs", "baselines", "results.csv"
PARTS_TABLE = "parts"
MOST_SEEDS = 2**32


def paper_tables() -> dict[str, dict[str, Config]]:
    """Return the rows of the tables of ``python -m dien_jax.reproduce``; the first is DIEN.

    ``family`` has the presets of the paper's networks, and ``wide`` the same networks with counts;
    results of both include baselines. ``parts`` changes one part of ``wide_dien`` at a time.

    >>> from dien_jax import preset
    >>> paper_tables()["family"]["dien"] == preset("dien")
    True
    """
    rows, counts = {name: PRESETS[name] for name in reversed(FAMILY)}, {"model.statistics": True}
    wide = {f"wide_{name}": with_settings(config, counts) for name, config in rows.items()}
    whole = wide["wide_dien"]
    parts = {"wide_dien": whole} | {row: with_settings(whole, PARTS[row]) for row in PARTS}
    return {"family": rows, "wide": wide, PARTS_TABLE: parts}


def reproduce_table(
    data: Sequence[str | Path],
    out: str | Path,
    table: str = "family",
    rows: Sequence[str] = (),
    seeds: int = 5,
) -> str:
    """Train the missing runs of a table of the paper's models, and return the results as text.

    For each dataset there are tables of all runs, of means over seeds, and of differences from the
    first row over seeds. ``family`` and ``wide`` have rows for the baselines too; missing ones are
    fitted if the extra ``baselines`` is installed.

    Args:
      data: dataset folders of different names, which the tables use.
      out: folder of runs and ``results.csv``.
      table: a name in :func:`paper_tables`.
      rows: rows of the table to train; all of them by default.
      seeds: runs of each row, with the seeds 0 to ``seeds - 1``.

    Raises:
      UserError: if data, a run folder or ``out`` cannot be used.
      Interrupted, NotFiniteError: as :func:`dien_jax.training.fit`.

    >>> reproduce_table(["data"], "table", seeds=0)
    Traceback (most recent call last):
    dien_jax.errors.UserError: --seeds must be 1 to 4294967296, got 0
    """
    settings, out = paper_tables()[table], Path(out)
    if unknown := [row for row in rows if row not in settings]:
        rest = f"{suggestion(unknown[0], settings)} (rows: {', '.join(map(repr, settings))})"
        raise UserError(f"--rows {unknown[0]!r} is not a row of the table {table!r}{rest}")
    if len({*rows}) < len(rows):
        raise UserError(f"--rows must name each row once, got {', '.join(map(repr, rows))}")
    if not 1 <= seeds <= MOST_SEEDS:
        raise UserError(f"--seeds must be 1 to {MOST_SEEDS}, got {seeds}")
    if not data:
        raise UserError("--data must name one dataset folder or more")
    datasets: dict[str, Dataset] = {}
    for dataset in map(open_dataset, data):
        if (name := Path(os.path.normpath(dataset.path.absolute())).name) in datasets:
            raise UserError(f"--data folders must have different names, got {name} twice")
        datasets[name] = dataset
    with writing(out, "--out"):
        out.mkdir(parents=True, exist_ok=True)
        if (names := content(out)) and RUNS_FOLDER not in names:
            found = f"--out {out} is not empty and holds no folder {RUNS_FOLDER!r}"
            raise UserError(f"{found}; choose another folder")
    with locked(out, f"--out {out}"):
        folders: dict[str, list[Path]] = {name: [] for name in datasets}
        tasks = []
        for seed, name, row in itertools.product(range(seeds), datasets, rows or settings):
            folder = out / RUNS_FOLDER / name / folder_of(row) / str(seed)
            folders[name].append(folder)
            tasks.append((folder, datasets[name], row, seed))
        done = sum((folder / RESULT_FILE).exists() for folder, *_ in tasks)
        say(f"{len(tasks)} runs, {done} of them done")
        if table != PARTS_TABLE:
            has_trees = importlib.util.find_spec("lightgbm") is not None
            for name, dataset in datasets.items():
                folder = out / RUNS_FOLDER / name / BASELINES_FOLDER
                if not folder.exists() and has_trees:
                    run_baselines(dataset.path, folder)
                elif not folder.exists():
                    say("no rows of baselines: they need pip install 'dien_jax[baselines]'")
                paths = [folder / folder_of(baseline) for baseline in BASELINES]
                folders[name] += [path for path in paths if path.exists()]
        for number, (folder, dataset, row, seed) in enumerate(tasks, start=1):
            say(f"[{number}/{len(tasks)}] {folder}")
            _train(folder, dataset, settings[row], row, seed)
            write_results(out)
            jax.clear_caches()
        say(f"results are in {out}")
        tables = {name: seed_tables(load_summaries(runs)) for name, runs in folders.items()}
        return "\n\n".join(f"{name}\n{one}" for name, parts in tables.items() for one in parts)


def _train(folder: Path, dataset: Dataset, config: Config, row: str, seed: int) -> None:
    """Train a run, or resume it; do nothing if it is finished."""
    with stop_signals() as stop_signal:
        if not (folder / CONFIG_FILE).exists():
            options: Any = {"seed": seed, "preset": row, "stop_signal": stop_signal}
            fit(config, data=dataset, run_dir=folder, **options)
            return
        run, expected = Run.load(folder), decided_config(config, dataset)
        if (run.config, run.data_digest) != (expected, data_digest(dataset)):
            raise UserError(f"{folder} was begun with other settings or data; choose another --out")
        if not (folder / RESULT_FILE).exists():
            resume(folder, stop_signal=stop_signal)


def write_results(out: Path) -> None:
    """Write ``results.csv``, with a line for each finished run and baseline below ``out/runs``."""
    files, lines = sorted((out / RUNS_FOLDER).glob(f"*/*/*/{RESULT_FILE}")), []
    for summary in load_summaries([file.parent for file in files]):
        run, result = summary.run, summary.result
        assert result is not None
        data = summary.folder.parents[1].name
        line: dict[str, Any] = {"data": data, "row": run.preset, "seed": run.seed}
        for split in ("valid", "test"):
            values = summary.metrics(split) or {}
            line |= {f"{split}_{metric}": values.get(metric) for metric in METRICS}
        line |= {
            "counts_alone_test_auc": result.get("baselines", {}).get(COUNTS_ALONE),
            "best_step": summary.best_step,
            "examples_per_second": round(summary.speed or 0),
            "seconds": round(result.get("wall_seconds", 0), 1),
            "device": result.get("device"),
        }
        lines.append(line | {name: run.versions.get(name) for name in ("jax", "python")})
    table = io.StringIO()
    writer = csv.DictWriter(table, lines[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_text(out / RESULTS_FILE, table.getvalue())

"""The paper's table on your data, every row and seed: ``python -m dien_jax.reproduce``.

    python -m dien_jax.reproduce --data DIR [DIR ...] --out DIR [--rows NAME ...] [--seeds 5]

Settings are frozen in ``reproduce.json``: the table ``family`` has the paper's nine models,
``choices`` changes one setting of DIEN at a time. Every run chooses its epoch on validation and
opens the test split once. What is done is not done again, so a killed command is simply rerun, and
commands with other data or rows may share an OUT:

    OUT/runs/DATA/ROW/SEED/     run folders, with test-predictions.csv
    OUT/results.csv             one line a run; a copy of it in another OUT counts as done there
    OUT/results.md, *.png       the tables, see dien_jax.experiments.result_tables

Exit status as of ``python -m dien_jax.train``.
"""

import dataclasses
import hashlib
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import tyro

from dien_jax.config.settings import Config
from dien_jax.data.dataset import Dataset, open_dataset
from dien_jax.errors import UserError, suggestion, writing
from dien_jax.experiments.result_tables import RESULTS_FILE, folder_of, read_results, write_tables
from dien_jax.metrics.scores import METRICS
from dien_jax.runs.folder import CONFIG_FILE, Run
from dien_jax.runs.scoring import score_split, write_predictions
from dien_jax.training.run import fit, resume
from dien_jax.utils.command import run_command, stop_signals
from dien_jax.utils.files import atomic_file, read_json

SETTINGS = Path(__file__).parent / "experiments" / "reproduction.json"
PREDICTIONS_FILE = "test-predictions.csv"
_FIRST_GUESS = 60.0, 8000.0, 6
"""Seconds a run besides training, examples a second and epochs, until a run has been timed."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train every row of the paper's table, with every seed, and compare them."""

    data: tuple[Path, ...]
    """Dataset folders, whose names are used in the tables."""
    out: Path
    """Folder for runs and tables; what is there already is not done again."""
    table: Literal["family", "choices"] = "family"
    """The paper's models, or DIEN with one setting changed at a time."""
    rows: tuple[str, ...] = ()
    """Rows of the table to train; all when not given."""
    seeds: int = 5
    """Runs of each row: seeds 0 to this number less one."""


class Frozen(NamedTuple):
    """The settings of a row, and twelve digits that tell frozen settings apart.

    The digits are of what the file says, so a setting that is invented later changes none.
    """

    config: Config
    digest: str


def settings() -> dict[str, dict[str, Frozen]]:
    """The frozen settings of every row of every table; the second begins with DIEN itself."""
    file = read_json(SETTINGS)
    base = file["base"]

    def frozen(changes: dict[str, Any]) -> Frozen:
        values = json.loads(json.dumps(base))
        for name, value in changes.items():
            group, _, setting = name.partition(".")
            values[group][setting] = value
        text = json.dumps(values, sort_keys=True)
        return Frozen(Config.from_dict(values), hashlib.sha256(text.encode()).hexdigest()[:12])

    tables = {
        table: {row: frozen(changes) for row, changes in rows.items()}
        for table, rows in file["tables"].items()
    }
    tables["choices"] = {"dien": frozen({}), **tables["choices"]}
    return tables


class Task(NamedTuple):
    """One run to be had: where its data is, which row, which seed."""

    dataset: Dataset
    row: str
    seed: int
    settings: Frozen

    @property
    def name(self) -> str:
        """Of the data."""
        return self.dataset.path.absolute().name

    def folder(self, out: Path) -> Path:
        """The run folder."""
        return out / "runs" / self.name / folder_of(self.row) / str(self.seed)

    def key(self) -> tuple[str, str, str]:
        """What makes two results the same: data, settings (by digest) and seed."""
        run = Run.create(
            preset=self.row, seed=self.seed, dataset=self.dataset, config=self.settings.config
        )
        return run.data_digest, self.settings.digest, str(self.seed)


def reproduce(arguments: Arguments) -> None:
    """Trains what is missing, seed by seed, and writes the tables after every run.

    Raises:
      UserError: when a flag, data, a run folder or OUT is at fault. Interrupted, NotFiniteError:
        see :meth:`dien_jax.training.loop.Trainer.run`.
    """
    tables = settings()
    rows = tables[arguments.table]
    _check(arguments, rows)
    datasets = [open_dataset(folder) for folder in arguments.data]
    tasks = [
        Task(dataset, row, seed, rows[row])
        for seed in range(arguments.seeds)
        for dataset in datasets
        for row in arguments.rows or rows
    ]
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {arguments.out} cannot be made: {error.strerror}") from error
    known = _known(arguments.out)
    missing = [task for task in tasks if task.key() not in known]
    _say(
        f"table {arguments.table!r}: {len(tasks)} runs, {len(tasks) - len(missing)} of them done; "
        f"{_estimate(missing, known)}"
    )

    def write() -> None:
        known.update(_known(arguments.out))  # of a command beside this one
        names = {table: list(each) for table, each in tables.items()}
        write_tables(arguments.out, list(known.values()), names, PREDICTIONS_FILE)

    for number, task in enumerate(missing):
        _say(
            f"[{number + 1}/{len(missing)}] {task.name}, {task.row}, seed {task.seed}; "
            f"{_estimate(missing[number:], known)}"
        )
        known[task.key()] = _line(task, _finished(task, arguments.out))
        write()
        jax.clear_caches()
    write()
    _say(f"results are in {arguments.out}")
    print((arguments.out / "results.md").read_text(), end="")


def _known(out: Path) -> dict[tuple[str, str, str], dict[str, str]]:
    """The lines of ``results.csv``, by :meth:`Task.key`."""
    return {
        (line["data_digest"], line["settings"], line["seed"]): line
        for line in read_results(out / RESULTS_FILE)
    }


def _check(arguments: Arguments, known: dict[str, Frozen]) -> None:
    """Refuses what cannot be meant."""
    if arguments.seeds < 1:
        raise UserError(f"--seeds must be at least 1, got {arguments.seeds}")
    names = [folder.absolute().name for folder in arguments.data]
    if len(set(names)) < len(names):
        raise UserError(f"--data folders must have different names, got {', '.join(names)}")
    for row in arguments.rows:
        if row not in known:
            raise UserError(
                f"--rows {row!r} is no row of the table {arguments.table!r}"
                f"{suggestion(row, known)} (rows: {', '.join(known)})"
            )


def _finished(task: Task, out: Path) -> dict[str, Any]:
    """The result of one run, which is trained or continued where it is not there."""
    folder = task.folder(out)
    with stop_signals() as stop_signal:
        if (folder / CONFIG_FILE).exists():
            run = Run.load(folder)
            run.check_same_data(task.dataset)
            if run.config != task.settings.config:
                raise UserError(f"{folder} was begun with other settings; choose another --out")
            result = resume(folder, stop_signal=stop_signal)
        else:
            result = fit(
                task.settings.config,
                data=task.dataset,
                run_dir=folder,
                seed=task.seed,
                preset=task.row,
                stop_signal=stop_signal,
            )
    file = folder / PREDICTIONS_FILE
    if not file.exists():
        scores = score_split(folder, "test", data=task.dataset).scores
        with writing(file), atomic_file(file) as stream:
            write_predictions(stream, task.dataset, "test", scores)
    return dataclasses.asdict(result)


def _line(task: Task, result: dict[str, Any]) -> dict[str, str]:
    """One line of ``results.csv``."""
    data_digest, settings_digest, seed = task.key()
    values = {
        "data": task.name,
        "row": task.row,
        "seed": seed,
        **{
            f"{split}_{metric}": result[split][metric]
            for split in ("valid", "test")
            for metric in METRICS
        },
        "epochs": round(result["epochs"], 2),
        "best_step": result["best_step"],
        "examples_per_second": round(result["train_examples_per_second"] or 0),
        "seconds": round(result["wall_seconds"], 1),
        "device": result["device"],
        "jax": result["versions"]["jax"],
        "python": result["versions"]["python"],
        "settings": settings_digest,
        "data_digest": data_digest,
    }
    return {name: "" if value is None else str(value) for name, value in values.items()}


def _estimate(missing: Sequence[Task], known: dict[Any, dict[str, str]]) -> str:
    """How long the missing runs may take, by the finished ones on the same data."""
    seconds = 0.0
    for task in missing:
        timed = [float(line["seconds"]) for line in known.values() if line["data"] == task.name]
        fixed, speed, epochs = _FIRST_GUESS
        guess = fixed + len(task.dataset.splits["train"].label) * epochs / speed
        seconds += statistics.mean(timed) if timed else guess
    if not missing:
        return "nothing is left to do"
    return f"about {seconds / 60:.0f} minutes left"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return run_command(
        lambda: tyro.cli(Arguments, args=argv, prog="python -m dien_jax.reproduce"),
        reproduce,
        when_interrupted="Stopped. Run the same command again to resume.",
    )


if __name__ == "__main__":
    sys.exit(main())

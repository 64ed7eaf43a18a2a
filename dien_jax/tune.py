"""Search for settings: the command line ``python -m dien_jax.tune``.

    python -m dien_jax.tune [PRESET] --data DIR --out DIR [--trials N] [--sampler tpe|random]
                            [--space FILE] [--seed N]

Each trial trains with settings drawn by Optuna and is worth its best validation AUC; one that is
behind after an evaluation is pruned. The test split is never scored. The same command goes on
where a killed one was, and draws what that would have drawn; more ``--trials`` add to the finished
ones.

    OUT/study.db      the trials, Optuna's SQLite storage
    OUT/tune.json     what is tuned: preset, data, space, sampler, seed
    OUT/best.json     the best settings so far, a preset file
    OUT/history.png   validation AUC by trial, where matplotlib is installed

Standard output carries the best trial and the command to train with it; progress goes to standard
error. Exit status: 0, 1 when every trial diverged, 2 for a mistake, 130 after Ctrl-C.
"""

import fcntl
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import tyro

from dien_jax.config.preset_files import DEFAULT_PRESET, with_settings, write_preset_file
from dien_jax.config.presets import PRESETS, preset
from dien_jax.config.settings import Config
from dien_jax.data.dataset import Dataset, data_digest, open_dataset
from dien_jax.errors import NotFiniteError, UserError
from dien_jax.experiments.search_report import Teller, draw_history, searched_settings, summary
from dien_jax.experiments.search_space import (
    Space,
    chosen_settings,
    read_space,
    space_to_json,
    suggest,
)
from dien_jax.runs.folder import Run
from dien_jax.training.loop import Trainer
from dien_jax.utils.command import run_command
from dien_jax.utils.extras import require
from dien_jax.utils.files import read_json, write_json

if TYPE_CHECKING:
    import optuna

STUDY_FILE = "study.db"
TUNE_FILE = "tune.json"
BEST_FILE = "best.json"
_LOCK_FILE = ".lock"

TRIALS_BEFORE_PRUNING = 5
"""Trials that are trained to their end before any is pruned."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Search for settings by validation AUC, with Optuna. The test split is never scored."""

    preset: tyro.conf.Positional[str] = DEFAULT_PRESET
    """Named settings that trials start from, and keep where the space does not say otherwise."""
    data: Path
    """Dataset folder."""
    out: Path
    """Folder to make for the study; one that is there goes on, by the same command."""
    trials: int = 20
    """Finished trials to reach, those of earlier commands counted."""
    sampler: Literal["tpe", "random"] = "tpe"
    """How settings are drawn: by tree-structured Parzen estimators, or at random."""
    space: Path | None = None
    """JSON file of what to search, in place of the default space: settings like
    "optim.learning_rate", each with a range {"low": 1e-4, "high": 1e-2, "log": true} or
    {"low": 16, "high": 96, "step": 16}, or a list of choices; a single choice fixes a setting."""
    seed: int = 0
    """Of the drawn settings, and of each trial's training."""


def tune(arguments: Arguments) -> int:
    """Runs the trials that are missing, and says which is best; returns the exit status.

    Raises:
      UserError: when flags, data, space or the ``--out`` folder are at fault, or Optuna is not
        installed.
    """
    require("tune", "tuning")
    base = preset(arguments.preset)
    if arguments.trials < 1:
        raise UserError(f"--trials must be at least 1, got {arguments.trials}")
    space = read_space(arguments.space, base)
    dataset = open_dataset(arguments.data)
    _check_splits(dataset)
    Run.create(preset=arguments.preset, seed=arguments.seed, dataset=dataset, config=base)
    _begin(arguments, base, space, dataset)
    try:
        with _alone(arguments.out), _study(arguments.out) as study:
            _run_trials(study, arguments, base, space, dataset)
            finished, best = _finished(study), _keep_best(study, arguments, base)
            picture = draw_history(finished, arguments.out)
    except OSError as error:
        file = error.filename or arguments.out
        raise UserError(f"{file}: cannot be written: {error.strerror}") from error
    if picture is not None:
        print(f"history: {picture}", file=sys.stderr)
    if best is None:
        print("error: every trial diverged; search lower learning rates", file=sys.stderr)
        return 1
    file = arguments.out / BEST_FILE
    print(f"{summary(finished, best)}\nbest settings: {file}; train with them by")
    command = ["python", "-m", "dien_jax.train", "--preset-file", file, "--data", arguments.data]
    print(shlex.join(map(str, command)))
    return 0


def _run_trials(
    study: "optuna.Study", arguments: Arguments, base: Config, space: Space, dataset: Dataset
) -> None:
    import optuna

    for lost in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(lost.number, state=optuna.trial.TrialState.FAIL)
    done = len(_finished(study))
    if done:
        print(f"{done} trials of {arguments.out} are finished", file=sys.stderr)
    with Teller(arguments.trials) as teller:
        for number in range(done, arguments.trials):
            # Drawn from (seed, number) and the trials before: so a study that was killed goes on
            # as one that was not.
            seed = int(np.random.SeedSequence([arguments.seed, number]).generate_state(1)[0])
            samplers = optuna.samplers
            study.sampler = (
                samplers.TPESampler(seed=seed)
                if arguments.sampler == "tpe"
                else samplers.RandomSampler(seed=seed)
            )
            trial = study.ask()
            chosen = suggest(space, trial)
            teller.start(number + 1, searched_settings(trial))
            run = Run.create(
                preset=arguments.preset,
                seed=arguments.seed,
                dataset=dataset,
                config=with_settings(base, chosen),
            )
            value = _train(trial, run, dataset, teller)
            pruned = value is None
            study.tell(trial, value, optuna.trial.TrialState.PRUNED if pruned else None)
            best = _keep_best(study, arguments, base)
            teller.end(_finished(study), best)


def _train(trial: "optuna.Trial", run: Run, dataset: Dataset, teller: Teller) -> float | None:
    """The best validation AUC of a trial; None when it was pruned or diverged."""
    trainer = Trainer(run, dataset, checkpoints=None)
    best = None
    try:
        for number, record in enumerate(trainer.evaluations(teller), start=1):
            value = record["valid"]["auc"]
            best = value if best is None else max(best, value)
            teller.evaluation(record)
            trial.set_user_attr("epochs", record["epoch"])
            trial.report(value, number)
            if not trainer.finished and trial.should_prune():
                return None
    except NotFiniteError as error:
        trial.set_user_attr("diverged", str(error))
        return None
    return best


def _finished(study: "optuna.Study") -> list["optuna.trial.FrozenTrial"]:
    """The trials that are over, in order; one that was interrupted is none."""
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def _keep_best(
    study: "optuna.Study", arguments: Arguments, base: Config
) -> "optuna.trial.FrozenTrial | None":
    """The first of the completed trials with the highest value, its settings written down."""
    from optuna.trial import TrialState

    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    best = max(complete, key=lambda trial: (trial.value or 0.0, -trial.number), default=None)
    if best is not None:
        config = with_settings(base, chosen_settings(best.params))
        write_preset_file(arguments.out / BEST_FILE, arguments.preset, config)
    return best


def _check_splits(dataset: Dataset) -> None:
    if not len(dataset.splits["train"].label):
        raise UserError(f"{dataset.path} has no train examples to train on")
    found = np.unique(dataset.splits["valid"].label)
    if len(found) < 2:
        what = f"label {found[0]} only" if len(found) else "no examples"
        raise UserError(
            f"{dataset.path}: the valid split has {what}, so there is no AUC to tune by"
        )


def _begin(arguments: Arguments, base: Config, space: Space, dataset: Dataset) -> None:
    """Writes down what is tuned, or makes sure that the folder holds just that.

    Raises:
      UserError: for a folder of something else, naming what differs.
    """
    described = {
        "preset": arguments.preset,
        "data_digest": data_digest(dataset),
        "sampler": arguments.sampler,
        "seed": arguments.seed,
        "space": space_to_json(space),
        "settings": asdict(base),
    }
    out, file = arguments.out, arguments.out / TUNE_FILE
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            if any(out.iterdir()):
                raise UserError(f"--out {out} is not empty, and holds no study; choose another")
            write_json(file, described)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror}") from error
    begun = read_json(file)
    for name, value in json.loads(json.dumps(described)).items():
        if begun.get(name) != value:
            if name in ("data_digest", "space", "settings"):
                what = f"other {name.replace('_digest', '')}"
            else:
                what = f"--{name} {begun.get(name)}, found {value}"
            raise UserError(
                f"--out {out} was begun with {what}; only the same command goes on there "
                f"(see {file})"
            )


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keeps other processes out: what they train would look interrupted.

    Raises:
      UserError: when one is at work there.
    """
    with (out / _LOCK_FILE).open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"--out {out} is in use by another process") from error
        yield


@contextmanager
def _study(out: Path) -> Iterator["optuna.Study"]:
    """The study in a folder, made where there is none.

    Raises:
      UserError: when its file cannot be read or written.
    """
    import optuna
    from sqlalchemy import URL
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import NullPool

    file = out / STUDY_FILE
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = None
    try:
        url = URL.create("sqlite", database=str(file)).render_as_string()
        # Without a pool no connection outlives what went wrong, even inside Optuna.
        storage = optuna.storages.RDBStorage(url, engine_kwargs={"poolclass": NullPool})
        yield optuna.create_study(
            storage=storage,
            study_name="tune",
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(
                n_startup_trials=TRIALS_BEFORE_PRUNING, n_warmup_steps=2
            ),
        )
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        reason = error.__cause__ or error
        raise UserError(f"{file}: cannot be used: {str(reason).splitlines()[0]}") from error
    finally:
        optuna.logging.set_verbosity(verbosity)
        if storage is not None:
            storage.remove_session()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return run_command(
        lambda: tyro.cli(
            Arguments,
            args=argv,
            prog="python -m dien_jax.tune",
            description=f"{Arguments.__doc__} Presets: {', '.join(PRESETS)}.",
        ),
        tune,
        when_interrupted="Stopped. Run the same command again to resume.",
    )


if __name__ == "__main__":
    sys.exit(main())

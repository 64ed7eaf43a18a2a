"""Search for settings by a validation metric, with Optuna; the test split is never scored.

A study folder holds

    OUT/study.db       the trials, Optuna's SQLite storage
    OUT/tune.json      what is searched: preset, data, space, sampler, seed
    OUT/best.json      the best settings so far, a preset file
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from dien_jax.config.preset_files import DEFAULT_PRESET, with_settings, write_preset_file
from dien_jax.config.presets import preset
from dien_jax.config.settings import LARGEST_INTEGER, Config
from dien_jax.data.dataset import Dataset, open_dataset
from dien_jax.data.digests import data_digest
from dien_jax.errors import NotFiniteError, UserError, writing
from dien_jax.experiments import search_space as spaces
from dien_jax.experiments.search_space import Space
from dien_jax.metrics.scores import METRICS
from dien_jax.runs.folder import Run, decided_config
from dien_jax.training.loop import Trainer
from dien_jax.training.progress import StepReport
from dien_jax.utils.console import ProgressLine, say
from dien_jax.utils.extras import require
from dien_jax.utils.files import locked, make_folder, read_json, write_json

if TYPE_CHECKING:
    import optuna
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

BEST_FILE = "best.json"
STUDY_FILE = "tune.json"
TRIALS_BEFORE_PRUNING = 5
"""Trials that are trained to their end before any is pruned."""

SECONDS_BETWEEN_LINES = 30.0
"""Least time between progress lines within an epoch, where they are printed."""


OBJECTIVE = METRICS["auc"]
"""The validation metric that trials are compared by."""

DIRECTION: Literal["maximize", "minimize"]
DIRECTION = "maximize" if OBJECTIVE.higher_is_better else "minimize"


class TrainingLine(NamedTuple):
    """A listener that shows training, named, in a line; ``share`` of the whole work is done."""

    line: ProgressLine
    name: str
    share: float

    def progress(self, report: StepReport) -> None:
        """Show a step between evaluations."""
        self.line.update(f"{self.name}, {report}", self.share)

    def evaluation(self, record: Mapping[str, Any]) -> None:
        """Print the objective of an evaluation, a line of ``metrics.jsonl``."""
        value = f"validation {OBJECTIVE.label} {record['valid'][OBJECTIVE.name]:.4f}"
        self.line.say(f"  {self.name}, epoch {record['epoch']:.2f}: {value}")


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Search for settings by validation AUC, with Optuna. The test split is never scored."""

    preset: str = DEFAULT_PRESET
    """Preset that trials start from. Settings that the space does not name keep its values."""
    data: Path
    """Dataset folder."""
    out: Path
    """Folder to create for the study. If it holds a study of the same command, that is resumed."""
    trials: int = 20
    """Number of finished trials to reach, including those of earlier commands."""
    sampler: Literal["tpe", "random"] = "tpe"
    """Sampler of settings: tree-structured Parzen estimators, or random search."""
    space: Path | None = None
    """JSON file of what to search, in place of the default space: settings like
    "optim.learning_rate", each with a range {"low": 1e-4, "high": 1e-2, "log": true} or
    {"low": 16, "high": 96, "step": 16}, or a list of choices; a single choice fixes a setting."""
    seed: int = 0
    """Seed of the sampler, and of the training of each trial."""


class SearchResult(NamedTuple):
    """Outcome of a search.

    Attributes:
      best_file, best_value: preset file and validation AUC of the best trial; None if every trial
        diverged or was pruned.
      summary: the best trial and its settings, as text.
    """

    best_file: Path | None
    best_value: float | None
    summary: str


def run_search(options: SearchOptions) -> SearchResult:
    """Run the trials that the study lacks, as an uninterrupted search would have drawn them.

    Raises:
      UserError: if options, data, space or the ``out`` folder are at fault, or Optuna is not
        installed.

    >>> from pathlib import Path
    >>> run_search(SearchOptions(data=Path("data"), out=Path("study"), trials=0))
    Traceback (most recent call last):
    dien_jax.errors.UserError: --trials must be at least 1, got 0
    """
    if options.trials < 1:
        raise UserError(f"--trials must be at least 1, got {options.trials}")
    if options.trials > LARGEST_INTEGER:
        raise UserError(f"--trials must be at most {LARGEST_INTEGER}, got {options.trials}")
    require("tune", "tuning")
    base = preset(options.preset)
    space = spaces.read_space(options.space, base)
    dataset = open_dataset(options.data)
    _check_splits(dataset)
    _run(options, dataset, base)  # checks the settings
    make_folder(options.out, "--out", STUDY_FILE)
    # Another process would take the running trial for a lost one.
    with writing(options.out), locked(options.out, f"--out {options.out}"):
        _begin(options, base, space, dataset)
        with _study(options.out) as study:
            _run_trials(study, options, base, space, dataset)
            finished, best = _trials(study), _write_best(study, options, base)
    if best is None:
        return SearchResult(None, None, "")
    return SearchResult(options.out / BEST_FILE, best.value, _summary(finished, best))


def _run_trials(
    study: "Study", options: SearchOptions, base: Config, space: Space, dataset: Dataset
) -> None:
    from optuna import samplers
    from optuna.trial import TrialState

    for lost in _trials(study, "RUNNING"):
        study.tell(lost.number, state=TrialState.FAIL)
    if done := len(_trials(study)):
        say(f"{done} trials of {options.out} are finished")
    sampler = {"tpe": samplers.TPESampler, "random": samplers.RandomSampler}[options.sampler]
    with ProgressLine(every=SECONDS_BETWEEN_LINES) as line:
        for number in range(done, options.trials):
            # The seed depends on (seed, number) alone, so a study that was stopped draws what an
            # uninterrupted one would have drawn.
            seed = int(np.random.SeedSequence([options.seed, number]).generate_state(1)[0])
            study.sampler = sampler(seed=seed)
            trial = study.ask(space)
            config = with_settings(base, spaces.chosen_settings(trial.params))
            name = f"trial {number + 1} of {options.trials}"
            settings = _searched_settings(trial).items()
            line.say(f"{name}: {', '.join(f'{key} {value}' for key, value in settings)}")
            run = _run(options, dataset, config)
            value = _train(trial, run, dataset, TrainingLine(line, name, number / options.trials))
            study.tell(trial, value, TrialState.PRUNED if value is None else None)
            best = _write_best(study, options, base)
            line.say(f"{name}: {_outcome(_trials(study), best)}")


def _run(options: SearchOptions, dataset: Dataset, config: Config) -> Run:
    return Run.create(preset=options.preset, seed=options.seed, dataset=dataset, config=config)


def _train(trial: "Trial", run: Run, dataset: Dataset, listener: TrainingLine) -> float | None:
    """Return the best value of the objective in a trial; None if it was pruned or diverged."""
    trainer = Trainer(run, dataset, checkpoints=None)
    values: list[float] = []
    try:
        for number, record in enumerate(trainer.evaluations(listener.progress), start=1):
            values.append(record["valid"][OBJECTIVE.name])
            listener.evaluation(record)
            trial.set_user_attr("epochs", record["epoch"])
            trial.report(values[-1], number)
            if not trainer.finished and trial.should_prune():
                return None
    except NotFiniteError as error:
        trial.set_user_attr("diverged", str(error))
        return None
    return (max if OBJECTIVE.higher_is_better else min)(values, default=None)


def _trials(study: "Study", *states: str) -> list["FrozenTrial"]:
    """Return trials in order; by default those that ended, without interrupted ones."""
    from optuna.trial import TrialState

    wanted = [TrialState[state] for state in states or ("COMPLETE", "PRUNED")]
    return study.get_trials(deepcopy=False, states=wanted)


def _write_best(study: "Study", options: SearchOptions, base: Config) -> "FrozenTrial | None":
    """Write the settings of the best completed trial to ``best.json``, and return the trial."""
    sign = 1 if OBJECTIVE.higher_is_better else -1
    complete = _trials(study, "COMPLETE")
    best = max(complete, key=lambda trial: sign * (trial.value or 0.0), default=None)
    if best is not None:
        config = with_settings(base, spaces.chosen_settings(best.params))
        write_preset_file(options.out / BEST_FILE, options.preset, config)
    return best


def _check_splits(dataset: Dataset) -> None:
    if not len(dataset.splits["train"].label):
        raise UserError(f"{dataset.path} has no train examples to train on")
    labels = np.unique(dataset.splits["valid"].label)
    if len(labels) < 2:
        content = f"label {labels[0]} only" if len(labels) else "no examples"
        reason = f"the valid split has {content}, so there is no {OBJECTIVE.label} to tune by"
        raise UserError(f"{dataset.path}: {reason}")


def _begin(options: SearchOptions, base: Config, space: Space, dataset: Dataset) -> None:
    """Write ``tune.json``, or check that the folder holds a study of the same options."""
    from optuna.distributions import distribution_to_json

    description = {
        "preset": options.preset,
        "data_digest": data_digest(dataset),
        "sampler": options.sampler,
        "seed": options.seed,
        "space": {name: distribution_to_json(entry) for name, entry in space.items()},
        "settings": asdict(decided_config(base, dataset)),
    }
    out, file = options.out, options.out / STUDY_FILE
    if not file.exists():
        write_json(file, description)
    begun = read_json(file, dict[str, Any])
    for name, value in json.loads(json.dumps(description)).items():
        if begun.get(name) != value:
            difference = f"--{name} {begun.get(name)}, found {value}"
            if name in ("data_digest", "space", "settings"):
                difference = f"other {name.replace('_digest', '')}"
            hint = f"only the same command resumes it (see {file})"
            raise UserError(f"--out {out} was begun with {difference}; {hint}")


@contextmanager
def _study(out: Path) -> Iterator["Study"]:
    """Open the study of a folder, or create it."""
    import optuna
    from sqlalchemy import URL
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import NullPool

    file = out / "study.db"
    verbosity, storage = optuna.logging.get_verbosity(), None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        url = URL.create("sqlite", database=str(file)).render_as_string()
        # Without a pool, no connection outlives an error, even inside Optuna.
        storage = optuna.storages.RDBStorage(url, engine_kwargs={"poolclass": NullPool})
        pruner = optuna.pruners.MedianPruner(TRIALS_BEFORE_PRUNING, n_warmup_steps=2)
        yield optuna.create_study(storage=storage, study_name="tune", direction=DIRECTION,
                                  load_if_exists=True, pruner=pruner)  # fmt: skip
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        reason = error.__cause__ or error
        raise UserError(f"{file}: cannot be used: {str(reason).splitlines()[0]}") from error
    finally:
        optuna.logging.set_verbosity(verbosity)
        if storage is not None:
            storage.remove_session()


def _outcome(finished: Sequence["FrozenTrial"], best: "FrozenTrial | None") -> str:
    """Return the outcome of the last finished trial, and the best one so far, as text."""
    trial = finished[-1]
    text = f"validation {OBJECTIVE.label} {trial.value or 0:.4f}"
    if trial.state.name == "PRUNED":
        text = "diverged" if "diverged" in trial.user_attrs else "pruned"
    text += f" after {trial.user_attrs.get('epochs', 0):g} epochs"
    if best is not None:
        text += f"; best {best.value:.4f}, trial {finished.index(best) + 1}"
    return text


def _summary(finished: Sequence["FrozenTrial"], best: "FrozenTrial") -> str:
    """Return the best trial and its settings as text."""
    diverged = sum("diverged" in trial.user_attrs for trial in finished)
    pruned = sum(trial.state.name == "PRUNED" for trial in finished) - diverged
    counts = [f", {pruned} pruned"] * bool(pruned) + [f", {diverged} diverged"] * bool(diverged)
    settings = _searched_settings(best)
    width = max(map(len, settings), default=0)
    first = (
        f"best of {len(finished)} trials{''.join(counts)}: trial {finished.index(best) + 1}, "
        f"validation {OBJECTIVE.label} {best.value:.4f}"
    )
    return "\n".join([first, *(f"  {name:{width}}  {value}" for name, value in settings.items())])


def _searched_settings(trial: "optuna.Trial | FrozenTrial") -> dict[str, str]:
    """Return the settings drawn for a trial as text, without those that the space fixes."""
    return {
        name: (f"{value:.4g}" if isinstance(value, float) else str(value)).replace(" ", "")
        for name, value in spaces.chosen_settings(trial.params).items()
        if not trial.distributions[name].single()
    }

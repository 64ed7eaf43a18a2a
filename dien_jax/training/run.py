"""A training run, from its first step or its latest checkpoint to its result."""

import contextlib
import datetime
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dien_jax.config.presets import flat_settings, member_name, nearest_preset
from dien_jax.config.settings import DEFAULT_LOGGERS, Config, LoggerName, MeshConfig
from dien_jax.data.dataset import Dataset, open_dataset
from dien_jax.devices.mesh import devices_in_use
from dien_jax.errors import Interrupted, UserError, writing
from dien_jax.metrics.scores import METRICS, SELECTION, selection_score
from dien_jax.runs.calibration import OFFSETS_FILE, list_offsets
from dien_jax.runs.checkpoints import Checkpoints
from dien_jax.runs.folder import CHECKPOINTS_FOLDER, CONFIG_FILE, PUT_BACK, Run, cut_back, versions
from dien_jax.runs.model_card import CARD_FILE, model_card
from dien_jax.steps.optimizer import epochs_of
from dien_jax.steps.rows import LAZY_ROWS
from dien_jax.steps.state import parts
from dien_jax.training.hosts import resume_with
from dien_jax.training.loggers import LOGGERS_FILE, Logger, opened_loggers
from dien_jax.training.loop import Trainer
from dien_jax.training.reporter import Reporter
from dien_jax.training.result import RunResult, read_finished, simple_baselines, write_result
from dien_jax.training.vectors import ItemVectors
from dien_jax.training.warm_start import (
    ROTATION_FILE,
    Source,
    grown,
    load_source,
    rotated_vectors,
    source_of,
    warm_start_of,
)
from dien_jax.utils.console import print_as_process, say
from dien_jax.utils.files import LOCK_FILE, locked, write_array, write_text
from dien_jax.utils.machine import require_usable_jax
from dien_jax.utils.processes import agree, count, from_first, index, on_each, on_first

StopSignal = Callable[[], int | None]
ALL_DEVICES = MeshConfig()
COUNTED = ("devices", "processes")
"""Entries of versions that are counts; 1 if they are not recorded."""


def fit(
    config: Config,
    *,
    data: str | Path | Dataset,
    run_dir: str | Path | None = None,
    seed: int = 0,
    preset: str | None = None,
    warm_start: str | Path | None = None,
    stop_signal: StopSignal = lambda: None,
    mesh: MeshConfig = ALL_DEVICES,
    loggers: Sequence[LoggerName] = DEFAULT_LOGGERS,
) -> RunResult:
    """Train a model and return the metrics of its best checkpoint.

    >>> import dataclasses
    >>> from dien_jax import fit, preset
    >>> config = preset("din")
    >>> config = dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=1))
    >>> fit(config, data="data", run_dir="runs/din").epochs
    1.0

    Progress goes to standard error. :func:`resume` continues an interrupted run from its latest
    checkpoint; it ends with the same parameters as an uninterrupted one.
    ``load_run(result.run_dir)`` loads them.

    Args:
      config: all settings.
      data: dataset folder, or an open dataset.
      run_dir: folder to create for the run; ``runs/PRESET-DATA-TIME`` by default.
      seed: random seed of parameters, example order and negative sampling; 0 to 2**32 - 1.
      preset: name to record; by default the preset that ``config`` equals or is nearest to.
      warm_start: run folder whose trained parameters replace fresh ones.
      stop_signal: called before each batch; if it returns the number of a signal, the run saves
        its state and stops.
      mesh: devices; all of this machine by default.
      loggers: names among ``tensorboard``, ``mlflow`` and ``wandb``, see ``docs/training.md``.

    Raises:
      UserError: data, settings or folders do not fit, or a logger cannot start; the run folder is
        created only after data and settings are checked.
      TypeError: ``config`` is not a :class:`Config` but, for example, the name of a preset, or
        ``data`` is a table: :func:`dien_jax.make_dataset` makes a dataset of it.
      NotFiniteError: training diverges. Interrupted: after ``stop_signal``.
    """
    if not isinstance(config, Config):
        raise TypeError(f"config must be a Config, such as preset('dien'), got {config!r:.60}")
    if not isinstance(data, str | os.PathLike | Dataset):
        expected = "a dataset folder, or what make_dataset or open_dataset returns"
        raise TypeError(f"data must be {expected}, got {type(data).__name__}")
    print_as_process(index())
    preset = nearest_preset(config) if preset is None else preset

    def opened() -> tuple[Dataset, Sequence[jax.Device]]:
        require_usable_jax()
        devices = devices_in_use(mesh, config.train.batch_size)
        dataset = data if isinstance(data, Dataset) else open_dataset(Path(data))
        check_splits(dataset, config.train.click_rate)
        return dataset, devices

    agree({name: str(value) for name, value in flat_settings(config).items()} | {"seed": str(seed)})
    dataset, devices = on_each(opened)
    sources, origin = list[Source | None](), None
    if warm_start is not None:
        sources.append(on_first(lambda: load_source(Path(warm_start), dataset, config)))
        origin = from_first(lambda: warm_start_of(Path(warm_start), sources[0], dataset, config))
    about: Any = {"preset": preset, "seed": seed, "warm_start": origin, "devices": len(devices)}
    run = on_each(lambda: Run.create(dataset=dataset, config=config, **about))
    _agree_on(run, devices)

    def made() -> tuple[str, bool]:
        folder = default_run_dir(preset, dataset) if run_dir is None else Path(run_dir)
        with writing(folder, "run folder"):
            is_new = not folder.exists()
        run.save(folder)
        return str(folder), is_new

    name, is_new = from_first(made)
    folder = Path(name)
    try:
        with _opened(folder, run, loggers) as opened_run:
            updates = config.optim.embedding_update, run.config.optim.embedding_update
            if updates == ("auto", "lazy_adam"):
                reason = f"large embedding tables have more than {LAZY_ROWS:,} rows"
                say(f"optim.embedding_update is lazy_adam: {reason}")
            return _train(run, dataset, folder, *opened_run, stop_signal, devices, sources)
    except Interrupted:
        raise
    except Exception:
        if index() == 0:
            _remove_if_unstarted(folder, is_new)
        raise


def resume(
    run_dir: str | Path,
    *,
    stop_signal: StopSignal = lambda: None,
    mesh: MeshConfig = ALL_DEVICES,
    loggers: Sequence[LoggerName] | None = None,
) -> RunResult:
    """Continue a run from its latest checkpoint; return the result of a finished run.

    >>> from dien_jax import resume
    >>> resume("runs/first").preset
    'wide_dien'

    Args:
      run_dir: the run folder.
      stop_signal: see :func:`fit`.
      mesh: see :func:`fit`; the devices may differ from those on which the run began.
      loggers: see :func:`fit`; by default those of the run. Each continues where it stopped.

    Raises:
      UserError: the folder holds no run, its data is missing or has changed, or a logger cannot
        continue.
      NotFiniteError, Interrupted: see :func:`fit`.
    """
    print_as_process(index())
    folder = Path(run_dir)
    about, values = from_first(lambda: (Run.load(folder).to_json(), read_finished(folder)))
    run = Run.from_json(about, folder / CONFIG_FILE)
    if values is not None:
        say(f"{folder} is finished; its result:")
        return RunResult(run_dir=folder, **values)

    def opened() -> tuple[Dataset, Sequence[jax.Device], dict[str, str]]:
        dataset = run.open_data(folder, PUT_BACK)
        devices = devices_in_use(mesh, run.config.train.batch_size)
        return dataset, devices, versions(run.config, len(devices))

    dataset, devices, now = on_each(opened)
    agree(now | {"mesh.data": str(len(devices))})
    before, after = (dict.fromkeys(COUNTED, "1") | recorded for recorded in (run.versions, now))
    differ = "the last digits of its parameters may differ from those of an uninterrupted run"
    for name in before | after:
        if before.get(name) != after.get(name):
            found = f"the run began with {name} {before.get(name)}, this is {after.get(name)}"
            say(f"warning: {found}; {differ}")
    with _opened(folder, run, loggers) as opened_run:
        return _train(run, dataset, folder, *opened_run, stop_signal, devices, [])


def _agree_on(run: Run, devices: Sequence[jax.Device]) -> None:
    """Refuse data, versions or devices that differ between processes."""
    values = {f"the version of {name}": text for name, text in run.versions.items()}
    values |= {"the data, by the sha256 of its meta.json,": run.data_digest}
    for digests in (run.vocabularies, run.tables):
        values |= {f"the data, by the sha256 of {name},": text for name, text in digests.items()}
    agree(values | {"mesh.data": str(len(devices))})


@contextlib.contextmanager
def _opened(
    folder: Path, run: Run, names: Sequence[LoggerName] | None
) -> Iterator[tuple[Checkpoints, list[Logger]]]:
    """Lock the folder of a run against other processes; open checkpoints and loggers.

    Process 0 has the loggers. At the end, settings that were changed despite the lock are written
    again.
    """
    with contextlib.ExitStack() as stack:
        on_first(lambda: stack.enter_context(locked(folder, f"run folder {folder}")))
        if index() == 0:
            stack.callback(run.restore, folder)
        resume_with(folder)
        checkpoints = Checkpoints(folder / CHECKPOINTS_FOLDER)
        step = checkpoints.latest_step() or 0
        settings = {"preset": run.preset, "data": Path(run.data).name, "seed": run.seed}
        settings |= flat_settings(run.config)
        loggers = opened_loggers(folder, names, settings, step)
        yield checkpoints, on_first(lambda: stack.enter_context(loggers)) or []


def check_splits(dataset: Dataset, click_rate: float | None = None) -> None:
    """Refuse data without the examples that training needs; warn if AUC is undefined."""
    for split, purpose in (("train", "train on"), ("valid", "choose the best model by")):
        if not len(dataset.splits[split].label):
            raise UserError(f"{dataset.path} has no {split} examples to {purpose}")
    for split in dataset.splits:
        labels = np.unique(dataset.splits[split].label)
        if len(labels) == 2:
            continue
        content = f"label {labels[0]} only" if len(labels) else "no examples"
        if split == "train":
            problem = f"the train split has {content}, and no model can learn from it"
            raise UserError(f"{dataset.path}: {problem}")
        if split == "valid" and click_rate is not None:
            raise UserError(
                f"train.click_rate needs validation examples of both labels to be compared "
                f"with, {dataset.path} has {content}"
            )
        instead = "; log loss chooses the best model" if split == "valid" else ""
        say(f"warning: the {split} split has {content}, so it has no AUC{instead}")


def _remove_if_unstarted(folder: Path, is_new: bool) -> None:
    """Remove a run folder that holds only settings, so that a corrected run can use its name."""
    before_steps = {CONFIG_FILE, LOCK_FILE, LOGGERS_FILE, OFFSETS_FILE, ROTATION_FILE}
    if {path.name for path in folder.rglob("*")} <= {*before_steps, CHECKPOINTS_FOLDER}:
        for path in folder.iterdir():
            path.rmdir() if path.is_dir() else path.unlink()
        if is_new:
            folder.rmdir()


def default_run_dir(name: str, dataset: Dataset) -> Path:
    """Return ``runs/NAME-DATA-TIME``, the default folder of a run.

    A second run that starts in the same second gets ``runs/NAME-DATA-TIME-2``.
    """
    now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    first = Path("runs") / f"{name}-{dataset.path.absolute().name}-{now}"
    others = (first.with_name(f"{first.name}-{number}") for number in itertools.count(2))
    return next(folder for folder in itertools.chain([first], others) if not folder.exists())


def _train(
    run: Run,
    dataset: Dataset,
    folder: Path,
    checkpoints: Checkpoints,
    loggers: Sequence[Logger],
    stop_signal: StopSignal,
    devices: Sequence[jax.Device],
    sources: list[Source | None],
) -> RunResult:
    """Train to the end; ``sources`` has the run to start from, if it is already loaded.

    It is removed from the list: the memory of its arrays is free when training begins.
    """
    source = sources.pop() if sources else None
    sizes = {split: len(examples.label) for split, examples in dataset.splits.items()}
    say(
        f"train preset {run.preset} on {dataset.path}: {sizes['train']:,} training, "
        f"{sizes['valid']:,} validation and {sizes['test']:,} test examples"
    )
    on_first(lambda: write_array(folder / OFFSETS_FILE, list_offsets(dataset)))
    fresh = checkpoints.latest_step() is None
    starts = run.warm_start is not None and fresh
    if starts:
        source = on_first(lambda: source or source_of(run, dataset))
    vectors = rotated_vectors(run, folder, dataset, source)
    trainer = Trainer(run, dataset, checkpoints, stop_signal, devices, vectors)
    progress = trainer.progress
    device = devices[0].device_kind
    epochs = " and ".join(
        f"{epochs_of(run.config, part)} of the {part}" for part in parts(run.config.model)
    )
    say(
        f"{trainer.parameters:,} parameters on {device}; epochs of {trainer.steps_per_epoch:,} "
        f"steps, at most {epochs}; run folder {folder}"
    )
    for line in trainer.notes():
        say(line)
    if starts:
        _start_from(run, dataset, trainer, source, vectors)
    source = vectors = None
    if progress.step:
        say(f"resuming from the checkpoint of step {progress.step:,}")
    try:
        on_first(lambda: cut_back(folder, progress.evaluated_step))
        if run.warm_start is not None and not progress.step:
            progress.valid_before = found = trainer.validate()
            shown = (f"{METRICS[key].label} {METRICS[key].text(found)}" for key in SELECTION)
            say(f"before the first step: validation {', '.join(shown)}")
        with contextlib.closing(Reporter(folder, loggers)) as reporter:
            outcome = trainer.run(reporter)
        calibration = outcome.pop("calibration")
        if calibration is not None:
            on_first(lambda: calibration.save(folder))
            say(f"calibration: slope {calibration.slope:.3f}, offset {calibration.offset:.3f}")
        from dien_jax.inference.list_metrics import measure_finished  # half a second, at the end

        watch = trainer.stop_if_asked
        lists: Any = measure_finished(folder, dataset, watch=watch) if count() == 1 else None
    except Interrupted:
        kept = f"step {progress.step:,} is saved" if progress.step else "nothing is lost"
        where = " and the same --distributed flags on every host" if count() > 1 else ""
        say(f"stopped; {kept}. Resume with: python -m dien_jax.train --resume {folder}{where}")
        raise
    model, seed = member_name(run.config.model), run.seed
    about: Any = {"model": model, "preset": run.preset, "data": run.data, "seed": seed}
    about |= {"device": device, "versions": versions(run.config, len(devices))}
    about["baselines"] = simple_baselines(dataset) | outcome.pop("baselines")
    intervals = outcome.pop("intervals")
    before = about["valid_before"] = progress.valid_before
    result = RunResult(run_dir=folder, lists=lists, **about, **outcome)
    of_card = {**vars(result), "parameters": trainer.parameters}
    card = model_card(run, dataset.meta, of_card, intervals, calibration)
    on_first(lambda: write_text(folder / CARD_FILE, card))
    files = [folder / CONFIG_FILE, folder / CARD_FILE]
    splits = {"valid": result.valid, "test": result.test}
    metrics = {f"final/{split}_{name}": splits[split][name] for split in splits for name in METRICS}
    on_first(lambda: reporter.finish(result.best_step, metrics, files))
    on_first(lambda: write_result(result))
    say(f"finished; results and checkpoints are in {folder}")
    if before and (selection_score(before) or 0) > (selection_score(result.valid) or 0):
        say("validation was better before the first step: keep the run that this one started from")
    return result


def _start_from(
    run: Run, dataset: Dataset, trainer: Trainer, source: Any, vectors: ItemVectors | None
) -> None:
    """Replace the trainer's fresh state with that of another run, and save it as step 0."""
    assert run.warm_start is not None
    start = on_first(lambda: grown(source, dataset, vectors))
    trainer.start_from(None if start is None else start[:3])
    say(f"starting from {run.warm_start['run']}, step {run.warm_start['step']:,}; {start}")

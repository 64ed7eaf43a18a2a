"""The command line ``python -m dien_jax.train``.

    python -m dien_jax.train [PRESET] [--data DIR] [--run-dir DIR] [--seed N] [--model.* ...]
    python -m dien_jax.train --preset-file FILE [...]
    python -m dien_jax.train --warm-start RUN_DIR --data DIR [...]
    python -m dien_jax.train --resume RUN_DIR

Without arguments it trains on built-in simulated data. Progress goes to standard error; standard
output carries the result. Exit status: 0 for a finished run, 1 when training diverged, 2 for a
mistake in flags, files or settings, and 128 + n when signal n stopped it.
"""

import argparse
import datetime
import hashlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from dien_jax.config.preset_files import DEFAULT_PRESET, flat_settings, read_preset_file
from dien_jax.config.presets import PRESETS, member_name, preset
from dien_jax.config.settings import Config, ModelConfig, OptimConfig, TrainConfig
from dien_jax.data.dataset import Dataset, open_dataset
from dien_jax.data.loader import shown_negatives
from dien_jax.data.metadata import FORMAT_VERSION
from dien_jax.errors import Interrupted, UserError
from dien_jax.metrics.scores import auc
from dien_jax.preparation.sources import synthetic
from dien_jax.runs.checkpoints import Checkpoints
from dien_jax.runs.folder import CHECKPOINTS_FOLDER, RESULT_FILE, Run, versions
from dien_jax.training.curves import draw_curves
from dien_jax.training.loop import Trainer
from dien_jax.training.reporter import Reporter, write_hparams
from dien_jax.training.run import _check_splits, _say, _start_from, _stop_signals
from dien_jax.training.warm_start import Source, load_source
from dien_jax.utils.command import run_command
from dien_jax.utils.files import read_json, user_cache, write_json

_COMMAND = "python -m dien_jax.train"


@dataclass(frozen=True)
class Arguments:
    """Train a click model on a dataset folder; see python -m dien_jax.prepare for making one."""

    preset: tyro.conf.Positional[str] = DEFAULT_PRESET
    """Named settings to start from; comes first. The defaults below are this preset's."""
    preset_file: Path | None = None
    """Settings to start from in place of a named preset: JSON with the groups below, whole or in
    part, over the preset that its "preset" names. A run's config.json is such a file."""
    warm_start: Path | None = None
    """Run folder to start from: trained parameters take the place of fresh ones, rows of ids by
    id, on data whose vocabularies may have grown. Without a preset its settings are the
    defaults."""
    data: Path | None = None
    """Dataset folder. Without it the run uses simulated data, made once into the cache folder."""
    run_dir: Path | None = None
    """Folder to make for the run; runs/PRESET-DATA-TIME when not given, by the preset file's name
    if there is one."""
    seed: int = 0
    """Of the parameters, the order of examples and the sampled negatives."""
    resume: Path | None = None
    """Run folder to continue, with its own data and settings; takes no other flag but the next."""
    compile_cache: bool = True
    """Keep compiled programs in the user's cache folder, so that the next run starts sooner."""
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


def parse(argv: Sequence[str]) -> Arguments:
    """Flags over the settings of the preset, which comes first, of the preset file or, without
    either, of the run to start from.

    Raises:
      UserError: for an unknown preset, or one elsewhere or beside a file, for what is wrong in the
        file, and for flags beside ``--resume``.
      SystemExit: 0 after ``--help``; 2 for anything that is no flag, with the nearest one.
    """
    named = bool(argv) and not argv[0].startswith("-")
    name = argv[0] if named else DEFAULT_PRESET
    file, warm_start = _path(argv, "--preset-file"), _path(argv, "--warm-start")
    if file is not None and named:
        raise UserError(f"give a preset or --preset-file, not both; found {name!r} and {file}")
    if file is not None:
        name, config = read_preset_file(file)
    elif warm_start is not None and not named:
        run = Run.load(warm_start)
        name, config = run.preset, run.config
    else:
        config = preset(name)
    arguments = tyro.cli(
        Arguments,
        default=Arguments(name, model=config.model, optim=config.optim, train=config.train),
        args=argv,
        prog=_COMMAND,
        description=f"{Arguments.__doc__} Presets: {', '.join(PRESETS)}.",
    )
    if arguments.preset != name:
        other = "comes before all flags" if file is None else "and --preset-file exclude each other"
        raise UserError(f"the preset {other}; found {arguments.preset!r} after them")
    flags = [flag for flag in argv if flag not in ("--compile-cache", "--no-compile-cache")]
    if arguments.resume is not None and len(flags) > (1 if "=" in flags[0] else 2):
        raise UserError("--resume takes no other flag: the run keeps its data and settings")
    return arguments


def _path(argv: Sequence[str], flag: str) -> Path | None:
    """The value of a flag that decides what the other flags' defaults are."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    name = flag[2:].replace("-", "_")
    parser.add_argument(flag, f"--{name}", nargs="?", type=Path, dest=name)
    return getattr(parser.parse_known_args(argv)[0], name)


def start(arguments: Arguments) -> dict[str, Any]:
    """Trains from the first step; returns what ``result.json`` holds.

    Raises:
      UserError, Interrupted, NotFiniteError: see :meth:`Trainer.run`; a run folder is made only
        once data and settings have been found to be in order.
    """
    dataset = open_dataset(_simulated_data() if arguments.data is None else arguments.data)
    _check_splits(dataset)
    if arguments.model.auxiliary_distribution == "shown":
        shown_negatives(dataset)
    config = Config(arguments.model, arguments.optim, arguments.train)
    source = told = None
    if arguments.warm_start is not None:
        source = load_source(arguments.warm_start, dataset, config)
        told = {"run": str(arguments.warm_start.absolute()), "step": source.step}
    run = Run.create(
        preset=arguments.preset,
        seed=arguments.seed,
        dataset=dataset,
        config=config,
        warm_start=told,
    )
    folder = arguments.run_dir
    if folder is None:
        now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
        file = arguments.preset_file
        name = arguments.preset if file is None else file.stem
        folder = Path("runs") / f"{name}-{dataset.path.absolute().name}-{now}"
    run.save(folder)
    return _train(run, dataset, folder, source)


def resume(folder: Path) -> dict[str, Any]:
    """Continues a run from its latest checkpoint; a finished one only gives its result.

    Raises:
      UserError: when the folder holds no run, or its data is missing or has changed.
      Interrupted, NotFiniteError: see :meth:`Trainer.run`.
    """
    run = Run.load(folder)
    if (folder / RESULT_FILE).exists():
        _say(f"{folder} is finished; its result is")
        result = read_json(folder / RESULT_FILE)
        print(_table(result, {}))
        return result
    dataset = open_dataset(run.data)
    run.check_same_data(dataset)
    found = versions()
    for name, version in run.versions.items():
        if found.get(name) != version:
            _say(
                f"warning: the run began with {name} {version}, this is {found.get(name)}; its "
                f"parameters may differ in the last digits from those of a run never stopped"
            )
    return _train(run, dataset, folder)


def _train(
    run: Run, dataset: Dataset, folder: Path, source: Source | None = None
) -> dict[str, Any]:
    """Trains, or goes on; ``source`` is what the run starts from, if that is loaded already."""
    if run.config.train.deterministic:  # read when JAX first looks for devices, so not too late
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true".strip()
    sizes = {split: len(examples.label) for split, examples in dataset.splits.items()}
    _say(
        f"train preset {run.preset} on {dataset.path}: {sizes['train']:,} training, "
        f"{sizes['valid']:,} validation and {sizes['test']:,} test examples"
    )
    with _stop_signals() as stop:
        checkpoints = Checkpoints(folder / CHECKPOINTS_FOLDER)
        begun = checkpoints.latest_step() is not None
        trainer = Trainer(run, dataset, checkpoints, lambda: stop.number)
        progress, settings = trainer.progress, run.config.train
        device = jax.devices()[0].device_kind
        parameters = sum(leaf.size for leaf in jax.tree.leaves(trainer.state.params))
        _say(
            f"{parameters:,} parameters on {device}; at most {settings.epochs} epochs of "
            f"{trainer.steps_per_epoch:,} steps; run folder {folder}"
        )
        if run.warm_start is not None and not begun:
            _start_from(run, dataset, trainer, source)
        if progress.step:
            _say(f"going on from the checkpoint of step {progress.step:,}")
        try:
            with Reporter(
                folder,
                total_steps=trainer.total_steps,
                restored_step=progress.step,
                evaluated_step=progress.evaluated_step,
            ) as reporter:
                outcome = trainer.run(reporter)
        except Interrupted:
            kept = f"step {progress.step:,} is saved" if progress.step else "nothing is lost"
            _say(f"stopped; {kept}. Go on with: {_COMMAND} --resume {folder}")
            raise
        result = {
            "model": member_name(run.config.model),
            "preset": run.preset,
            "data": run.data,
            "seed": run.seed,
            **outcome,
            "device": device,
            "versions": versions(),
        }
        final = {
            f"final/{split}_{name}": outcome[split][name]
            for split in ("valid", "test")
            for name in ("auc", "gauc", "logloss")
        }
        described = {"preset": run.preset, "data": Path(run.data).name, "seed": run.seed}
        write_hparams(folder, outcome["best_step"], described | flat_settings(run.config), final)
        try:
            write_json(folder / RESULT_FILE, result)
        except OSError as error:
            raise UserError(f"{error.filename}: cannot be written: {error.strerror}") from error
        draw_curves(folder)
    _say(f"finished; results and checkpoints are in {folder}")
    print(_table(result, _baselines(dataset)))
    return result


def _simulated_data() -> Path:
    """The built-in data, made by the first run that wants it."""
    generator = hashlib.sha256(Path(synthetic.__file__).read_bytes()).hexdigest()[:12]
    folder = user_cache() / f"format-{FORMAT_VERSION}-{generator}" / "simulated"
    if not folder.exists():
        _say(f"no --data given: simulating users into {folder}")
        synthetic.prepare(synthetic.SyntheticOptions(out=folder))
    return folder


def _baselines(dataset: Dataset) -> dict[str, float | None]:
    """AUC on the test split of what knows no history: popularity, and the truth if known."""
    test = dataset.splits["test"]
    labels = np.asarray(test.label)
    baselines = {"popularity": auc(labels, dataset.popularity[test.item])}
    if test.probability is not None:
        baselines["best possible"] = auc(labels, np.asarray(test.probability))
    return baselines


def _table(result: dict[str, Any], baselines: dict[str, float | None]) -> str:
    rows: dict[str, dict[str, Any]] = {
        "validation": result["valid"],
        "test": result["test"],
        **{f"test, {name}": {"auc": value} for name, value in baselines.items()},
    }
    lines = [f"{'':24}{'AUC':>10}{'GAUC':>10}{'log loss':>10}{'examples':>12}"]
    for name, metrics in rows.items():
        cells = [f"{_number(metrics, key):>10}" for key in ("auc", "gauc", "logloss")]
        count = f"{metrics['examples']:,}" if "examples" in metrics else ""
        lines.append(f"{name:24}{''.join(cells)}{count:>12}".rstrip())
    return "\n".join(lines)


def _number(metrics: dict[str, Any], name: str) -> str:
    if name not in metrics:
        return ""
    return "none" if metrics[name] is None else f"{metrics[name]:.4f}"


def _train_or_resume(arguments: Arguments) -> None:
    if arguments.resume is None:
        start(arguments)
    else:
        resume(arguments.resume)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return run_command(lambda: parse(sys.argv[1:] if argv is None else argv), _train_or_resume)


if __name__ == "__main__":
    sys.exit(main())

"""Train a click model: the command ``python -m dien_jax.train``.

Without arguments it trains on built-in simulated data. Progress goes to standard error, the result
to standard output. For the exit status see :func:`run_command`.
"""

import argparse
import contextlib
import functools
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from dien_jax.config.presets import DEFAULT_PRESET, PRESETS, preset, read_preset_file
from dien_jax.config.settings import (
    DEFAULT_LOGGERS,
    Config,
    DistributedConfig,
    LoggerName,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)
from dien_jax.errors import UserError
from dien_jax.utils.command import check_words, parse_flags, run_command, stop_signals
from dien_jax.utils.console import print_result, say

if TYPE_CHECKING:
    from dien_jax.training.run import RunResult

OF_PROCESS = ("--mesh.", "--distributed.", "--loggers", "--compile-cache", "--no-compile-cache",
              "--keep-memory", "--no-keep-memory")  # fmt: skip
"""Prefixes of flags of the process, which are not settings of the run."""


@dataclass(frozen=True)
class Arguments:
    """Train a click model on a dataset folder. To make one, see python -m dien_jax.prepare."""

    preset: tyro.conf.Positional[str] = DEFAULT_PRESET
    """Named settings to start from; must come before all flags. PRESET --help shows its values as
    defaults."""
    preset_file: Path | None = None
    """JSON file of settings to start from instead of a preset. It may contain the groups model,
    optim and train, each complete or partial, and the "preset" that they change. The config.json of
    a run is such a file."""
    warm_start: Path | None = None
    """Run folder whose trained parameters initialize this run; embedding rows are matched by raw
    id, so vocabularies may have grown. Without a preset, its settings are the defaults."""
    data: Path | None = None
    """Dataset folder. Default: built-in simulated data, made once in the user's cache folder."""
    run_dir: Path | None = None
    """Folder to create for the run. Default: runs/NAME-DATA-TIME, where NAME is the preset or the
    preset file."""
    seed: int = 0
    """Random seed for parameters, example order and negative sampling."""
    resume: Path | None = None
    """Run folder to resume. Data and settings come from the run; only --loggers, --mesh.*,
    --distributed.*, --compile-cache and --keep-memory may be combined with it."""
    loggers: tuple[LoggerName, ...] | None = None
    """Loggers that receive losses and metrics during training, in addition to the run folder.
    mlflow and wandb need the extras of the same names; environment variables such as
    MLFLOW_TRACKING_URI and WANDB_PROJECT set their destination. Default: tensorboard; with
    --resume, the loggers of the run."""
    compile_cache: bool = True
    """Keep compiled programs in the user's cache folder, so that the next run starts faster."""
    keep_memory: bool = True
    """Keep freed memory for the next step instead of giving it back to the system (Linux with
    glibc). Steps are faster; the memory of the process stays at its peak."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    """Devices of the run. They do not change what is trained."""
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    """Processes of the run, one or more per host. They do not change what is trained."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Network and losses."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimizer."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Batches, epochs and evaluations."""


Arguments.__doc__ = f"{Arguments.__doc__} Presets: {', '.join(PRESETS)}."


def parse(argv: Sequence[str]) -> Arguments:
    """Parse flags; defaults come from the preset, the preset file or the warm start."""
    check_words(argv, Arguments)  # before the files that flags name are read
    named = bool(argv) and not argv[0].startswith("-")
    name = argv[0] if named else DEFAULT_PRESET
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in ("--preset-file", "--warm-start"):  # they set the defaults of other flags
        parser.add_argument(flag, f"--{flag[2:].replace('-', '_')}", nargs="?", type=Path)
    file, warm_start = vars(parser.parse_known_args(argv)[0]).values()
    if file is not None and named:
        raise UserError(f"give a preset or --preset-file, not both; got {name!r} and {file}")
    if file is not None:
        name, config = read_preset_file(file)
    elif warm_start is not None and not named:
        from dien_jax.runs.folder import Run

        source = Run.load(warm_start)
        name, config = source.preset, source.config
    else:
        config = preset(name)
    defaults = Arguments(name, model=config.model, optim=config.optim, train=config.train)
    arguments = parse_flags(tyro.cli, Arguments, argv, "train", default=defaults)
    if arguments.preset != name:
        other = "comes before all flags" if file is None else "and --preset-file exclude each other"
        raise UserError(f"the preset {other}; got {arguments.preset!r} after them")
    words = [word.replace("_", "-") for word in argv if word.startswith("--")]
    of_run = [word for word in words if not word.startswith(OF_PROCESS)]
    if arguments.resume is not None and (named or len(of_run) != 1):
        raise UserError("--resume takes no other flag: the run keeps its data and settings")
    return arguments


def run(arguments: Arguments) -> "RunResult":
    """Train, or resume, until the end or a signal."""
    config = Config(arguments.model, arguments.optim, arguments.train)
    if arguments.resume is None and config.model.implementation in ("auto", "native"):
        from dien_kernels import load_native_in_background  # imported here: --help needs no JAX

        load_native_in_background()
    from dien_jax.data.dataset import open_dataset  # imported here: --help needs no training
    from dien_jax.preparation.sources.synthetic import built_in_data
    from dien_jax.training.run import default_run_dir, fit, resume
    from dien_jax.utils.processes import agree, on_each

    agree({"--resume": "not given" if arguments.resume is None else "given"})
    if arguments.resume is not None:
        process: Any = {"mesh": arguments.mesh, "loggers": arguments.loggers}
        work = functools.partial(resume, arguments.resume, **process)
    else:
        given = arguments.data
        dataset = on_each(lambda: open_dataset(built_in_data() if given is None else given))
        run_dir, preset_file = arguments.run_dir, arguments.preset_file
        if run_dir is None and preset_file is not None:
            run_dir = default_run_dir(preset_file.stem, dataset)
        names = ("seed", "preset", "warm_start", "mesh")
        options: Any = {name: getattr(arguments, name) for name in names}
        options["loggers"] = DEFAULT_LOGGERS if arguments.loggers is None else arguments.loggers
        work = functools.partial(fit, config, data=dataset, run_dir=run_dir, **options)
    with stop_signals() as stop_signal:
        return work(stop_signal=stop_signal)


def show(arguments: Arguments) -> None:
    """Train, print the table, and name the command that scores simple models to compare with."""
    several: Any = contextlib.nullcontext()
    if arguments.distributed.is_asked:
        from dien_jax.training.hosts import processes_of

        several = processes_of(arguments.distributed)
    with several:
        result = run(arguments)
        print_result(str(result))
        is_first = (arguments.data, arguments.resume) == (None, None)
        if is_first and not arguments.distributed.is_asked:
            # Imported here: runs on other data need none of these.
            from dien_jax.inspection.example_view import ranking_lines
            from dien_jax.inspection.examples import Inspector
            from dien_jax.runs.trained import load_run

            print_result("\n".join(ranking_lines(Inspector(load_run(result.run_dir)))))
        command = shlex.join(["python", "-m", "dien_jax.baselines", result.data])
        say(f"compare with simple models: {command} --out baselines")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    status = run_command(lambda: parse(sys.argv[1:] if argv is None else argv), show)
    if "dien_jax.training.hosts" in sys.modules:
        from dien_jax.training.hosts import leave

        return leave(status)
    return status


if __name__ == "__main__":
    sys.exit(main())

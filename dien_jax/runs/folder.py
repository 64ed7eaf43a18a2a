"""The files of a run folder.

RUN/config.json     preset, seed, data, settings, schema and versions; written first
RUN/list_offsets.npy  terms that lists over all items add to the log odds of each item
RUN/rotation.npy    after a warm start: rotates vectors of the data to the other run's embeddings
RUN/metrics.jsonl   one object per evaluation
RUN/checkpoints/    the whole training state, best and latest
RUN/loggers.json    loggers and the run's ids in them, if TensorBoard is not the only logger
RUN/calibration.json  calibration of the best checkpoint's scores, written before the result
RUN/list_weights.json  weights of the parts of its scores in lists over all items
RUN/model_card.md   description of model, data, metrics and use, written before the result
RUN/result.json     written last: a run that has it is finished
RUN/.lock           locked by the training process; contains its process id
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict, TypeVar

import msgspec
from dien_kernels import explain, instruction_set

from dien_jax._version import __version__
from dien_jax.config.presets import RUN_FORMAT, WARM_START, with_settings
from dien_jax.config.settings import Config
from dien_jax.data.dataset import (
    Dataset,
    data_digest,
    open_dataset,
    table_digests,
    vocabulary_digests,
)
from dien_jax.data.metadata import schema_from_json, schema_to_json
from dien_jax.errors import UserError, reading, writing
from dien_jax.model.family import check_modules
from dien_jax.steps.rows import automatic_update
from dien_jax.utils.console import say
from dien_jax.utils.files import check_utf8, content, locked, read_json, write_json, write_text
from dien_jax.utils.json_values import (
    Count,
    LargeCount,
    NotNegative,
    Positive,
    as_type,
    check_format,
    converted,
    parse_json,
)
from dien_jax.utils.processes import count

METRICS_FILE = "metrics.jsonl"
Metrics = dict[str, LargeCount | NotNegative | None]
"""Metrics of a split by name; None if undefined."""


class Evaluation(TypedDict):
    """One line: step, epoch, part in training, training metrics since the last, and validation."""

    step: Count
    epoch: NotNegative
    part: Literal["tower", "network"]
    train: dict[str, float]
    valid: Metrics


def read_evaluations(folder: Path) -> list[Evaluation]:
    """Return the evaluations of a run, oldest first; ignore an incomplete last line."""
    file = folder / METRICS_FILE
    with reading(file):
        lines = file.read_bytes().split(b"\n")[:-1] if os.path.lexists(file) else []
    return [parse_json(line, Evaluation, f"{file}, line {n}") for n, line in enumerate(lines, 1)]


def append_evaluation(folder: Path, record: Mapping[str, Any]) -> None:
    """Append one evaluation and sync it to disk; a number that is not finite is a ValueError."""
    line = json.dumps(record, allow_nan=False) + "\n"
    file = folder / METRICS_FILE
    with writing(file), file.open("ab") as stream:
        stream.write(line.encode())
        stream.flush()
        os.fsync(stream.fileno())


def cut_back(folder: Path, step: int) -> None:
    """Remove the evaluations after ``step``, and an incomplete last line."""
    kept = [record for record in read_evaluations(folder) if record["step"] <= step]
    if (file := folder / METRICS_FILE).exists():
        write_text(file, "".join(f"{json.dumps(record)}\n" for record in kept))


CONFIG_FILE = "config.json"
CHECKPOINTS_FOLDER = "checkpoints"
RESULT_FILE = "result.json"
Seed = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class WarmStart(TypedDict):
    """Warm start of a run from another: the other's folder, and the step of its checkpoint.

    ``vectors`` is whether item embeddings are kept near vectors, as in the other run;
    ``near_vectors`` is whether those of the other run are, True if it is not recorded.
    """

    run: str
    step: Count
    vectors: bool
    near_vectors: NotRequired[bool]


@dataclass(frozen=True, kw_only=True)
class Run:
    """The content of ``config.json``.

    Attributes:
      preset: the preset that the settings started from.
      seed: seed of parameters, example order and negative sampling; 0 to 2**32 - 1.
      data, data_digest: absolute path of the dataset folder, and sha256 of its ``meta.json``.
      schema: features of the dataset, as in ``meta.json``.
      config: all settings, see :func:`decided_config`.
      versions: see :func:`versions`.
      vocabularies, tables: sha256 of each vocabulary, and of features and counts that are read.
      warm_start: folder and step of the run whose parameters this one started from, if any.

    Files that cannot be read or written, or do not fit, are a ``UserError``.
    """

    preset: str
    seed: Seed
    data: str
    data_digest: str
    schema: dict[str, Any]
    config: Config
    versions: dict[str, str]
    vocabularies: dict[str, str]
    tables: dict[str, str]
    warm_start: WarmStart | None = None

    @classmethod
    def create(
        cls,
        *,
        preset: str,
        seed: int,
        dataset: Dataset,
        config: Config,
        warm_start: WarmStart | None = None,
        devices: int = 1,
    ) -> "Run":
        """Describe a new run, with settings for its data; refuse an invalid seed or module."""
        seed = converted(Seed, seed, "seed")
        check_modules(config.model)
        config = decided_config(config, dataset)
        return cls(
            preset=preset,
            seed=seed,
            data=str(dataset.path.absolute()),
            data_digest=data_digest(dataset),
            schema=schema_to_json(dataset.schema),
            config=config,
            versions=versions(config, devices),
            vocabularies=vocabulary_digests(dataset),
            tables=table_digests(dataset, statistics=config.model.statistics),
            warm_start=warm_start,
        )

    def save(self, folder: Path) -> None:
        """Create the run folder, which must be empty if it exists, and write ``config.json``."""
        check_utf8(folder, "run folder")  # otherwise Orbax fails at the first checkpoint

        def check() -> None:
            if content(folder):
                begun = (folder / CONFIG_FILE).exists()
                resume = f", or continue that run: --resume {folder}, in Python resume()"
                hint = resume if begun else ""
                raise UserError(f"run folder {folder} is not empty; choose another folder{hint}")

        with writing(folder, "run folder"):
            folder.mkdir(parents=True, exist_ok=True)
            check()
            with locked(folder, f"run folder {folder}"):
                check()  # another process may have begun a run meanwhile
                write_json(folder / CONFIG_FILE, self.to_json())

    def restore(self, folder: Path) -> None:
        """Rewrite ``config.json`` if it was removed or changed: a run needs it to resume."""
        with contextlib.suppress(UserError):
            if Run.load(folder) == self:
                return
        file = folder / CONFIG_FILE
        say(f"{file} was removed or changed during training; it is written again")
        if file.exists() and not file.is_file():  # a folder or a pipe
            with writing(file):
                file.rename(f"{file}.{os.getpid()}")
        write_json(file, self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``config.json``."""
        values = {"format_version": RUN_FORMAT} | dataclasses.asdict(self)
        settings = values.pop("config")
        if values[WARM_START] is None:
            del values[WARM_START]
        return values | settings

    @classmethod
    def load(cls, folder: Path) -> "Run":
        """Read ``config.json``."""
        file = folder / CONFIG_FILE
        if not folder.is_dir():
            if folder.exists():
                taken = "recommend, serve and Ranker alone take exported files"
                raise UserError(f"{folder} is a file; expected a run folder ({taken})")
            raise UserError(f"run folder {folder} does not exist")
        check_utf8(folder, "run folder")
        if not file.is_file():
            raise UserError(f"{folder} is not a run folder: it has no {CONFIG_FILE}")
        return cls.from_json(read_json(file, dict[str, Any]), file)

    @classmethod
    def from_json(cls, values: dict[str, Any], file: Path) -> "Run":
        """Return a run from the content of ``config.json``."""
        check_format(values, RUN_FORMAT, file, "train the model again")
        about = {field.name for field in dataclasses.fields(cls)} ^ {"config", "format_version"}
        settings = {name: value for name, value in values.items() if name not in about}
        try:
            config = Config.from_dict(settings, complete=True)
        except UserError as error:
            raise UserError(f"{file}: {error}") from error
        run = as_type(values | {"config": config}, cls, file)
        schema_from_json(run.schema, f"{file}, schema")
        return run

    def check_fits(self, dataset: Dataset) -> None:
        """Refuse a dataset with other features, vocabularies or tables; the error names them."""
        problem = f"{dataset.path} does not fit the run:"
        schema_from_json(self.schema, "schema").require_equal(dataset.schema, problem)
        for name, digest in vocabulary_digests(dataset).items():
            if self.vocabularies.get(name) != digest:
                raise UserError(
                    f"{problem} vocab/{name}.txt has other values, or another order, than in "
                    f"training, so its ids mean something else"
                )
        digests = table_digests(dataset, statistics=self.config.model.statistics)
        dataset.check_files()
        for name in sorted(self.tables | digests):
            if self.tables.get(name) != digests.get(name):
                raise UserError(f"{problem} {name} has other values than in training")

    def open_data(self, folder: Path, remedy: str) -> Dataset:
        """Open the data of the run in ``folder``, see :func:`open_own_data`."""
        dataset = open_own_data(self.data, self.data_digest, folder, remedy)
        self.check_fits(dataset)
        return dataset


NAME_DATA = "name it with --data (in Python data=)"
PUT_BACK = "move it back, or make a symbolic link to it there"
"""Remedies for moved data: if a flag can name them, and if none can."""


def open_own_data(data: str, digest: str, run: Path, remedy: str) -> Dataset:
    """Open the dataset folder of a run, which must not have changed since the run began."""
    if not Path(data).exists():
        problem = f"dataset folder {data} of {run} does not exist; if it was moved"
        raise UserError(f"{problem}, {remedy}")
    dataset = open_dataset(data)
    if (found := data_digest(dataset)) != digest:
        raise UserError(
            f"dataset folder {data} has changed since the run {run} began: expected meta.json of "
            f"sha256 {digest[:12]}..., found {found[:12]}...; if the folder was moved, {remedy}"
        )
    return dataset


def decided_config(config: Config, dataset: Dataset) -> Config:
    """Return the settings of a run, with ``auto`` replaced by the choice for the dataset."""
    if config.optim.embedding_update != "auto":
        return config
    return with_settings(config, {"optim.embedding_update": automatic_update(dataset.schema)})


Interval = Annotated[list[NotNegative], msgspec.Meta(min_length=2, max_length=2)]


class ListMetrics(TypedDict):
    """Metrics of lists over all items, from :func:`dien_jax.metrics.list_metrics`.

    ``ranks``, in ``lists.json``, has the rank of each target by example, None if it is not listed.
    """

    hr_10: NotNegative | None
    hr_10_interval: NotRequired[Interval | None]
    hr_10_popularity: NotNegative | None
    hr_10_sequential_rules: NotRequired[NotNegative | None]
    ndcg_10: NotNegative | None
    ndcg_10_interval: NotRequired[Interval | None]
    ndcg_10_popularity: NotRequired[NotNegative | None]
    ndcg_10_sequential_rules: NotRequired[NotNegative | None]
    mrr: NotNegative | None
    mrr_interval: NotRequired[Interval | None]
    coverage: NotNegative | None
    mean_popularity: NotNegative | None
    targets: Count
    ranks: NotRequired[dict[Count, Positive | None]]


class StoredResult(TypedDict):
    """Content of ``result.json`` that is displayed for runs and baselines."""

    best_step: Count
    valid: Metrics
    test: Metrics
    train_examples_per_second: NotNegative | None
    device: NotRequired[str]
    wall_seconds: NotRequired[NotNegative]
    baselines: NotRequired[dict[str, NotNegative | None]]
    lists: NotRequired[ListMetrics | None]


Result = TypeVar("Result")


def read_result(folder: Path, kind: Callable[..., Result]) -> Result | None:
    """Return the content of ``result.json``; None for an unfinished run."""
    file = folder / RESULT_FILE
    return read_json(file, kind) if os.path.lexists(file) else None


def versions(config: Config | None = None, devices: int = 1) -> dict[str, str]:
    """Return the versions of Python and of the packages that affect the result of a run.

    With settings, "recurrences" is the implementation of the recurrences or, without any, of
    attention, with the instruction set of native kernels. "devices" and "processes" are their
    numbers, if more than one.
    """
    found = {"python": platform.python_version(), "dien_jax": __version__} | {
        package: importlib.metadata.version(package) for package in _PACKAGES
    }
    if config is None:
        return found
    if devices > 1:
        found["devices"] = str(devices)
    if count() > 1:
        found["processes"] = str(count())
    model, chosen = config.model, config.model.implementation
    if model.extractor == model.evolution == "none":
        return found
    try:
        if chosen == "auto":
            options: Any = {"form": model.gates, "precision": model.recurrence_precision}
            options |= {"steps": config.train.max_history, "hidden": model.hidden_size}
            rows = config.train.batch_size // devices
            chosen = explain("gru", batch=rows, **options).implementation
        kernels = f"native {instruction_set()}" if chosen == "native" else chosen
        return found | {"recurrences": kernels}
    except NotImplementedError as error:
        raise UserError(f"model.implementation: {error}") from error

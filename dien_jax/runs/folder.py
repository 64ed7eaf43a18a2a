"""What a run folder says about its run, and writing files into it whole.

RUN/config.json     preset, seed, data, settings, schema and versions, written first
RUN/metrics.jsonl   one object per evaluation
RUN/checkpoints/    the whole state of training, best and latest
RUN/result.json     written last: a run that has it is finished
"""

import dataclasses
import importlib.metadata
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dien_jax._version import __version__
from dien_jax.config.preset_files import WARM_START
from dien_jax.config.settings import Config
from dien_jax.data.dataset import Dataset, data_digest
from dien_jax.data.metadata import schema_to_json
from dien_jax.errors import UserError
from dien_jax.utils.files import read_json, write_json

CONFIG_FILE = "config.json"
CHECKPOINTS_FOLDER = "checkpoints"
RESULT_FILE = "result.json"


_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


@dataclass(frozen=True)
class Run:
    """What ``config.json`` of a run folder holds.

    Attributes:
      preset: the preset that the settings started from.
      seed: of the parameters, the order of examples and the sampled negatives; 0 to 2**32 - 1.
      data: absolute path of the dataset folder.
      data_digest: sha256 of its ``meta.json``, which a resumed run must find again.
      schema: its features as ``meta.json`` has them, which an evaluation must find again.
      config: all settings.
      versions: of Python and of the packages that decide the outcome.
      warm_start: the run whose trained parameters this one started from: ``run``, the absolute
        path of its folder, and ``step``, of its checkpoint; None for fresh parameters.
    """

    preset: str
    seed: int
    data: str
    data_digest: str
    schema: dict[str, Any]
    config: Config
    versions: dict[str, str]
    warm_start: dict[str, Any] | None = None

    @classmethod
    def create(
        cls,
        *,
        preset: str,
        seed: int,
        dataset: Dataset,
        config: Config,
        warm_start: dict[str, Any] | None = None,
    ) -> "Run":
        """The run about to start.

        Raises:
          UserError: for a seed out of range.
        """
        if not 0 <= seed < 2**32:
            raise UserError(f"seed must be 0 to {2**32 - 1}, got {seed}")
        return cls(
            preset=preset,
            seed=seed,
            data=str(dataset.path.absolute()),
            data_digest=data_digest(dataset),
            schema=schema_to_json(dataset.schema),
            config=config,
            versions=versions(),
            warm_start=warm_start,
        )

    def save(self, folder: Path) -> None:
        """Makes the run folder and writes ``config.json``.

        Raises:
          UserError: when the folder has something in it already or cannot be written.
        """
        values = dataclasses.asdict(self)
        settings = values.pop("config")
        if self.warm_start is None:
            del values[WARM_START]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                begun = (folder / CONFIG_FILE).exists()
                raise UserError(
                    f"--run-dir {folder} is not empty; choose another folder"
                    + (f", or --resume {folder} to continue that run" if begun else "")
                )
            write_json(folder / CONFIG_FILE, values | settings)
        except OSError as error:
            raise UserError(f"--run-dir {folder} cannot be written: {error.strerror}") from error

    @classmethod
    def load(cls, folder: Path) -> "Run":
        """Reads ``config.json``.

        Raises:
          UserError: when the folder is missing or no run folder, or the file is damaged.
        """
        file = folder / CONFIG_FILE
        if not folder.is_dir():
            what = "is not a folder" if folder.exists() else "does not exist"
            raise UserError(f"run folder {folder} {what}")
        if not file.is_file():
            raise UserError(f"{folder} is not a run folder: it has no {CONFIG_FILE}")
        values = read_json(file)
        types = {"preset": str, "seed": int, "data": str, "data_digest": str, "schema": dict,
                 "versions": dict}  # fmt: skip
        for name, kind in types.items():
            if not isinstance(values.get(name), kind):
                raise UserError(
                    f"{file}: expected {name!r} of type {kind.__name__}, found {values.get(name)!r}"
                )
        known = {name: values.pop(name) for name in types}
        known[WARM_START] = values.pop(WARM_START, None)
        _check_warm_start(file, known[WARM_START])
        try:
            return cls(**known, config=Config.from_dict(values))
        except UserError as error:
            raise UserError(f"{file}: {error}") from error

    def check_schema(self, dataset: Dataset) -> None:
        """Refuses a dataset that the parameters of this run were not made for.

        Raises:
          UserError: naming the first feature that differs.
        """
        found = schema_to_json(dataset.schema)
        for group in ("item", "user", "context"):
            ours = {feature["name"]: feature for feature in self.schema.get(group, [])}
            theirs = {feature["name"]: feature for feature in found[group]}
            if list(ours) != list(theirs):
                raise UserError(
                    f"{dataset.path} does not fit the run: expected the {group} features "
                    f"{', '.join(ours) or 'none'}, found {', '.join(theirs) or 'none'}"
                )
            for name, feature in ours.items():
                if feature != theirs[name]:
                    raise UserError(
                        f"{dataset.path} does not fit the run: feature {name!r} was {feature} "
                        f"in training, found {theirs[name]}"
                    )

    def check_same_data(self, dataset: Dataset) -> None:
        """Refuses a dataset folder that was prepared anew since the run began.

        Raises:
          UserError: when its ``meta.json`` is another.
        """
        if data_digest(dataset) != self.data_digest:
            raise UserError(
                f"{dataset.path} has changed since this run began (its meta.json differs); a run "
                f"can only resume on the same data"
            )


def _check_warm_start(file: Path, found: Any) -> None:
    expected = {"run": str, "step": int}
    if found is not None and not (
        isinstance(found, dict)
        and all(isinstance(found.get(name), kind) for name, kind in expected.items())
    ):
        raise UserError(f"{file}: expected {WARM_START!r} to tell 'run' and 'step', found {found}")


def read_result(folder: Path) -> dict[str, Any] | None:
    """Return the content of ``result.json``; None for an unfinished run.

    Raises:
      UserError: when the file is damaged.
    """
    file = folder / RESULT_FILE
    if not file.exists():
        return None
    result = read_json(file)
    kinds = {"best_step": int, "valid": dict, "test": dict,
             "train_examples_per_second": float | int | None}  # fmt: skip
    for name, kind in kinds.items():
        if name not in result or not isinstance(result[name], kind):
            raise UserError(f"{file}: expected the {name!r} of a run, found {result.get(name)!r}")
    return result


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the outcome of a run."""
    return {"python": platform.python_version(), "dien_jax": __version__} | {
        package: importlib.metadata.version(package) for package in _PACKAGES
    }

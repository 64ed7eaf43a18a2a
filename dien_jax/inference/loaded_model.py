"""Loading a model to rank with, from a run folder or an exported file."""

from pathlib import Path
from typing import Any, NamedTuple

import jax

from dien_jax.config.settings import Config
from dien_jax.data.schema import Schema
from dien_jax.data.vocabularies import SEPARATOR, Vocabularies
from dien_jax.errors import UserError
from dien_jax.inference.archive import ExportedModel, read_archive
from dien_jax.inference.exported_programs import ranking_programs
from dien_jax.runs.trained import TrainedModel, load_run
from dien_jax.steps.rank import Programs, make_programs


class LoadedModel(NamedTuple):
    """A model to rank with; ``arguments`` are the first ones of every program, on the device."""

    schema: Schema
    step: int
    max_history: int
    history_buckets: tuple[int, ...]
    vocabularies: Vocabularies
    arguments: tuple[Any, ...]
    programs: Programs

    @classmethod
    def from_run(cls, trained: TrainedModel, separator: str = SEPARATOR) -> "LoadedModel":
        config, dataset = trained.run.config, trained.dataset
        return cls(
            dataset.schema,
            trained.step,
            config.train.max_history,
            history_buckets(config),
            Vocabularies(dataset.schema, dataset.vocabulary, separator),
            (jax.device_put(trained.variables()), trained.feature_tables()),
            make_programs(config, dataset.schema),
        )

    @classmethod
    def from_export(cls, exported: ExportedModel, separator: str = SEPARATOR) -> "LoadedModel":
        manifest = exported.manifest
        return cls(
            exported.schema,
            manifest["step"],
            manifest["max_history"],
            tuple(manifest["history_buckets"]),
            Vocabularies(exported.schema, exported.vocabularies.__getitem__, separator),
            (jax.device_put(exported.weights),),
            ranking_programs(exported.programs),
        )


def load_model(
    path: str | Path | TrainedModel, data: str | Path | None, separator: str
) -> LoadedModel:
    """Load the best checkpoint of a run folder, or an exported file; see :class:`Ranker`."""
    if isinstance(path, TrainedModel):
        return LoadedModel.from_run(path, separator)
    path = Path(path)
    if path.is_dir():
        return LoadedModel.from_run(load_run(path, data), separator)
    if not path.exists():
        raise UserError(
            f"{path} does not exist; expected a run folder, or a file written by "
            f"python -m dien_jax.export"
        )
    if data is not None:
        raise UserError(f"{path} is an exported model, which needs no data; leave out {data}")
    return LoadedModel.from_export(read_archive(path), separator)


def history_buckets(config: Config) -> tuple[int, ...]:
    """Return the padded lengths of histories, the last of which is ``max_history``."""
    train = config.train
    return (*(edge for edge in train.buckets if edge < train.max_history), train.max_history)

"""Loading a model to rank with, from a run folder or an exported file."""

from pathlib import Path
from typing import Any, NamedTuple

import jax

from dien_jax.config.settings import Config, TableMemory
from dien_jax.data.schema import Schema
from dien_jax.data.vocabularies import SEPARATOR, Vocabularies
from dien_jax.errors import UserError
from dien_jax.inference.archive import ExportedModel, read_archive
from dien_jax.inference.exported_programs import ranking_programs
from dien_jax.inference.host_weights import by_module, host_ranking_programs, tables_of_file
from dien_jax.runs.trained import TrainedModel, choose_host_tables, load_run
from dien_jax.steps.embedding_rows import Table
from dien_jax.steps.host_tables import (
    make_host_programs,
    place_features,
    place_variables,
    tables_for_host,
)
from dien_jax.steps.rank import Programs, make_programs


class LoadedModel(NamedTuple):
    """A model to rank with; ``arguments`` are the first ones of every program.

    They are on the device, but for tables in host memory.
    """

    schema: Schema
    step: int
    max_history: int
    history_buckets: tuple[int, ...]
    vocabularies: Vocabularies
    arguments: tuple[Any, ...]
    programs: Programs

    @classmethod
    def from_run(cls, trained: TrainedModel, separator: str = SEPARATOR) -> "LoadedModel":
        config, dataset, tables = trained.run.config, trained.dataset, trained.host_tables
        programs = make_programs(config, dataset.schema)
        if tables:
            programs = make_host_programs(config, dataset.schema, tables)
        return cls(
            dataset.schema,
            trained.step,
            config.train.max_history,
            history_buckets(config),
            Vocabularies(dataset.schema, dataset.vocabulary, separator),
            (place_variables(trained.variables(), tables), trained.feature_tables()),
            programs,
        )

    @classmethod
    def from_export(
        cls,
        exported: ExportedModel,
        separator: str = SEPARATOR,
        tables: frozenset[Table] = frozenset(),
    ) -> "LoadedModel":
        """Return an exported model whose given tables stay in host memory."""
        manifest = exported.manifest
        arguments: tuple[Any, ...] = (exported.weights,)
        programs = ranking_programs(exported.programs)
        if tables:
            variables, features = by_module(exported.weights)
            arguments = place_variables(variables, tables), place_features(features, tables)
            programs = host_ranking_programs(exported.programs, exported.schema, tables)
        return cls(
            exported.schema,
            manifest["step"],
            manifest["max_history"],
            tuple(manifest["history_buckets"]),
            Vocabularies(exported.schema, exported.vocabularies.__getitem__, separator),
            arguments if tables else jax.device_put(arguments),
            programs,
        )


def load_model(
    path: str | Path | TrainedModel,
    data: str | Path | None,
    separator: str,
    tables: TableMemory = "auto",
) -> LoadedModel:
    """Load the best checkpoint of a run folder, or an exported file; see :class:`Ranker`."""
    if isinstance(path, TrainedModel):
        return LoadedModel.from_run(path, separator)
    path = Path(path)
    if path.is_dir():
        return LoadedModel.from_run(load_run(path, data, tables=tables), separator)
    if not path.exists():
        raise UserError(
            f"{path} does not exist; expected a run folder, or a file written by "
            f"python -m dien_jax.export"
        )
    if data is not None:
        raise UserError(f"{path} is an exported model, which needs no data; leave out {data}")
    exported = read_archive(path)
    large = tables_of_file(exported.programs, exported.schema)
    if tables == "host" and not large and tables_for_host(exported.schema):
        raise UserError(
            f"{path}: its programs take whole tables; export the run again for host tables"
        )
    on_host = choose_host_tables(tables, large, lambda: exported.weights)
    return LoadedModel.from_export(exported, separator, on_host)


def history_buckets(config: Config) -> tuple[int, ...]:
    """Return the padded lengths of histories, the last of which is ``max_history``."""
    train = config.train
    return (*(edge for edge in train.buckets if edge < train.max_history), train.max_history)

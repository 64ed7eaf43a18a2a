"""Exported files whose large tables stay in host memory.

Programs of a file take the rows of large tables in any number: a whole table, or the rows that
their ids look up.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import export

from dien_jax.data.batch import Batch
from dien_jax.data.schema import (
    FeatureTables,
    MultiValued,
    Schema,
    ValueFactors,
    ValueStatistics,
)
from dien_jax.inference.exported_programs import (
    Weights,
    has_free_rows,
    ranking_programs,
    row_arrays,
)
from dien_jax.runs.saved_arrays import named_leaves
from dien_jax.steps.embedding_rows import Table
from dien_jax.steps.host_tables import HostTables, Ids, Taken, programs_of_rows, tables_for_host
from dien_jax.steps.rank import Programs


def tables_of_file(programs: dict[str, export.Exported], schema: Schema) -> frozenset[Table]:
    """Return the tables of which programs take any number of rows; none in earlier files."""
    return tables_for_host(schema) if has_free_rows(programs) else frozenset()


def by_module(weights: dict[str, np.ndarray]) -> tuple[dict[str, Any], FeatureTables]:
    """Return the variables and tables of a file's arrays, which it has by name."""
    tree: dict[str, Any] = {}
    for name, array in weights.items():
        *folders, last = name.split("/")
        part = tree
        for folder in folders:
            part = part.setdefault(folder, {})
        part[last] = array
    tables = tree.pop("tables", {})

    def columns(group: str) -> dict[str, Any]:
        return {
            name: MultiValued(**value) if isinstance(value, dict) else value
            for name, value in tables.get(group, {}).items()
        }

    def counts(arrays: dict[str, np.ndarray]) -> ValueStatistics:
        longest = int(np.diff(arrays["offsets"]).max())  # programs know the other numbers
        return ValueStatistics(**arrays, sequences=0, least=0, longest=longest)

    statistics = {name: counts(arrays) for name, arrays in tables.get("statistics", {}).items()}
    factors = {name: ValueFactors(**arrays) for name, arrays in tables.get("factors", {}).items()}
    return tree, FeatureTables(columns("item"), columns("user"), statistics, factors)


def host_ranking_programs(
    exports: dict[str, export.Exported], schema: Schema, tables: frozenset[Table]
) -> Programs:
    """Return exported programs that take variables and tables, the given ones in host memory."""
    host = HostTables(schema, tables)
    return programs_of_rows(host, ranking_programs(exports), lambda taken: (_named(taken),))


def host_row_scores(
    exports: dict[str, export.Exported], schema: Schema, tables: frozenset[Table]
) -> Callable[..., jax.Array]:
    """Return ``score(variables, features, batch)`` by the program ``score_rows``."""
    host, score_rows = HostTables(schema, tables), jax.jit(exports["score_rows"].call)

    def score(variables: Any, features: FeatureTables, batch: Batch) -> jax.Array:
        items = np.asarray(batch.item)[:, None]
        ids = Ids(np.asarray(batch.history), items, np.asarray(batch.user), batch.context)
        taken = host.take(variables, features, [ids])
        [ids] = taken.ids
        batch = batch._replace(
            history=ids.history, item=ids.items[:, 0], user=ids.user, context=ids.context
        )
        return score_rows(_named(taken), row_arrays(batch))

    return score


def _named(taken: Taken) -> Weights:
    return named_leaves(taken.variables | {"tables": taken.features})

"""Features of items and users as training sees them.

A value that only rows of validation or test have must be unknown to training. So where the rows of
an item or a user disagree about a feature, or lack it in part, the rows of training decide.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
from ibis.expr.types import Table

from dien_jax.preparation.options import LogColumn
from dien_jax.preparation.pipeline.events import VARIES, EventPart, Events, first_values
from dien_jax.preparation.reading.workspace import Workspace

Trained = Callable[[EventPart], np.ndarray]
"""Mark the events of a part that training sees, bool ``[e]``."""


def training_values(workspace: Workspace, events: Events, group: str, trained: Trained) -> Table:
    """Return the table of users or items with the features that their training rows have.

    An item (a user) without a row in training keeps the features of its other rows.

    ``group`` is ``"item"`` or ``"user"``.
    """
    columns: tuple[LogColumn, ...] = events.features.groups[group]
    table = {"item": events.items, "user": events.users}[group]
    if not columns:
        return table
    varying = np.zeros(workspace.count(table), bool)
    chosen = table.filter(table[VARIES]).select("position")
    for batch in workspace.batches(chosen):
        varying[batch.column("position").to_numpy()] = True
    if not varying.any():
        return table

    def rows() -> Iterator[pa.RecordBatch]:
        for part in events.parts():
            number = part.item if group == "item" else part.sequence + part.first_sequence
            chosen = np.flatnonzero(trained(part) & varying[number]) + part.first_event
            yield pa.record_batch([chosen], schema=schema)

    schema = pa.schema([("position", pa.int64())])
    positions = workspace.append(f"training rows of {group}s", rows(), schema)
    lines = events.contexts.semi_join(positions, "position").select("line")
    clean = events.rows.semi_join(lines, "line")
    seen = clean.group_by(raw=clean[group]).aggregate(**first_values(clean, columns))
    seen = seen.rename({f"seen {column.alias}": column.alias for column in columns}, seen="raw")
    joined = table.left_join(seen, table.raw == seen.seen)
    values = {
        c.alias: joined.seen.isnull().ifelse(joined[c.alias], joined[f"seen {c.alias}"])
        for c in columns
    }
    return workspace.store(f"{group}s in training", joined.mutate(**values).select(*table.columns))

"""Extending a dataset folder: ids keep their rows, new ones come after them.

Ids that the new log lacks keep their rows and their features, unless they are forgotten: then the
rows after theirs move up. Numeric features are standardised as in the old folder. So the rows of a
model trained on that folder keep their meaning, by raw value.
"""

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from ibis.expr.types import Table

from dien_jax.data.columns import Column
from dien_jax.data.dataset import Dataset, open_dataset
from dien_jax.data.digests import data_digest
from dien_jax.errors import UserError
from dien_jax.preparation.options import ColumnOptions, LogOptions
from dien_jax.preparation.pipeline.events import Events
from dien_jax.preparation.reading.log import Log, address_of, files_of
from dien_jax.preparation.reading.workspace import Workspace
from dien_jax.utils.text_files import sha256

SETTINGS = "settings"  # entry of source in meta.json that an extending folder must share
SECONDS_OF_DAY = 86_400


class Growth(NamedTuple):
    """The folder that is extended, and the ids of the log, by ``item`` and ``user``.

    Attributes:
      folder: the extended folder.
      counts: occurrences of each id before validation, int64 ``[n]``.
      recent: whether an id has an event of the last days of training, bool ``[n]``; None where no
        id is forgotten.
    """

    folder: Dataset
    counts: dict[str, np.ndarray]
    recent: dict[str, np.ndarray] | None


class KnownRows(NamedTuple):
    """Rows that n values of a log have by the extended folder.

    Attributes:
      raw: raw values of the K rows that are kept, in order.
      before: their rows in the extended folder, int64 ``[K]``.
      row_of: row of each value, from 1, int32 ``[n]``; 0 for one that is new or forgotten.
    """

    raw: list[str]
    before: np.ndarray
    row_of: np.ndarray


def open_extended(options: ColumnOptions, source: str) -> Dataset | None:
    """Open the folder that ``--extend`` names, None without it; refuse one made otherwise."""
    if options.extend is None:
        return None
    flag = f"--extend {options.extend}"
    try:
        dataset = open_dataset(options.extend)
    except UserError as error:
        raise UserError(f"--extend: {error}") from error
    made_by = dataset.meta.get("source", {})
    if made_by.get("name") != source:
        maker = f"{source}, found one made by {made_by.get('name')!r}"
        raise UserError(f"{flag}: expected a folder made by prepare {maker}")
    settings = made_by.get(SETTINGS)
    if settings is None:
        lacks = "its meta.json lacks the settings it was made with; prepare it again"
        raise UserError(f"{flag}: {lacks}")
    for group, columns in options.features().groups.items():
        given = " ".join(f"{column.name}:{column.kind}" for column in columns) or "none"
        features = getattr(dataset.schema, group)[0 if group == "context" else 1 :]
        expected = " ".join(f"{feature.name}:{feature.kind}" for feature in features) or "none"
        if given != expected:
            must = f"--{group}-features must be those of that folder, {expected}, got {given}"
            raise UserError(f"{flag}: {must}")
    for name, value in options.matched_settings().items():
        if name != "min_count" and settings.get(name) != value:  # it is for new values alone
            expected, got = map(_shown, (settings.get(name), value))
            must = f"must be that of that folder, {expected}, got {got}"
            raise UserError(f"{flag}: --{name.replace('_', '-')} {must}")
    return dataset


def _shown(setting: Any) -> str:
    return "none" if setting is None else repr(setting)


def column_source(
    name: str, options: ColumnOptions, log: Log, extended: Dataset | None
) -> dict[str, Any]:
    """Return the description of a log in columns for ``meta.json``, and of the extended folder.

    Files that only an engine sees have no digest.
    """
    if (address := address_of(options.file)) is not None:
        inside = f"{address.removeprefix('file://')}/"
        names = [start.file.removeprefix(inside) for start in log.starts]
        files: dict[str, str | None] = dict.fromkeys(names)
    else:
        folder = options.file if options.file.is_dir() else options.file.parent
        parts = files_of(options.file)
        files = {part.relative_to(folder).as_posix(): sha256(part) for part in parts}
    source = {"name": name, "files": files, SETTINGS: options.matched_settings()}
    if extended is not None:
        extends: dict[str, Any] = {"folder": str(options.extend), "meta": data_digest(extended)}
        if options.forget_after is not None:
            extends["forget_after"] = options.forget_after
        source["extends"] = extends
    return source


def growth_of(
    options: LogOptions,
    extended: Dataset | None,
    events: Events,
    counts: dict[str, np.ndarray],
    end: int,
) -> Growth | None:
    """Return what decides the ids of a folder that extends another; None without one.

    ``counts`` are those before validation, and ``end`` is the time of the last training event.

    Raises:
      UserError: for a log that does not reach back as far as ``--forget-after``.
    """
    if extended is None:
        return None
    days = options.forget_after if isinstance(options, ColumnOptions) else None
    if days is None:
        return Growth(extended, counts, None)
    day = SECONDS_OF_DAY * (1000 if events.clock.unit == "milliseconds" else 1)
    start, since = events.times()[0], end - days * day
    if start >= since + day:
        raise UserError(
            f"--forget-after {days}: the log must reach back {days} days before the end of "
            f"training, found {(end - start) / day:.1f} days; give a longer log, or fewer days"
        )
    items, users = np.zeros(events.num_items, bool), np.zeros(events.num_users, bool)
    for part in events.parts():
        is_recent = (part.timestamp >= since) & (part.timestamp <= end)
        items[part.item[is_recent]] = True
        users[part.sequence[is_recent] + part.first_sequence] = True
    return Growth(extended, counts, {"item": items, "user": users})


def known_rows(
    workspace: Workspace, growth: Growth | None, feature: str, values: Table, count: int
) -> KnownRows:
    """Look values up in the extended folder's vocabulary of a feature.

    ``values`` is a table of ``position`` and ``raw`` with ``count`` rows.
    """
    if growth is None:
        return KnownRows([], np.zeros(0, np.int64), np.zeros(count, np.int32))
    vocabulary = growth.folder.vocabulary(feature)
    rows = pa.table({"raw": vocabulary[1:], "row": np.arange(1, len(vocabulary))})
    stored = workspace.store(f"known values of {feature}", rows)
    joined = values.left_join(stored, "raw").select("position", row=stored.row.fill_null(0))
    row_of = workspace.arrays(joined.order_by("position"), count, {"row": np.int32})["row"]
    recent = (growth.recent or {}).get(feature)
    is_kept = np.full(len(vocabulary), recent is None)
    if recent is not None:
        is_kept[row_of[recent]] = True
    is_kept[0] = True
    moved = (np.cumsum(is_kept) - 1).astype(np.int32)
    before = np.flatnonzero(is_kept)[1:]
    row_of = np.where(is_kept[row_of], moved[row_of], 0).astype(np.int32)
    return KnownRows([vocabulary[row] for row in before], before, row_of)


def concatenated(column: Column, after: Column | None) -> Column:
    """Return the rows of a column, then those of another one, if given."""
    if after is None:
        return column
    values = np.concatenate([column.values, after.values])
    if column.offsets is None or after.offsets is None:
        return Column(values, None)
    return Column(values, np.concatenate([column.offsets, column.offsets[-1] + after.offsets[1:]]))

"""Extending a dataset folder: ids keep their rows, new ones come after them.

Ids that the new log lacks keep their rows and their features. Numeric features are standardised as
in the old folder. So the rows of a model trained on that folder keep their meaning.
"""

from typing import Any

import numpy as np
import pyarrow as pa
from ibis.expr.types import Table

from dien_jax.data.dataset import Column, Dataset, open_dataset
from dien_jax.data.digests import data_digest
from dien_jax.errors import UserError
from dien_jax.preparation.options import ColumnOptions
from dien_jax.preparation.reading.workspace import Workspace
from dien_jax.utils.text_files import sha256

SETTINGS = "settings"  # entry of source in meta.json that an extending folder must share


def open_extended(options: ColumnOptions, source: str) -> Dataset | None:
    """Open the folder that ``--extend`` names, None without it; refuse one made otherwise.

    A folder without the setting ``max_examples`` is older than it: it has one training example of
    each user if it was split by user, and one of every event otherwise.
    """
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
    settings = {"max_examples": 1 if settings.get("split") == "by-user" else None} | settings
    for group, columns in options.features().groups.items():
        given = " ".join(f"{column.name}:{column.kind}" for column in columns) or "none"
        features = getattr(dataset.schema, group)[0 if group == "context" else 1 :]
        expected = " ".join(f"{feature.name}:{feature.kind}" for feature in features) or "none"
        if given != expected:
            must = f"--{group}-features must be those of that folder, {expected}, got {given}"
            raise UserError(f"{flag}: {must}")
    for name, value in options.matched_settings().items():
        if settings.get(name) != value:
            expected, got = map(_shown, (settings.get(name), value))
            must = f"must be that of that folder, {expected}, got {got}"
            raise UserError(f"{flag}: --{name.replace('_', '-')} {must}")
    return dataset


def _shown(setting: Any) -> str:
    return "none" if setting is None else repr(setting)


def column_source(name: str, options: ColumnOptions, extended: Dataset | None) -> dict[str, Any]:
    """Return the description of a log in columns for ``meta.json``, and of the extended folder."""
    files = {options.file.name: sha256(options.file)}
    source = {"name": name, "files": files, SETTINGS: options.matched_settings()}
    if extended is not None:
        source["extends"] = {"folder": str(options.extend), "meta": data_digest(extended)}
    return source


def known_rows(
    workspace: Workspace, extended: Dataset | None, feature: str, values: Table, count: int
) -> tuple[list[str], np.ndarray]:
    """Look values up in the extended folder's vocabulary of a feature.

    ``values`` is a table of ``position`` and ``raw`` with ``count`` rows. Returns the raw values of
    the known rows and the row of each value, int32 ``[n]``, 0 where it is new.
    """
    if extended is None:
        return [], np.zeros(count, np.int32)
    vocabulary = extended.vocabulary(feature)[1:]
    rows = pa.table({"raw": vocabulary, "row": np.arange(1, len(vocabulary) + 1)})
    stored = workspace.store(f"known values of {feature}", rows)
    joined = values.left_join(stored, "raw").select("position", row=stored.row.fill_null(0))
    arrays = workspace.arrays(joined.order_by("position"), count, {"row": np.int32})
    return vocabulary, arrays["row"]


def concatenated(column: Column, after: Column | None) -> Column:
    """Return the rows of a column, then those of another one, if given."""
    if after is None:
        return column
    values = np.concatenate([column.values, after.values])
    if column.offsets is None or after.offsets is None:
        return Column(values, None)
    return Column(values, np.concatenate([column.offsets, column.offsets[-1] + after.offsets[1:]]))

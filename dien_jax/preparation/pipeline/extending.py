"""Extending a dataset folder: ids keep their rows, new ones come after them.

Ids that the new log lacks keep their rows and their features. Numeric features are standardised as
in the old folder. So the rows of a model trained on that folder keep their meaning.
"""

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from ibis.expr.types import Table

from dien_jax.data.dataset import Column, Dataset, data_digest, open_dataset
from dien_jax.data.schema import Feature
from dien_jax.errors import UserError
from dien_jax.preparation.options import ColumnOptions
from dien_jax.preparation.reading.workspace import Workspace
from dien_jax.utils.text_files import sha256

SETTINGS = "settings"
"""Entry of ``source`` in ``meta.json``: the settings that an extending folder must share."""


class Known(NamedTuple):
    """Rows that n values of the log have already."""

    vocabulary: list[str]  # the raw values of these rows, by row, without that of the unknown one
    row_of: np.ndarray  # int32 [n], the row of each value; 0 where it is new


def open_extended(options: ColumnOptions, source: str) -> Dataset | None:
    """Open the folder that ``--extend`` names; None without it.

    A folder of another source than ``source``, or with other features or settings, is a
    ``UserError`` that names the flag.
    """
    if options.extend is None:
        return None
    try:
        dataset = open_dataset(options.extend)
    except UserError as error:
        raise UserError(f"--extend: {error}") from error
    made_by = dataset.meta.get("source", {})
    if made_by.get("name") != source:
        raise UserError(
            f"--extend {options.extend}: expected a folder made by prepare {source}, found one "
            f"made by {made_by.get('name')!r}"
        )
    settings = made_by.get(SETTINGS)
    if settings is None:
        raise UserError(
            f"--extend {options.extend}: its meta.json lacks the settings it was made with; "
            f"prepare it again"
        )
    for group, columns in options.features().groups.items():
        given = [f"{column.name}:{column.kind}" for column in columns]
        features = getattr(dataset.schema, group)[0 if group == "context" else 1 :]
        expected = [f"{feature.name}:{feature.kind}" for feature in features]
        if given != expected:
            raise UserError(
                f"--extend {options.extend}: --{group}-features must be those of that folder, "
                f"{' '.join(expected) or 'none'}, got {' '.join(given) or 'none'}"
            )
    for name, value in options.matched_settings().items():
        if settings.get(name) != value:
            raise UserError(
                f"--extend {options.extend}: --{name.replace('_', '-')} must be that of that "
                f"folder, {settings.get(name)!r}, got {value!r}"
            )
    return dataset


def column_source(name: str, options: ColumnOptions, extended: Dataset | None) -> dict[str, Any]:
    """Return the description of a log in columns for ``meta.json``, and of the extended folder."""
    source = {
        "name": name,
        "files": {options.file.name: sha256(options.file)},
        SETTINGS: options.matched_settings(),
    }
    if extended is not None:
        source["extends"] = {"folder": str(options.extend), "meta": data_digest(extended)}
    return source


def known_rows(
    workspace: Workspace, extended: Dataset | None, feature: str, values: Table, count: int
) -> Known:
    """Look values up in the extended folder's vocabulary of a feature; none is known without one.

    ``values`` is a table of ``position`` and ``raw`` with ``count`` rows, each value once.
    """
    if extended is None:
        return Known([], np.zeros(count, np.int32))
    vocabulary = extended.vocabulary(feature)[1:]
    rows = pa.table({"raw": vocabulary, "row": np.arange(1, len(vocabulary) + 1)})
    stored = workspace.store(f"known values of {feature}", rows)
    joined = values.left_join(stored, "raw").select("position", row=stored.row.fill_null(0))
    arrays = workspace.arrays(joined.order_by("position"), count, {"row": np.int32})
    return Known(vocabulary, arrays["row"])


def extended_feature(extended: Dataset | None, name: str) -> Feature | None:
    """Return the feature of that name in the extended folder; None without one."""
    if extended is None:
        return None
    schema = extended.schema
    features = (*schema.item, *schema.user, *schema.context)
    return next(feature for feature in features if feature.name == name)


def concatenated(column: Column, after: Column | None) -> Column:
    """Return the rows of a column, then those of another one, if given."""
    if after is None:
        return column
    values = np.concatenate([column.values, after.values])
    if column.offsets is None or after.offsets is None:
        return Column(values, None)
    return Column(values, np.concatenate([column.offsets, column.offsets[-1] + after.offsets[1:]]))

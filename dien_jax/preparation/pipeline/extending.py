"""The dataset folder that a new one extends: ids keep their rows, new ones come after them.

Rows of ids that the new log lacks stay, with the features they had. What tables are looked up by is
then the same in both folders as far as the old one goes, numbers are standardised alike, and so
trained rows keep their meaning.
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

SETTINGS = "settings"
"""Entry of ``source`` in ``meta.json``: what a folder that extends this one must have alike."""


class Known(NamedTuple):
    """Which of n values of the log have a row already.

    Attributes:
      vocabulary: the raw values of these rows, by row, without that of the unknown one.
      row_of: int32 ``[n]``, the row of each value; 0 where it is new.
    """

    vocabulary: list[str]
    row_of: np.ndarray


def open_extended(options: ColumnOptions, source: str) -> Dataset | None:
    """The folder that ``--extend`` names, or None without it.

    Args:
      options: of the new folder.
      source: the name of the source that made both.

    Raises:
      UserError: when it cannot be opened, another source made it, or features or settings differ;
        the message names the flag.
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
    before = made_by.get(SETTINGS)
    if before is None:
        raise UserError(
            f"--extend {options.extend}: its meta.json does not tell the settings it was made "
            f"with; prepare it again"
        )
    for group, columns in options.features().items():
        found = [f"{column.name}:{column.kind}" for column in columns]
        features = getattr(dataset.schema, group)[0 if group == "context" else 1 :]
        expected = [f"{feature.name}:{feature.kind}" for feature in features]
        if found != expected:
            raise UserError(
                f"--extend {options.extend}: --{group}-features must be those of that folder, "
                f"{' '.join(expected) or 'none'}, got {' '.join(found) or 'none'}"
            )
    for name, value in options.agreed().items():
        if before.get(name) != value:
            raise UserError(
                f"--extend {options.extend}: --{name.replace('_', '-')} must be that of that "
                f"folder, {before.get(name)!r}, got {value!r}"
            )
    return dataset


def described_source(
    name: str, options: ColumnOptions, sha256: str, extended: Dataset | None
) -> dict[str, Any]:
    """What ``meta.json`` says of the log, and of the folder that is extended."""
    source = {"name": name, "files": {options.file.name: sha256}, SETTINGS: options.agreed()}
    if extended is not None:
        source["extends"] = {"folder": str(options.extend), "meta": data_digest(extended)}
    return source


def known(
    workspace: Workspace, extended: Dataset | None, feature: str, values: Table, count: int
) -> Known:
    """Which values have a row in the folder that is extended; none without one.

    Args:
      workspace: where they are looked up.
      extended: the folder.
      feature: whose vocabulary.
      values: table ``position`` and ``raw``, each value once.
      count: n, how many they are.
    """
    if extended is None:
        return Known([], np.zeros(count, np.int32))
    vocabulary = extended.vocabulary(feature)[1:]
    rows = pa.table({"raw": vocabulary, "row": np.arange(1, len(vocabulary) + 1)})
    stored = workspace.store(f"known values of {feature}", rows)
    joined = values.left_join(stored, "raw").select("position", row=stored.row.fill_null(0))
    arrays = workspace.arrays(joined.order_by("position"), count, {"row": np.int32})
    return Known(vocabulary, arrays["row"])


def before(extended: Dataset | None, name: str) -> Feature | None:
    """The feature of that name in the folder that is extended, if there is one."""
    if extended is None:
        return None
    schema = extended.schema
    every = (*schema.item, *schema.user, *schema.context)
    return next(feature for feature in every if feature.name == name)


def chained(column: Column, after: Column | None) -> Column:
    """The rows of a column, then those of another, if there is one."""
    if after is None:
        return column
    values = np.concatenate([column.values, after.values])
    if column.offsets is None or after.offsets is None:
        return Column(values, None)
    return Column(values, np.concatenate([column.offsets, column.offsets[-1] + after.offsets[1:]]))

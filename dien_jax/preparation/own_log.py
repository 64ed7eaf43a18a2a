"""Datasets from your own log, in memory or in files."""

import contextlib
import dataclasses
import datetime
import re
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dien_jax.data.dataset import Dataset, open_dataset
from dien_jax.errors import UserError, suggestion
from dien_jax.preparation.sources import impressions, interactions
from dien_jax.utils.console import say
from dien_jax.utils.json_values import as_declared

IN_MEMORY = Path("data")  # name of a table in memory in messages


def make_dataset(
    data: Any,
    out: str | Path | None = None,
    *,
    user: str = "user",
    item: str = "item",
    timestamp: str = "timestamp",
    label: str | None = None,
    item_features: Sequence[str] = (),
    user_features: Sequence[str] = (),
    **options: Any,
) -> Dataset:
    """Make a dataset folder from a log, and open it.

    This does the same as the command ``prepare interactions`` or, with a ``label``, ``prepare
    impressions``. Their output and progress go to standard error.

    >>> import pyarrow as pa
    >>> from dien_jax import make_dataset
    >>> fruit = ["pear", "fig", "plum", "fig", "kiwi", "pear", "plum", "kiwi"]
    >>> log = pa.table({"user": ["Ann"] * 4 + ["Bob"] * 4, "item": fruit, "timestamp": range(8)})
    >>> make_dataset(log, "fruit").vocabulary("user")
    ['', 'Ann', 'Bob']

    Args:
      data: the log, one row per event: a DataFrame of pandas or Polars, an Arrow table or
        another source of an Arrow stream, or the path of a CSV or Parquet file or of a folder of
        such files. Column types are those of Parquet, see ``docs/data.md``. Rows count from 0.
      out: folder to create. By default the folder is temporary, and removed with the returned
        dataset: use models trained on it only while the dataset exists.
      user: column of the user id.
      item: column of the item id.
      timestamp: column of the time: whole seconds or milliseconds, timestamps or ISO dates.
      label: column of the label, 1 for a click and 0 for none. By default every row is a choice,
        and negatives are sampled.
      item_features: columns that describe the item: ``name``, ``name:multivalued`` or
        ``name:numeric``.
      user_features: columns that describe the user, in the same form.
      options: ``split``, ``min_count`` and the other fields of ``InteractionsOptions`` of
        :mod:`dien_jax.preparation.sources.interactions` or, with a label, of
        ``ImpressionsOptions`` of :mod:`dien_jax.preparation.sources.impressions`. Times, such as
        ``valid_from``, are ISO dates, seconds, or a ``date``, ``datetime`` or ``Timestamp``.

    Raises:
      UserError: for a column that is missing or cannot be read, too many malformed rows, options
        that do not fit, a log without an example, or a folder that cannot be written. The message
        names the column, and the first malformed rows.
    """
    if data is None:
        raise UserError("data must be a log, got None")
    kind: Any = interactions if label is None else impressions
    chosen = kind.InteractionsOptions if label is None else kind.ImpressionsOptions
    names = {field.name for field in dataclasses.fields(chosen)} - {"file", "out"}
    for name in options:
        if name not in names:
            about = f"an option of a log {'without' if label is None else 'with'} a label"
            raise UserError(f"{name!r} is not {about}{suggestion(name, names)}")
        if isinstance(options[name], datetime.date):  # datetime and Timestamp are subclasses
            options[name] = options[name].isoformat()

    def of_python(text: str) -> str:
        """Return a message with the names of options for flags: min_count for --min-count."""
        flag = re.compile("--(" + "|".join(names).replace("_", "-") + r")(?![\w-])")
        return flag.sub(lambda found: found[1].replace("-", "_"), text)

    is_file = isinstance(data, str | Path)
    named = options | {"file": data if is_file else IN_MEMORY}
    named |= {"user": user, "item": item, "timestamp": timestamp}
    named |= {"item_features": item_features, "user_features": user_features}
    named |= {} if label is None else {"label": label}
    with contextlib.ExitStack() as stack:
        if out is None:
            out = stack.enter_context(tempfile.TemporaryDirectory(prefix="dien-jax-temporary-"))
            out = Path(out) / "data"
        try:
            made = chosen(**as_declared(chosen, named | {"out": out}))
            for line in kind.prepare(made, table=None if is_file else data):
                say(of_python(line))
        except UserError as error:
            raise UserError(of_python(error.args[0])) from error.__cause__  # not from its flags
        dataset = open_dataset(out)
        weakref.finalize(dataset, stack.pop_all().close)
    return dataset

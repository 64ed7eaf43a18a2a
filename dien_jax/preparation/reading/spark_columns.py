"""Typed columns in Spark as the text of :mod:`dien_jax.data.value_text`."""

from typing import Any

import pyarrow as pa
import pyarrow.types as of

from dien_jax.data.value_text import Use
from dien_jax.preparation.options import LogColumn

INSIDE = "\x1f"
"""Separator of the values of a list until it is known that none holds the one that is asked for."""
LARGEST_WHOLE = 2.0**63


def arrow_type(kind: Any) -> pa.DataType:
    """Return the type of Arrow for a type of Spark."""
    from pyspark.sql.pandas.types import to_arrow_type

    return to_arrow_type(kind)


def column_text(column: LogColumn, kind: pa.DataType) -> Any:
    """Return a column of Spark as text, NULL where missing; lists are joined by ``INSIDE``.

    Args:
      column: the column, by its name in the file.
      kind: its type, which ``check_type`` accepts.
    """
    from pyspark.sql import functions

    values = functions.col("`" + column.name.replace("`", "``") + "`")
    if of.is_list(kind):
        texts = functions.transform(values, lambda v: _text(v, kind.value_type, "categorical"))
        full = functions.transform(texts, lambda v: functions.coalesce(v, functions.lit("")))
        text = functions.array_join(full, INSIDE)
    else:
        text = _text(values, kind, column.kind)
    return functions.when(text != "", text)


def _text(values: Any, kind: pa.DataType, use: Use) -> Any:
    from pyspark.sql import functions

    if of.is_boolean(kind):
        values = values.cast("int")
    elif of.is_floating(kind):
        values = functions.when(~functions.isnan(values), values)
        if use == "time":
            number = values.cast("double")
            fits = (number == functions.floor(number)) & (functions.abs(number) < LARGEST_WHOLE)
            whole = functions.when(fits, number).cast("long").cast("string")
            return functions.coalesce(whole, number.cast("string"))
    return values.cast("string")

"""Recognition of lists in a column that was named categorical, where each cell is one value."""

from ibis.expr.types import Table

from dien_jax.preparation.options import LogColumn
from dien_jax.preparation.reading.workspace import Workspace

LIKELY = ("|", ";")  # separators that are hardly ever part of one value
POSSIBLE = (",", " ")  # separators that names have too: their pieces must recur as well
MANY = 0.3  # share of the different values that hold a separator, from which it is recognised
RECURRENCE = 2  # different values for each different piece, from which pieces recur
LONGEST_EXAMPLE = 60  # characters shown of a value


def separator_warnings(
    workspace: Workspace, column: LogColumn, raws: Table, separator: str
) -> list[str]:
    """Return a warning if the values of a categorical column look like lists, or nothing.

    ``raws`` has every different value once, as ``position`` and ``raw``; ``separator`` is that of
    multi-valued columns.
    """
    if not column.flag.endswith("-features"):
        return []  # a column of a published set: no flag says how it is read
    signs = (*LIKELY, *POSSIBLE)
    sums = {f"sign {k}": raws.raw.contains(sign).sum() for k, sign in enumerate(signs)}
    total, *held = workspace.numbers(raws.aggregate(total=raws.count(), **sums)).values()
    for sign, count in zip(signs, held, strict=True):
        if not count or count < MANY * total:
            continue
        if sign in POSSIBLE:
            pieces = workspace.pieces(raws.select("position", "raw"), sign).select("raw")
            if RECURRENCE * workspace.count(pieces.distinct()) > total:
                continue
        (example,) = workspace.strings(
            raws.filter(raws.raw.contains(sign)).order_by("position").limit(1), "raw"
        )
        flags = f"{column.flag} {column.name}:multivalued"
        flags += "" if sign == separator else f" --separator {sign!r}"
        return [
            f"warning: {column.flag} {column.name}: {count:,} of {total:,} different values hold "
            f"{sign!r}, for example {example[:LONGEST_EXAMPLE]!r}, and each is one category; "
            f"if they are lists, give {flags}"
        ]
    return []

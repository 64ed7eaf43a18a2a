"""Recognition of lists that are read as one value: no list was announced, or another separator."""

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
    """Return a warning if the values of a column look like lists, or nothing.

    ``raws`` has every different value once, as ``position`` and ``raw``: the cells of a categorical
    column, the pieces of a multi-valued one. ``separator`` is that of multi-valued columns.
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
        is_list = column.kind == "multivalued"
        flags = [] if is_list else [f"{column.flag} {column.name}:multivalued"]
        flags += [] if sign == separator else [f"--separator {sign!r}"]
        whole = f"is one value, as the separator is {separator!r}" if is_list else "is one category"
        return [
            f"warning: {column.flag} {column.name}: {count:,} of {total:,} different values hold "
            f"{sign!r}, for example {example[:LONGEST_EXAMPLE]!r}, and each {whole}; "
            f"if they are lists, give {' '.join(flags)}"
        ]
    return []

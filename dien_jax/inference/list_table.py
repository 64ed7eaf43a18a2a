"""Lists of the next items for the user of every row of a table.

Histories are found as those of :mod:`dien_jax.inference.score_table`.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dien_jax.data.dataset import Dataset, open_dataset
from dien_jax.data.schema import UNKNOWN
from dien_jax.errors import UserError, writing
from dien_jax.inference.ranker import Ranker
from dien_jax.inference.request_tables import (
    LIST_COLUMNS,
    Piece,
    RequestTable,
    has_columns,
    open_requests,
    writing_lists,
)
from dien_jax.inference.score_table import (
    Reader,
    UserColumns,
    described,
    find_context,
    found_columns,
)
from dien_jax.runs.trained import load_run
from dien_jax.utils.console import say, stage
from dien_jax.utils.files import check_out

USERS_PER_PIECE = 512
COUNTS = (
    "rows", "items", "unknown_users", "unknown_history", "unknown_context", "empty_histories",
)  # fmt: skip
USER_COLUMNS = UserColumns()


def list_for_users(
    model: str | Path,
    table: str | Path,
    out: str | Path,
    data: str | Path | None = None,
    columns: UserColumns = USER_COLUMNS,
    *,
    n: int = 20,
    overwrite: bool = False,
    **filters: Any,
) -> dict[str, int]:
    r"""List the next items of the user of every row of a table, and write the lists.

    >>> from pathlib import Path
    >>> from dien_jax import Ranker
    >>> from dien_jax.inference import list_for_users
    >>> context = [feature.name for feature in Ranker("runs/first").schema.context]
    >>> header = ",".join(["user", *context])
    >>> _ = Path("users.csv").write_text(f"{header}\nAnn{',' * len(context)}\n")
    >>> list_for_users("runs/first", "users.csv", "lists.csv", n=3)["items"]
    3

    Args:
      model: run folder, or an exported file.
      table: CSV or TSV with a header, or Parquet; a row for each list.
      out: table to write with the columns user, rank, item and score: Parquet if its name ends in
        ``.parquet``, else CSV or TSV.
      data: dataset folder; None for the one of the run, or none for an exported file, which then
        needs a column of histories.
      columns: names of the table's columns.
      n: length of the lists.
      overwrite: replace ``out`` even if it is not a table of lists.
      filters: further arguments of :meth:`dien_jax.Ranker.recommend`.

    Returns:
      The number of ``rows`` and listed ``items``, and of ``unknown_users``, ``unknown_history``,
      ``unknown_context`` and ``empty_histories``.

    Raises:
      UserError: see :func:`score_requests`, and for filters that are refused.
    """
    out, table, model = Path(out), Path(table), Path(model)
    requests = open_requests(table)
    inputs = (table, model, None if data is None else Path(data))
    check_out(out, is_ours=has_columns(LIST_COLUMNS), overwrite=overwrite, inputs=inputs)
    columns = found_columns(requests, columns)
    dataset: Dataset | None = None
    if model.is_dir():
        trained = load_run(model, data)
        ranker, dataset = Ranker(trained, separator=columns.separator), trained.dataset
    else:
        ranker = Ranker(model, separator=columns.separator)
        if data is not None:
            dataset = open_dataset(data)
    ranker.recommend_many([], n, **filters)  # refuses wrong filters
    find_context(requests, ranker.schema)
    if dataset is not None:
        say(f"histories: {described(columns, dataset)}")
    elif columns.history is None:
        raise UserError(
            f"{model} is an exported file, which has no events: give --data DATA, or {table} a "
            f"column 'history'"
        )
    reader = _UserReader(requests, columns, ranker, dataset)
    counts = reader.counts
    progress = stage(f"listing items for {table}", requests.share)
    with writing(out, "--out"), progress as current, writing_lists(out) as write:
        for piece in requests.pieces(USERS_PER_PIECE):
            users, histories, contexts = reader.requests(piece)
            lists = ranker.recommend_many(histories, n, users=users, contexts=contexts, **filters)
            write(users, lists)
            counts["items"] += sum(len(listed.ids) for listed in lists)
            counts["unknown_history"] += sum(listed.unknown_history for listed in lists)
            counts["unknown_context"] += sum(listed.unknown_context for listed in lists)
            current.note = f"{counts['rows']:,} rows"
        if not counts["rows"]:
            raise UserError(f"{table} has no rows")
    return counts


class _UserReader(Reader):
    """Reads pieces of a table of users as arguments of ``recommend_many``."""

    def __init__(
        self, table: RequestTable, columns: UserColumns, ranker: Ranker, dataset: Dataset | None
    ) -> None:
        super().__init__(table, columns, dataset, COUNTS)
        self._vocabularies, self._context = ranker.vocabularies, ranker.schema.context
        self._dataset = dataset
        self._names = dataset.vocabulary("item") if dataset and self.events else []

    def requests(self, piece: Piece) -> tuple[list[str], list[list[str]], list[dict[str, Any]]]:
        """Return users, histories and contexts."""
        users, context = self.users(piece), []
        for feature in self._context:
            encode = partial(self._vocabularies.encode, feature)
            self.convert(piece, feature.name, feature.kind, encode)  # names a wrong cell's row
            context.append(self.table.column(piece, feature.name, feature.kind))
        names = [feature.name for feature in self._context]
        contexts = [
            dict(zip(names, [cells[row] for cells in context], strict=True))
            for row in range(piece.rows)
        ]
        histories = self._histories(piece, users)
        rows = np.array([self._vocabularies.user_row(raw) for raw in users], np.int32)
        self.counts["rows"] += piece.rows
        self.count_rows("unknown_users", rows == UNKNOWN)
        self.count_rows("empty_histories", np.array([not events for events in histories]))
        return users, histories, contexts

    def _histories(self, piece: Piece, users: list[str]) -> list[list[str]]:
        if self.events is None:
            return self.given(piece, self._vocabularies)
        assert self._dataset is not None
        events, offsets = self._dataset.event_item, np.asarray(self._dataset.event_offsets)
        return [
            [self._names[row] for row in events[offsets[sequence] : end]]
            for sequence, end in self.found(piece, users)
        ]

"""Scores and item lists for the rows of a table of requests.

A row is a user and, for scores, an item. Its history is the first of these that is available:

1. the ids in its column ``history``, oldest first;
2. the user's events in the data folder before the row's ``timestamp``, which is a time as in the
   log of the folder, or an ISO date;
3. all of the user's events in the data folder.
Each feature of requests is a column of its name. The features of events come from the data folder,
and are missing values for a column ``history``. Tables are read and written in pieces, so memory
does not limit their size. The same call after one that was stopped uses the :class:`Answers` of
that.
"""

import dataclasses
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from dien_jax.data.dataset import open_dataset
from dien_jax.data.loader import evaluation_loader
from dien_jax.data.vocabularies import Vocabularies
from dien_jax.errors import NotFiniteError, UserError, encodable, require, writing
from dien_jax.inference import request_tables as tables
from dien_jax.inference.answers import kept_answers, state_of
from dien_jax.inference.bucketed_programs import BucketedPrograms, encoded_requests
from dien_jax.inference.lists import ItemLists
from dien_jax.inference.loaded_model import host_arrays, load_model
from dien_jax.inference.table_rows import RowReader
from dien_jax.runs.calibration import CALIBRATION_FILE, OFFSETS_FILE
from dien_jax.runs.folder import CHECKPOINTS_FOLDER, CONFIG_FILE
from dien_jax.runs.list_weights import WEIGHTS_FILE
from dien_jax.runs.trained import load_run, score_batches, scorer
from dien_jax.utils.console import say, stage

BATCHES_PER_PIECE = 64
"""Rows of a piece are sorted by history length, which reduces padding."""
USERS_PER_PIECE = 512
LIST_COLUMNS = ("user", "rank", "item")
"""Columns of a table of lists, before the column of scores."""
SUBJECTS = {
    "unknown_users": "rows with a user that training did not see",
    "unknown_items": "rows with an item that training did not see",
    "unknown_history": "behaviours that training did not see",
    "unknown_values": "values of features that training did not see",
    "empty_histories": "rows with an empty history",
}
"""Counts by name, and their descriptions for standard error; zero counts are not printed."""


def score_requests(
    run_dir: str | Path,
    table: str | Path,
    out: str | Path,
    data: str | Path | None = None,
    columns: tables.RequestColumns = tables.DEFAULT_COLUMNS,
    *,
    overwrite: bool = False,
) -> dict[str, int]:
    r"""Score every row of a table with the best checkpoint of a run, and write it with the scores.

    >>> from pathlib import Path
    >>> from dien_jax import Ranker
    >>> from dien_jax.inference import score_requests
    >>> features = [feature.name for feature in Ranker("runs/first").schema.request]
    >>> header = ",".join(["user", "item", *features])
    >>> _ = Path("requests.csv").write_text(f"{header}\nAnn,item 1{',' * len(features)}\n")
    >>> score_requests("runs/first", "requests.csv", "scored.csv")["rows"]
    1

    Args:
      run_dir: run folder.
      table: CSV or TSV with a header, or Parquet.
      out: table to write, of the same kind.
      data: dataset folder; None for the run's own.
      columns: names of the table's columns.
      overwrite: replace ``out`` even if it is not a table of these columns and the scores.

    Returns:
      The number of ``rows``, ``unknown_users``, ``unknown_items``, ``unknown_history``,
      ``unknown_values`` and ``empty_histories``.

    Raises:
      UserError: if the run, the data or the table cannot be used, or ``out`` cannot be written.
        Errors in a row name file, line and column. No table is written then.
    """
    out, table = Path(out), Path(table)
    requests = tables.open_requests(table)
    inputs = (table, run_dir, data)
    tables.check_table(out, requests.names, overwrite=overwrite, inputs=inputs)
    columns = tables.found_columns(requests, columns)
    of_model = _state_of_model(Path(run_dir))
    trained = load_run(run_dir, data)
    dataset, config = trained.dataset, trained.run.config
    vocabularies = Vocabularies(dataset.schema, dataset.vocabulary, columns.separator)
    reader = RowReader(requests, columns, vocabularies, dataset)
    predict, longest = scorer(trained, in_use=True), (dataset.schema, config.train.max_history)
    of_ids = host_arrays({"tables": trained.feature_tables()} if dataset.schema.candidate else {})

    def answer(piece: tables.Piece) -> list[float]:
        examples, events = reader.examples(piece)
        examples = events.with_computed(examples, of_ids, *longest)
        of_piece = dataclasses.replace(dataset, splits={"test": examples}, **vars(events))
        loader = evaluation_loader(of_piece, "test", config.train)
        try:
            scores = score_batches(
                predict, loader, where=lambda row: requests.where(piece.places[row])
            )
        except NotFiniteError as error:  # parameters are finite, so a number of the table is not
            raise UserError(str(error)) from error
        return scores.tolist()

    def rows_of(piece: tables.Piece, scores: list[float]) -> tuple[Sequence[Any], np.ndarray]:
        return piece.columns, np.array(scores, np.float32)

    kind = "text" if requests.schema is None else "Parquet"
    why = f"{table} is {kind} and is written as {kind}; "
    size = BATCHES_PER_PIECE * config.train.batch_size
    written = (out, requests.names, requests.schema, why)
    about = of_model, state_of(table, dataset.path / "meta.json"), columns
    return _answer(reader, f"scoring {table}", size, answer, rows_of, about, *written)


def list_for_users(
    model: str | Path,
    table: str | Path,
    out: str | Path,
    data: str | Path | None = None,
    columns: tables.UserColumns = tables.USER_COLUMNS,
    *,
    n: int = 20,
    overwrite: bool = False,
    **filters: Any,
) -> dict[str, int]:
    r"""List the next items of the user in every row of a table, and write the lists.

    >>> from pathlib import Path
    >>> from dien_jax import Ranker
    >>> from dien_jax.inference import list_for_users
    >>> features = [feature.name for feature in Ranker("runs/first").schema.request]
    >>> header = ",".join(["user", *features])
    >>> _ = Path("users.csv").write_text(f"{header}\nAnn{',' * len(features)}\n")
    >>> list_for_users("runs/first", "users.csv", "lists.csv", n=3)["items"]
    3

    Args:
      model: run folder, or an exported file.
      table: CSV or TSV with a header, or Parquet; one row per list.
      out: table to write with the columns user, rank, item and score: Parquet if its name ends in
        ``.parquet``, else CSV or TSV. If both tables are Parquet, users keep their type.
      data: dataset folder; None for the run's own. An exported file has none, and then needs a
        column of histories.
      columns: names of the table's columns.
      n: length of the lists.
      overwrite: replace ``out`` even if it is not a table of lists.
      filters: further arguments of :meth:`dien_jax.Ranker.recommend`.

    Returns:
      The number of ``rows`` and listed ``items``, and of ``unknown_users``, ``unknown_history``,
      ``unknown_values`` and ``empty_histories``.

    Raises:
      UserError: see :func:`score_requests`; also for invalid filters.
    """
    out, table, model = Path(out), Path(table), Path(model)
    asked = tables.open_requests(table)
    inputs = (table, model, data)
    tables.check_table(out, LIST_COLUMNS, overwrite=overwrite, inputs=inputs)
    columns = tables.found_columns(asked, columns)
    is_run, of_model = model.is_dir(), _state_of_model(model)
    trained = load_run(model, data) if is_run else None
    loaded = load_model(trained or model, None, columns.separator)
    dataset = trained.dataset if trained else None if data is None else open_dataset(data)
    item_lists = ItemLists(loaded, BucketedPrograms(loaded))
    options = item_lists.options(n, **filters)
    if dataset is None and columns.history is None:
        raise UserError(
            f"{model} is an exported file, which has no events: give --data DATA, or {table} a "
            f"column 'history'"
        )
    reader = RowReader(asked, columns, loaded.vocabularies, dataset)
    rows_of_events = None  # set if the model has other rows
    if not is_run and reader.events is not None and dataset is not None:
        rows_of_events = loaded.vocabularies.item_rows(dataset.vocabulary("item"))
        if loaded.schema.event:
            problem = f"{model} reads features of events, whose values may have other rows in"
            raise UserError(f"{problem} {dataset.path}; list with the run folder")

    def answer(piece: tables.Piece) -> list[tuple[list[str], list[float]]]:
        examples, events = reader.examples(piece)
        pairs = zip(events.event_offsets[examples.sequence], examples.history_end, strict=True)
        histories = [np.asarray(events.event_item[start:end]) for start, end in pairs]
        if rows_of_events is not None:
            histories = [rows_of_events[history] for history in histories]
        requests = encoded_requests(loaded, examples, histories, events.events)
        lists = list(item_lists.of_requests(requests, histories, options))
        reader.counts["items"] += sum(len(listed.ids) for listed in lists)
        if reader.events is not None:
            reader.counts["unknown_history"] += sum(listed.unknown_history for listed in lists)
        return [(listed.ids, listed.scores.tolist()) for listed in lists]

    def rows_of(
        piece: tables.Piece, lists: list[tuple[list[str], list[float]]]
    ) -> tuple[Sequence[Any], np.ndarray]:
        users = reader.users(piece)
        if keeps_type:
            users = piece.columns[asked.names.index(columns.user)].to_pylist()
        rows = [
            (user, place, encodable(item))
            for user, (items, _) in zip(users, lists, strict=True)
            for place, item in enumerate(items, start=1)
        ]
        scores = chain.from_iterable(scores for _, scores in lists)
        return list(zip(*rows, strict=True)) or [()] * 3, np.fromiter(scores, np.float32)

    schema = None
    keeps_type = out.suffix == ".parquet" and asked.schema is not None
    if out.suffix == ".parquet":
        require("data", "writing Parquet")
        import pyarrow as pa

        user = asked.schema.field(columns.user).type if keeps_type else pa.string()
        types = (user, pa.int32(), pa.string())
        schema = pa.schema(list(zip(LIST_COLUMNS, types, strict=True)))
    written = (out, LIST_COLUMNS, schema, "without .parquet at its end it is written as text; ")
    of_data = [] if dataset is None else [dataset.path / "meta.json"]
    about = of_model, state_of(table, *of_data), columns, options
    work = f"listing items for {table}"
    return _answer(reader, work, USERS_PER_PIECE, answer, rows_of, about, *written)


def _state_of_model(model: Path) -> list[tuple[str, int, int]]:
    """Return the state of the files on which a model's answers depend.

    Call it before the model is loaded: a checkpoint may be replaced meanwhile, and answers of an
    earlier one must never count as those of a later one.
    """
    names = CONFIG_FILE, CALIBRATION_FILE, OFFSETS_FILE, WEIGHTS_FILE, CHECKPOINTS_FOLDER
    return state_of(*([model / name for name in names] if model.is_dir() else [model]))


def _answer(
    reader: RowReader,
    work: str,
    size: int,
    answer: Callable[[tables.Piece], Any],
    rows_of: Callable[[tables.Piece, Any], tuple[Sequence[Any], np.ndarray]],
    about: Any,
    out: Path,
    *form: Any,
) -> dict[str, int]:
    """Compute and write the columns and scores of all pieces of a table; return the counts."""
    table, counts = reader.table, reader.counts
    of_all = f" of {table.rows:,}" if table.rows else ""
    with (
        writing(out, "--out"),
        stage(work) as current,
        kept_answers(out, about) as answers,
        tables.writing_scores(out, *form) as write,
    ):
        for piece in table.pieces(size):
            if (known := answers.next()) is None:
                known = answer(piece), dict(counts)
                if reader.dataset is not None:
                    reader.dataset.check_files()
                answers.keep(known)
            found, so_far = known
            dict.update(counts, so_far)
            write(*rows_of(piece, found))
            current.note, current.share = f"{counts['rows']:,}{of_all} rows", table.share()
        if not counts["rows"]:
            raise UserError(f"{table.file} has no rows")
    for name, subject in SUBJECTS.items():
        if counts[name]:
            say(f"{counts[name]:,} {subject}")
    return dict(counts)

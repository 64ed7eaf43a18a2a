"""Options that all sources of logs share, and the parsing of feature columns."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from dien_jax.data.schema import GROUPS, TAKEN, Feature
from dien_jax.data.value_text import Use
from dien_jax.errors import UserError, suggestion
from dien_jax.preparation.memory import reading_limit
from dien_jax.utils.json_values import BelowOne, LargeCount, Positive, Share, convert_fields

# Options of ImplicitOptions
EXAMPLE_SETTINGS = ("max_examples", "negatives", "negative_distribution", "allow_own_negatives")
Distribution = Literal["popularity", "uniform"]
SplitPolicy = Literal["by-user", "last-event", "by-time"]
EngineName = Literal["duckdb", "spark"]
LOG_KINDS = ("categorical", "multivalued", "numeric")
"""Kinds of features that are read from a column of a log."""
OF_ROWS = {"request": "example", "event": "event"}
"""What a row of a dataset folder is, for the groups whose features are of rows of a log."""


@dataclass(frozen=True, kw_only=True)
class LogOptions:
    """Options of every log. Values that are out of range or conflict raise UserError."""

    out: Path
    """Dataset folder to create. It must not exist."""
    split: SplitPolicy
    """Held out for validation and test: whole users (by-user), each user's last two events or
    requests (last-event), or the latest rows (by-time). Histories never contain later events."""
    valid_share: BelowOne = 0.1
    """Share held out for validation: of the users (by-user) or of the rows (by-time)."""
    test_share: BelowOne = 0.1
    """Share held out for the test: of the users (by-user) or of the rows (by-time)."""
    valid_from: str | None = None
    """by-time: start of validation, as a time of the log or an ISO date. Replaces the shares and
    requires --test-from."""
    test_from: str | None = None
    """by-time: start of the test. Requires --valid-from."""
    train_from: str | None = None
    """by-time: start of the training examples. Earlier rows appear in histories, popularity, counts
    and similarities only."""
    min_count: Positive = 1
    """Ids and values with fewer occurrences in training share the unknown row. With --extend it
    applies to new ones, and ids are counted in all events before validation."""
    seed: LargeCount = 0
    """Random seed."""
    max_bad_share: Share = 0.01
    """Largest share of malformed lines that is tolerated. Malformed lines are skipped."""
    engine: EngineName = "duckdb"
    """Engine that reads and orders the log: duckdb in this process, or spark (extra spark) for logs
    larger than one machine. Both make equal folders."""
    spark_url: str | None = None
    """With --engine spark: address of Spark Connect, sc://HOST:PORT. Default: the session of the
    environment."""
    spark_folder: str | None = None
    """With --engine spark: folder for temporary tables, which Spark and this process can access: a
    path, or an address such as s3://BUCKET/FOLDER. Default: a folder next to --out."""
    memory: str = "4GB"
    """Memory limit of the process. To stay below it, tables spill to disk and the log is processed
    in smaller parts; a log that still does not fit is refused."""

    def __post_init__(self) -> None:
        convert_fields(self)
        if (shares := self.valid_share + self.test_share) >= 1:
            problem = f"must leave something to train on, but are {shares:g} together"
            raise UserError(f"--valid-share and --test-share {problem}")
        if self.split == "last-event" and (self.valid_share, self.test_share) != (0.1, 0.1):
            raise UserError("--valid-share and --test-share have no effect with --split last-event")
        if (self.valid_from is None) != (self.test_from is None):
            raise UserError("--valid-from and --test-from must be given together")
        for flag, time in (("--valid-from", self.valid_from), ("--train-from", self.train_from)):
            if time is not None and self.split != "by-time":
                raise UserError(f"{flag} needs --split by-time, got --split {self.split}")
        if self.engine != "spark" and (self.spark_url, self.spark_folder) != (None, None):
            raise UserError("--spark-url and --spark-folder need --engine spark")
        reading_limit(self.memory)


class LogColumn(NamedTuple):
    """A column to read from a log."""

    name: str  # name of the column in the log, and of the feature if it is one
    flag: str  # command-line flag that named it
    kind: Use = "categorical"  # decides how its values are read

    def where(self, file: Path) -> str:
        """Return the column and its file, for messages."""
        return f"{file}: column {self.name!r} ({self.flag})"

    @property
    def alias(self) -> str:
        """Name of a feature's column in the database, distinct from all other columns."""
        return f"feature {self.name}"


class LogForm(NamedTuple):
    """Columns to read from the files of a log, and the format of these files."""

    wanted: Mapping[str, LogColumn]  # by their name in the engine
    columns: Sequence[str] = ()  # names of all columns of CSV without a header
    separator: str = "|"  # joins the values of a Parquet list
    hint: str = ""  # end of the message about CSV that lacks a column
    found: set[str] | None = None  # readers add the names of all columns


class Features(NamedTuple):
    """Feature columns of a log."""

    item: tuple[LogColumn, ...] = ()
    user: tuple[LogColumn, ...] = ()
    request: tuple[LogColumn, ...] = ()
    event: tuple[LogColumn, ...] = ()
    separator: str = "|"  # separator between the values of a multi-valued cell
    max_values: int = 20  # maximum number of values in a multi-valued cell

    @property
    def groups(self) -> dict[str, tuple[LogColumn, ...]]:
        """The columns of each group of a schema that a log has."""
        return {group: getattr(self, group) for group in GROUPS if group in self._fields}

    @property
    def columns(self) -> tuple[LogColumn, ...]:
        return tuple(itertools.chain.from_iterable(self.groups.values()))

    @property
    def given(self) -> list[LogColumn]:
        """The columns whose values belong to a row of the log, not to its item or user."""
        of_rows = (group for group in self.groups if GROUPS[group].source == "given")
        return [column for group in of_rows for column in self.groups[group]]


def feature_columns(flag: str, texts: Iterable[str]) -> tuple[LogColumn, ...]:
    """Parse ``column`` or ``column:kind``; the default kind is categorical."""
    columns = []
    for text in texts:
        name, _, kind = text.rpartition(":") if ":" in text else (text, "", "categorical")
        if kind not in LOG_KINDS:
            got, kinds = f"{kind!r}{suggestion(kind, LOG_KINDS)}", ", ".join(LOG_KINDS)
            raise UserError(f"{flag} {text}: the kind must be one of {kinds}, got {got}")
        try:
            Feature(name, "numeric", mean=0.0, deviation=1.0)
        except ValueError as error:
            raise UserError(f"{flag} {text}: {error}; rename the column") from error
        columns.append(LogColumn(name, flag, cast(Use, kind)))
    return tuple(columns)


@dataclass(frozen=True, kw_only=True)
class ColumnOptions(LogOptions):
    """Options of a log in columns: the names of columns, and the features."""

    file: Path
    """CSV (with a header, or see --columns) or TSV, plain or gzip; or Parquet. Or a folder of such
    files, read in the order of their names."""
    user: str = "user"
    """Column of the user id."""
    item: str = "item"
    """Column of the item id."""
    timestamp: str = "timestamp"
    """Column of the time: whole seconds or milliseconds, or ISO dates (UTC without an offset)."""
    item_features: tuple[str, ...] = ()
    """Columns that describe the item: NAME, NAME:multivalued or NAME:numeric. An item keeps its
    earliest value in training."""
    user_features: tuple[str, ...] = ()
    """Columns that describe the user, in the form of --item-features."""
    request_features: tuple[str, ...] = ()
    """Columns that describe the request, such as its device, in the form of --item-features. All
    candidates of a request have the same value."""
    event_features: tuple[str, ...] = ()
    """Columns that describe an event of the history, such as the price paid, in the form of
    --item-features. Candidates have no value."""
    columns: tuple[str, ...] = ()
    """Names of all columns, for a CSV file without a header."""
    separator: str = "|"
    """Separator between the values of a multi-valued column."""
    max_values: Positive = 20
    """Maximum number of values in a cell of a multi-valued column; the first ones are kept."""
    extend: Path | None = None
    """Dataset folder to extend. Ids and values of its vocabularies keep their rows; new ones come
    after them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.separator:
            raise UserError("--separator must not be empty")
        self._check_columns()

    def features(self) -> Features:
        """Return the feature columns."""
        columns: dict[str, Any] = {
            group: feature_columns(f"--{group}-features", getattr(self, f"{group}_features"))
            for group in Features().groups
        }
        return Features(**columns, separator=self.separator, max_values=self.max_values)

    def _check_columns(self) -> None:
        """Refuse a column with two uses, such as a label as a feature, and names that are taken."""
        features, flags = self.features(), dict[str, str]()
        for column in self.log_columns().values():
            name = column.name.lower()  # the database ignores case, and so do some file systems
            if column not in features.columns:
                if name in flags:
                    other = f"must name another column than {flags[name]}"
                    raise UserError(f"{column.flag} {other}, got {column.name!r}")
                flags[name] = column.flag
        taken = {"item": "the item id", "user": "the user id"}
        of_group = [(group, column) for group, of in features.groups.items() for column in of]
        for group, column in of_group:
            name, problem = column.name.lower(), ""
            if name in taken or name in TAKEN.get(group, ()):
                by = taken.get(name) or f"another column of every {OF_ROWS[group]}"
                problem = f"that name is taken by {by}, ignoring case; rename the column"
            elif flags.get(name) == "--label":
                problem = "that column is the label, which a model must not see"
            if problem:
                raise UserError(f"{column.flag} {column.name}: {problem}")
            taken[name] = column.flag

    def log_columns(self) -> dict[str, LogColumn]:
        """Return all columns to read, by their name in the database."""
        columns = {name: LogColumn(getattr(self, name), f"--{name}") for name in ("user", "item")}
        columns["timestamp"] = LogColumn(self.timestamp, "--timestamp", "time")
        return columns | {column.alias: column for column in self.features().columns}


@dataclass(frozen=True, kw_only=True)
class ImplicitOptions(LogOptions):
    """Options of logs without negatives: choice of examples, and sampling of negatives."""

    split: SplitPolicy = "last-event"
    max_examples: Positive | None = None
    """Train only on the latest N events of each training user. By default every event from the
    second on is an example. Users held out by --split by-user have one example, the last event."""
    negatives: Positive = 1
    """Number of negatives sampled for each positive."""
    negative_distribution: Distribution = "popularity"
    """Sample negatives in proportion to their number of events up to the time of the positive, or
    uniformly among the items that had an event by then."""
    allow_own_negatives: bool = False
    """Allow negatives that the same user chose before the positive."""

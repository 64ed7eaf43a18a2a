"""The flags that all sources of logs share, and how a feature is named on the command line."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dien_jax.data.metadata import EXAMPLE_COLUMNS, PROBABILITY
from dien_jax.data.schema import Feature
from dien_jax.errors import UserError, suggestion

Distribution = Literal["popularity", "uniform"]


Kind = Literal["categorical", "multivalued", "numeric"]
KINDS: tuple[Kind, ...] = ("categorical", "multivalued", "numeric")
SplitPolicy = Literal["by-user", "last-event", "by-time"]


@dataclass(frozen=True, kw_only=True)
class LogOptions:
    """What every log is prepared with, whatever its format.

    Raises:
      UserError: for a setting that makes no sense, or none beside another one.
    """

    out: Path
    """The dataset folder to make. It must not exist yet."""
    split: SplitPolicy
    """Which examples train, validate and test. No history ever holds a later event."""
    valid_share: float = 0.1
    """Share for validation, of the users (by-user) or of the rows (by-time)."""
    test_share: float = 0.1
    """Share for the test, of the same."""
    valid_from: str | None = None
    """by-time: when validation starts, as a time of the log or an ISO date; instead of shares."""
    test_from: str | None = None
    """by-time: when the test starts."""
    train_from: str | None = None
    """by-time: when training examples start; what is earlier only appears in histories, and in
    the popularity of items."""
    min_count: int = 1
    """Ids and values that occur less often than this in training share the unknown row."""
    seed: int = 0
    """What all random choices derive from."""
    max_bad_share: float = 0.01
    """Malformed lines are left out; a larger share of them is an error."""
    memory_limit: str = "1GB"
    """Memory of the database, which goes to disk beyond it; arrays come on top of it."""

    def __post_init__(self) -> None:
        check_shares(self.valid_share, self.test_share)
        if self.split == "last-event" and (self.valid_share, self.test_share) != (0.1, 0.1):
            raise UserError("--valid-share and --test-share mean nothing with --split last-event")
        if (self.valid_from is None) != (self.test_from is None):
            raise UserError("--valid-from and --test-from must be given together")
        if self.valid_from is not None and self.split != "by-time":
            raise UserError(f"--valid-from needs --split by-time, got --split {self.split}")
        if self.train_from is not None and self.split != "by-time":
            raise UserError(f"--train-from needs --split by-time, got --split {self.split}")
        for flag, value, least in (("--min-count", self.min_count, 1), ("--seed", self.seed, 0)):
            if value < least:
                raise UserError(f"{flag} must be at least {least}, got {value}")
        if not 0 <= self.max_bad_share <= 1:
            raise UserError(f"--max-bad-share must be from 0 to 1, got {self.max_bad_share}")

    def describe(self) -> str:
        """The split in words, with the numbers that matter to it."""
        if self.split == "last-event":
            return "last-event split"
        begins = "" if self.train_from is None else f", training from {self.train_from}"
        if self.valid_from is not None:
            held_out = f"validation from {self.valid_from}, test from {self.test_from}"
            return f"by-time split{begins}, {held_out}"
        shares = f"{self.valid_share:.0%} validation and {self.test_share:.0%} test"
        return f"{self.split} split{begins}, {shares}"

    def agreed(self) -> dict[str, Any]:
        """Settings, by field, that a folder and the one that it extends must have alike."""
        return {"split": self.split, "min_count": self.min_count}


class FeatureColumn(NamedTuple):
    """A column of the log that becomes a feature.

    Attributes:
      name: of the column, and of the feature.
      kind: how its values are read.
      flag: the command-line flag that named it.
    """

    name: str
    kind: Kind
    flag: str

    @property
    def alias(self) -> str:
        """The column's name in the database, apart from all other columns."""
        return f"feature {self.name}"


def feature_columns(flag: str, texts: tuple[str, ...]) -> list[FeatureColumn]:
    """Reads ``column`` or ``column:kind``; without a kind it is categorical.

    Raises:
      UserError: for an unknown kind, or a column whose name no feature can have.
    """
    columns = []
    for text in texts:
        name, colon, kind = text.rpartition(":")
        if not colon:
            name, kind = text, "categorical"
        if kind not in KINDS:
            raise UserError(
                f"{flag} {text}: the kind must be one of {', '.join(KINDS)}, got {kind!r}"
                f"{suggestion(kind, KINDS)}"
            )
        try:
            Feature(name, "numeric", mean=0.0, deviation=1.0)
        except ValueError as error:
            raise UserError(f"{flag} {text}: {error}; rename the column") from error
        columns.append(FeatureColumn(name, kind, flag))
    return columns


def check_names(columns: list[FeatureColumn]) -> None:
    """Refuses features that would share a name with another, or with what every dataset has.

    Raises:
      UserError: naming the flag and the feature.
    """
    taken = {"item": "the item id", "user": "the user id"}
    for column in columns:
        if column.flag == "--context-features" and column.name in {*EXAMPLE_COLUMNS, PROBABILITY}:
            taken.setdefault(column.name, "a column of every example")
        if column.name in taken:
            raise UserError(
                f"{column.flag} {column.name}: that name is taken by {taken[column.name]}; "
                f"rename the column"
            )
        taken[column.name] = column.flag


class LogColumn(NamedTuple):
    """A column that is wanted of a log.

    Attributes:
      name: what the log calls it.
      flag: the command-line flag that named it.
    """

    name: str
    flag: str


@dataclass(frozen=True, kw_only=True)
class ColumnOptions(LogOptions):
    """A log in columns, and what they are called."""

    file: Path
    """CSV (with a header, or see --columns), TSV or Parquet; may be compressed with gzip."""
    user: str = "user"
    """Column of the user id."""
    item: str = "item"
    """Column of the item id."""
    timestamp: str = "timestamp"
    """Column of the time: whole seconds or milliseconds, or ISO dates (UTC unless they differ)."""
    item_features: tuple[str, ...] = ()
    """Columns NAME, NAME:multivalued or NAME:numeric; an item keeps its first value by time."""
    user_features: tuple[str, ...] = ()
    """Columns that describe the user, written alike."""
    columns: tuple[str, ...] = ()
    """The names of all columns, for a CSV file without a header."""
    separator: str = "|"
    """What stands between the values of a multi-valued column."""
    max_values: int = 20
    """Values kept of a multi-valued column, the first ones."""
    extend: Path | None = None
    """Dataset folder whose vocabularies go on: its ids keep their rows, new ones come after."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.separator:
            raise UserError("--separator must not be empty")
        if self.max_values < 1:
            raise UserError(f"--max-values must be at least 1, got {self.max_values}")
        self.features()

    def features(self) -> dict[str, list[FeatureColumn]]:
        """The ``item``, ``user`` and ``context`` feature columns.

        Raises:
          UserError: for an unknown kind, or a name that no feature can have or that is taken.
        """
        features = {
            "item": feature_columns("--item-features", self.item_features),
            "user": feature_columns("--user-features", self.user_features),
            "context": self.context_columns(),
        }
        check_names([*features["item"], *features["user"], *features["context"]])
        return features

    def agreed(self) -> dict[str, Any]:
        """Those of every log, and how its columns are read."""
        names = ("user", "item", "timestamp", "separator", "max_values")
        return super().agreed() | {name: getattr(self, name) for name in names}

    def context_columns(self) -> list[FeatureColumn]:
        """The context feature columns: none, unless a source has flags for them."""
        return []

    def wanted(self) -> dict[str, LogColumn]:
        """All columns that are read, by their name in the database."""
        columns = {
            "user": LogColumn(self.user, "--user"),
            "item": LogColumn(self.item, "--item"),
            "timestamp": LogColumn(self.timestamp, "--timestamp"),
        }
        for group in self.features().values():
            columns |= {column.alias: LogColumn(column.name, column.flag) for column in group}
        return columns


@dataclass(frozen=True, kw_only=True)
class ImplicitOptions(LogOptions):
    """What logs without negatives have besides: how negatives are drawn."""

    negatives: int = 1
    """Negatives drawn for each positive."""
    negative_distribution: Distribution = "popularity"
    """Draw negatives in proportion to their training events, or all items alike."""
    allow_own_negatives: bool = False
    """Whether items that the same user chose, earlier or later, may be drawn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.negatives < 1:
            raise UserError(f"--negatives must be at least 1, got {self.negatives}")

    def describe(self) -> str:
        """Splits and negatives in words."""
        plural = "s" * (self.negatives > 1)
        how = "by popularity" if self.negative_distribution == "popularity" else "uniformly drawn"
        return f"{super().describe()}, {self.negatives} negative{plural} a positive, {how}"

    def agreed(self) -> dict[str, Any]:
        """Those of every log, and how negatives are drawn."""
        names = ("negatives", "negative_distribution", "allow_own_negatives")
        return super().agreed() | {name: getattr(self, name) for name in names}


def check_shares(valid_share: float, test_share: float) -> None:
    """Refuse shares that leave nothing to train on.

    Raises:
      UserError: when a share is negative or not a number, or both together reach 1.
    """
    for flag, share in (("--valid-share", valid_share), ("--test-share", test_share)):
        if not 0 <= share < 1:
            raise UserError(f"{flag} must be at least 0 and below 1, got {share}")
    if valid_share + test_share >= 1:
        raise UserError(
            f"--valid-share and --test-share must leave something to train on, "
            f"but {valid_share} + {test_share} is not below 1"
        )

"""Columns of a batch: whose they are, of which kind, and where their values come from.

A feature is declared once, in a :class:`Schema`. ``GROUPS`` says whose a feature may be, and
``ATTRIBUTES`` of which kind. All other modules go over these tables; :mod:`dien_jax.data.kinds` has
what differs between kinds. docs/architecture.md follows a column from a log to the model.

Dimensions: B examples, T padded steps, N rows of a table, K values of a padded multi-valued
feature, L numbers of a vector.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from dien_jax.errors import UserError

Array = jax.Array | np.ndarray  # on the device, or on the host
UNKNOWN = 0  # row, in every vocabulary, of values that are unseen or too rare in training
Kind = Literal["categorical", "multivalued", "numeric", "vector"]
ATTRIBUTES: dict[Kind, set[str]] = {
    "categorical": {"size"},
    "multivalued": {"size", "max_values"},
    "numeric": {"mean", "deviation"},
    "vector": {"length"},
}
"""Attributes of a :class:`Feature` of each kind; the others are None."""


class Group(NamedTuple):
    """Features of the same owner.

    Attributes:
      owner: whose they are, in words.
      folder: folder of a dataset that has their values, for each id or each event; "" if each
        example has its own.
      axes: leading dimensions of their values in a batch.
      source: whether the values are gathered by ``id`` from a table, ``given`` in a log and in
        requests, or ``computed`` as of the request by a function of ``COMPUTED``.
      parameters: prefix of the names of their embeddings and weights.
    """

    owner: str
    folder: str
    axes: Literal["B", "BT"]
    source: Literal["id", "given", "computed"]
    parameters: str


GROUPS: dict[str, Group] = {
    "item": Group("an item", "items", "B", "id", "item"),
    "user": Group("a user", "users", "B", "id", "user"),
    # Parameters are named as in runs that were trained when a request was called context.
    "request": Group("a request, for all its candidates", "", "B", "given", "context"),
    "event": Group("an event of the history", "events", "BT", "given", "event"),
    "candidate": Group("a candidate as of the request", "", "B", "computed", "candidate"),
}
"""Groups of features, in the order of a :class:`Schema`."""
EXAMPLE_COLUMNS: dict[str, type[np.generic]] = {
    "sequence": np.int32,
    "history_end": np.int64,
    "user": np.int32,
    "group": np.int32,
    "item": np.int32,
    "label": np.int8,
}
"""Columns of the examples of every split, without features."""
TAKEN = {
    "request": (*EXAMPLE_COLUMNS,),
    "event": ("item", "timestamp", "offsets"),
    "candidate": (*EXAMPLE_COLUMNS,),
}
"""Names that features of a group cannot have: other columns in the same folder."""


class Column(NamedTuple):
    """Values of one feature for some rows.

    Attributes:
      values: int32 (categorical, multi-valued) or float32 (numeric): ``[rows]``, or the values of
        all rows in sequence when multi-valued; float32 ``[rows, L]`` for vectors.
      offsets: int64 ``[rows + 1]`` when multi-valued: row k has ``values[offsets[k] :
        offsets[k + 1]]``; None otherwise.
    """

    values: np.ndarray
    offsets: np.ndarray | None

    def take(self, rows: np.ndarray) -> "Column":
        """Return some rows, integers ``[R]``; row -1 is missing: value 0, or no values."""
        missing = rows < 0
        if self.offsets is None:
            values = self.values[rows]
            values[missing] = 0
            return Column(values, None)
        first = np.where(missing, 0, self.offsets[rows])
        count = np.where(missing, 0, self.offsets[rows + 1] - self.offsets[rows])
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(count)])
        places = np.arange(offsets[-1]) + np.repeat(first - offsets[:-1], count)
        return Column(self.values[places], offsets)


@dataclass(frozen=True)
class Feature:
    """One column of a group of a schema.

    >>> from dien_jax.data import Feature
    >>> Feature("category", "categorical", size=20).kind
    'categorical'

    Attributes:
      name: letters, digits, ``_`` and ``-``; also the folder and vocabulary name.
      kind: ``categorical`` (one id), ``multivalued`` (a set of ids, mean-pooled), ``numeric`` (a
        float, standardised with the training rows' mean and deviation) or ``vector`` (floats, used
        as they are).
      size: rows of the vocabulary, the unknown row 0 included; None for numbers and vectors.
      max_values: maximum number of values of a multi-valued feature; None otherwise.
      mean: mean of a numeric feature over the training rows; None otherwise.
      deviation: its standard deviation over the training rows, above 0; None otherwise.
      length: numbers of a vector; None otherwise.

    Raises:
      ValueError: the name, the kind or the combination of attributes is not possible.
    """

    name: str
    kind: Kind
    size: int | None = None
    max_values: int | None = None
    mean: float | None = None
    deviation: float | None = None
    length: int | None = None

    def __post_init__(self) -> None:
        where = f"feature {self.name!r}"
        if not self.name or not all(c.isalnum() or c in "_-" for c in self.name):
            allowed = "letters, digits, '_' and '-'"
            raise ValueError(f"feature name must be {allowed}, got {self.name!r}")
        if self.kind not in ATTRIBUTES:
            kinds = sorted(ATTRIBUTES)
            raise ValueError(f"{where}: kind must be one of {kinds}, got {self.kind!r}")
        attributes = [field.name for field in fields(self)][2:]
        given = {name: getattr(self, name) for name in attributes}
        if {name for name in given if given[name] is not None} != ATTRIBUTES[self.kind]:
            shown = ", ".join(f"{name}={value}" for name, value in given.items())
            raise ValueError(f"{where}: a {self.kind} feature does not have {shown}")
        for name in ("size", "max_values", "length"):
            if (value := given[name]) is not None and not 1 <= value < 2**31:  # ids are int32
                raise ValueError(f"{where}: {name} must be at least 1, below 2^31, got {value}")
        for name in ("mean", "deviation"):
            if (number := given[name]) is not None and not math.isfinite(number):
                raise ValueError(f"{where}: {name} must be a finite number, got {number}")
        if self.deviation is not None and self.deviation <= 0:
            raise ValueError(f"{where}: deviation must be above 0, got {self.deviation}")


@dataclass(frozen=True)
class Schema:
    """Features of a dataset by group, see ``GROUPS``; the ids themselves first.

    >>> from dien_jax.data import Feature, Schema
    >>> item = Feature("item", "categorical", size=400)
    >>> user = Feature("user", "categorical", size=80)
    >>> Schema(item=(item,), user=(user,)).num_items
    400

    ``item[0]`` is the item id and is named ``item``, ``user[0]`` the user id and is named
    ``user``; both are categorical, and row k of every item (user) table describes id k. Names are
    unique over all groups. Features of a candidate are those of ``COMPUTED``.

    Raises:
      ValueError: a name is taken, or a feature of a candidate is not computed.
    """

    item: tuple[Feature, ...]
    user: tuple[Feature, ...]
    request: tuple[Feature, ...] = ()
    event: tuple[Feature, ...] = ()
    candidate: tuple[Feature, ...] = ()

    def __post_init__(self) -> None:
        for group in ("item", "user"):
            if [(f.name, f.kind) for f in getattr(self, group)[:1]] != [(group, "categorical")]:
                raise ValueError(f"the first {group} feature must be the categorical {group!r}")
        times = Counter(feature.name for feature in self.features)
        if twice := [name for name in times if times[name] > 1]:
            groups = " and ".join(g for g, of in self.groups() for f in of if f.name == twice[0])
            raise ValueError(f"two features are named {twice[0]!r} ({groups}); names must differ")
        for group, features in self.groups():
            if taken := [f.name for f in features if f.name in TAKEN.get(group, ())]:
                a = "an" if group == "event" else "a"
                raise ValueError(f"{a} {group} feature cannot be named {taken[0]!r}")
        for feature in self.candidate:
            if feature.name not in COMPUTED:
                names = ", ".join(COMPUTED) or "none"
                raise ValueError(
                    f"candidate feature {feature.name!r} is computed by no function (computed "
                    f"features: {names}); what is known of past events alone is an event feature"
                )

    def groups(self) -> Iterator[tuple[str, tuple[Feature, ...]]]:
        """Yield the features of every group."""
        for group in GROUPS:
            yield group, getattr(self, group)

    @property
    def features(self) -> tuple[Feature, ...]:
        """All features, in the order of ``GROUPS``."""
        return tuple(feature for _, features in self.groups() for feature in features)

    @property
    def given(self) -> tuple[Feature, ...]:
        """The features whose values a request gives: those of its events, and its own."""
        return tuple(
            f for group, of in self.groups() if GROUPS[group].source == "given" for f in of
        )

    def feature(self, name: str) -> Feature:
        """Return the feature of a name; ``KeyError`` if there is none."""
        return {feature.name: feature for feature in self.features}[name]

    def computed(
        self, tables: Mapping[str, np.ndarray], history: np.ndarray, items: np.ndarray
    ) -> dict[str, Column]:
        """Return the computed features of candidates, see ``Compute``."""
        return {f.name: COMPUTED[f.name](tables, history, items) for f in self.candidate}

    @property
    def num_items(self) -> int:
        """Number of rows of the item table, the unknown item included."""
        assert self.item[0].size is not None
        return self.item[0].size

    @property
    def num_users(self) -> int:
        """Number of rows of the user table, the unknown user included."""
        assert self.user[0].size is not None
        return self.user[0].size

    def require_equal(
        self, other: "Schema", problem: str, *, but: tuple[str, ...] = (), remedy: str = ""
    ) -> None:
        """Refuse another schema whose features differ, in any attribute ``but`` some.

        The ``UserError`` begins with the ``problem`` and ends with the ``remedy``.
        """
        for (group, ours), (_, theirs) in zip(self.groups(), other.groups(), strict=True):
            if (expected := listed(ours)) != (found := listed(theirs)):
                difference = f"expected the {group} features {expected}, found {found}"
                raise UserError(f"{problem} {difference}")
            for mine, its in zip(ours, theirs, strict=True):
                names = sorted(ATTRIBUTES[mine.kind].difference(but))
                was, now = ([f"{n} {getattr(f, n)}" for n in names] for f in (mine, its))
                if was != now:
                    change = f"had {', '.join(was)} in training, found {', '.join(now)}"
                    raise UserError(f"{problem} {group} feature {mine.name!r} {change}{remedy}")


def listed(features: Any) -> str:
    """Return names and kinds of features as text.

    >>> listed([Feature("price", "numeric", mean=0.0, deviation=1.0)]), listed([])
    ('price (numeric)', 'none')
    """
    return ", ".join(f"{feature.name} ({feature.kind})" for feature in features) or "none"


class MultiValued(NamedTuple):
    """Values of a multi-valued feature, padded to the feature's ``max_values``.

    Attributes:
      values: int32 ``[..., K]``; entries at or past ``count`` are ignored.
      count: int32 ``[...]``, number of real values among the K; 0 pools to a zero vector.
    """

    values: Array
    count: Array  # type: ignore[assignment]  # hides tuple.count, which is never called


FeatureValues = Array | MultiValued
"""int32 ``[...]`` (categorical), float32 ``[...]`` (numeric), float32 ``[..., L]`` (vector) or
:class:`MultiValued`."""
Compute = Callable[[Mapping[str, np.ndarray], np.ndarray, np.ndarray], Column]
"""A function ``(tables, history [n], items [N])`` of rows, that returns the values of a feature for
N candidates of one history. ``tables`` are what the model reads by id, by names such as
``tables/item/category``."""
COMPUTED: dict[str, Compute] = {}
"""Functions that compute the features of candidates as of the request, by name."""

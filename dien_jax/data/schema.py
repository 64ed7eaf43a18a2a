"""Features of items, users and requests, and the arrays of their values.

Dimensions: B examples, N rows of a table, K values of a padded multi-valued feature.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import jax
import numpy as np

Array = jax.Array | np.ndarray  # on the device, or on the host
UNKNOWN = 0  # row, in every vocabulary, of values that are unseen or too rare in training
Kind = Literal["categorical", "multivalued", "numeric"]
KINDS: tuple[Kind, ...] = get_args(Kind)
EXAMPLE_COLUMNS: dict[str, type[np.generic]] = {
    "sequence": np.int32,
    "history_end": np.int64,
    "user": np.int32,
    "group": np.int32,
    "item": np.int32,
    "label": np.int8,
}
"""Columns of the examples of every split, without the context features."""


@dataclass(frozen=True)
class Feature:
    """One column of the item, user or context schema.

    >>> from dien_jax.data import Feature
    >>> Feature("category", "categorical", size=20).kind
    'categorical'

    Attributes:
      name: letters, digits, ``_`` and ``-``; also the folder and vocabulary name.
      kind: ``categorical`` (one id), ``multivalued`` (a set of ids, mean-pooled) or ``numeric``
        (a float, standardised with the training rows' mean and deviation).
      size: rows of the vocabulary, the unknown row 0 included; None for numeric features.
      max_values: maximum number of values of a multi-valued feature; None otherwise.
      mean: mean of a numeric feature over the training rows; None otherwise.
      deviation: its standard deviation over the training rows, above 0; None otherwise.

    Raises:
      ValueError: the name, the kind or the combination of attributes is not possible.
    """

    name: str
    kind: Kind
    size: int | None = None
    max_values: int | None = None
    mean: float | None = None
    deviation: float | None = None

    def __post_init__(self) -> None:
        where = f"feature {self.name!r}"
        if not self.name or not all(c.isalnum() or c in "_-" for c in self.name):
            allowed = "letters, digits, '_' and '-'"
            raise ValueError(f"feature name must be {allowed}, got {self.name!r}")
        expected = {
            "categorical": {"size"},
            "multivalued": {"size", "max_values"},
            "numeric": {"mean", "deviation"},
        }
        if self.kind not in expected:
            raise ValueError(f"{where}: kind must be one of {sorted(expected)}, got {self.kind!r}")
        given = {name: value for name, value in vars(self).items() if name not in ("name", "kind")}
        if {name for name in given if given[name] is not None} != expected[self.kind]:
            shown = ", ".join(f"{name}={value}" for name, value in given.items())
            raise ValueError(f"{where}: a {self.kind} feature does not have {shown}")
        for name, value in (("size", self.size), ("max_values", self.max_values)):
            if value is not None and not 1 <= value < 2**31:  # ids are int32
                raise ValueError(f"{where}: {name} must be at least 1, below 2^31, got {value}")
        for name, number in (("mean", self.mean), ("deviation", self.deviation)):
            if number is not None and not math.isfinite(number):
                raise ValueError(f"{where}: {name} must be a finite number, got {number}")
        if self.deviation is not None and self.deviation <= 0:
            raise ValueError(f"{where}: deviation must be above 0, got {self.deviation}")


@dataclass(frozen=True)
class Schema:
    """Features of a dataset, the ids themselves first.

    >>> from dien_jax.data import Feature, Schema
    >>> item = Feature("item", "categorical", size=400)
    >>> user = Feature("user", "categorical", size=80)
    >>> Schema(item=(item,), user=(user,)).num_items
    400

    ``item[0]`` is the item id and is named ``item``, ``user[0]`` the user id and is named
    ``user``; both are categorical, and row k of every item (user) table describes id k. Feature
    names are unique, and context features cannot have the names of ``EXAMPLE_COLUMNS``.
    """

    item: tuple[Feature, ...]
    user: tuple[Feature, ...]
    context: tuple[Feature, ...] = ()

    def __post_init__(self) -> None:
        for group, features in (("item", self.item), ("user", self.user)):
            if [(f.name, f.kind) for f in features[:1]] != [(group, "categorical")]:
                raise ValueError(f"the first {group} feature must be the categorical {group!r}")
        names = [feature.name for feature in self.features]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two features are named {twice[0]!r}; names must differ")
        if taken := [feature.name for feature in self.context if feature.name in EXAMPLE_COLUMNS]:
            raise ValueError(f"a context feature cannot be named {taken[0]!r}")

    @property
    def features(self) -> tuple[Feature, ...]:
        """All features: of items, users and requests."""
        return (*self.item, *self.user, *self.context)

    def feature(self, name: str) -> Feature:
        """Return the feature of a name; ``KeyError`` if there is none."""
        return {feature.name: feature for feature in self.features}[name]

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


class MultiValued(NamedTuple):
    """Values of a multi-valued feature, padded to the feature's ``max_values``.

    Attributes:
      values: int32 ``[..., K]``; entries at or past ``count`` are ignored.
      count: int32 ``[...]``, number of real values among the K; 0 pools to a zero vector.
    """

    values: Array
    count: Array  # type: ignore[assignment]  # hides tuple.count, which is never called


FeatureValues = Array | MultiValued
"""int32 ``[...]`` (categorical), float32 ``[...]`` (numeric) or :class:`MultiValued`."""

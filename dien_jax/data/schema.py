"""Which features items, users and requests have, and how their values look as arrays.

Nothing here knows about files or about Flax: the dataset folder stores these values, the batches
carry them and the embedding layers read them.

Dimensions: B examples, N rows of a table, K values that a multi-valued feature keeps.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import numpy as np

Array = jax.Array | np.ndarray
"""A host array before it travels to the device, a device array after."""

UNKNOWN = 0
"""Row of every vocabulary that stands for a value unseen, or too rare, in training."""


@dataclass(frozen=True)
class Feature:
    """One column of the item, user or context schema.

    Attributes:
      name: letters, digits, ``_`` and ``-``; also the folder and vocabulary name.
      kind: ``categorical`` (one id), ``multivalued`` (a set of ids, mean-pooled) or ``numeric``
        (a float, standardised with the training rows' mean and deviation).
      size: rows of the vocabulary, the unknown row 0 included; None for numeric features.
      max_values: the number of values kept of a multi-valued feature; None otherwise.
      mean: mean of the training rows of a numeric feature; None otherwise.
      deviation: their standard deviation, never 0; None otherwise.
    """

    name: str
    kind: Literal["categorical", "multivalued", "numeric"]
    size: int | None = None
    max_values: int | None = None
    mean: float | None = None
    deviation: float | None = None

    def __post_init__(self) -> None:
        if not self.name or not all(c.isalnum() or c in "_-" for c in self.name):
            raise ValueError(
                f"feature name must be letters, digits, '_' and '-', got {self.name!r}"
            )
        expected = {
            "categorical": (True, False, False),
            "multivalued": (True, True, False),
            "numeric": (False, False, True),
        }
        if self.kind not in expected:
            raise ValueError(
                f"feature {self.name!r}: kind must be one of {sorted(expected)}, got {self.kind!r}"
            )
        found = (self.size is not None, self.max_values is not None, self.mean is not None)
        if found != expected[self.kind] or (self.mean is None) != (self.deviation is None):
            raise ValueError(
                f"feature {self.name!r}: a {self.kind} feature does not have size={self.size}, "
                f"max_values={self.max_values}, mean={self.mean}, deviation={self.deviation}"
            )
        for what, value in (("size", self.size), ("max_values", self.max_values)):
            if value is not None and value < 1:
                raise ValueError(f"feature {self.name!r}: {what} must be at least 1, got {value}")


@dataclass(frozen=True)
class Schema:
    """The features of a dataset, the ids themselves first.

    ``item[0]`` is the item id and is named ``item``, ``user[0]`` the user id and is named
    ``user``; both are categorical, and row k of every item (user) table describes id k.
    """

    item: tuple[Feature, ...]
    user: tuple[Feature, ...]
    context: tuple[Feature, ...] = ()

    def __post_init__(self) -> None:
        for group, features in (("item", self.item), ("user", self.user)):
            if not features or (features[0].name, features[0].kind) != (group, "categorical"):
                raise ValueError(f"the first {group} feature must be the categorical {group!r}")
        for group, features in (
            ("item", self.item),
            ("user", self.user),
            ("context", self.context),
        ):
            names = [feature.name for feature in features]
            if len(set(names)) != len(names):
                raise ValueError(f"{group} features must have different names, got {names}")

    @property
    def num_items(self) -> int:
        """Rows of the item table, the unknown item included."""
        assert self.item[0].size is not None
        return self.item[0].size

    @property
    def num_users(self) -> int:
        """Rows of the user table, the unknown user included."""
        assert self.user[0].size is not None
        return self.user[0].size


class MultiValued(NamedTuple):
    """Values of a multi-valued feature, padded to the feature's ``max_values``.

    Attributes:
      values: int32 ``[..., K]``; entries at or past ``count`` are ignored.
      count: int32 ``[...]``, how many of the K are real; 0 pools to a zero vector.
    """

    values: Array
    count: Array  # type: ignore[assignment]  # hides tuple.count, which nobody calls


FeatureValues = Array | MultiValued
"""int32 ``[...]`` (categorical), float32 ``[...]`` (numeric) or :class:`MultiValued`."""


class FeatureTables(NamedTuple):
    """What is known of every item and user, kept on the device and gathered there by id.

    Attributes:
      item: for each item feature after the id, its values over all N items.
      user: for each user feature after the id, its values over all N users.
    """

    item: dict[str, FeatureValues]
    user: dict[str, FeatureValues]

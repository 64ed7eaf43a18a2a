"""Requests: as users send them, as rows, and grouped into those that can share a call.

A call for one user leaves most of a device idle. Requests of the same padded sizes therefore share
a call, in groups of as many users U as programs are compiled for, never padded with dummy users.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np

from dien_jax.data.schema import FeatureValues
from dien_jax.steps.rank import Interests

USER_BUCKETS = (1, 2, 4, 8)
"""Numbers of users that programs are compiled for, in rising order from 1."""
MAX_ROWS = 1024
"""Maximum number of candidates of all users of a call; with more, sharing saves nothing."""

Member = TypeVar("Member")


class RankRequest(NamedTuple):
    """The arguments of :meth:`dien_jax.Ranker.rank`, described there, for one of several users.

    >>> from dien_jax import RankRequest
    >>> RankRequest(history=["pear"], candidates=["fig", "plum"], user="Ann").candidates
    ['fig', 'plum']
    """

    history: Sequence[str | int] | None
    candidates: Sequence[str | int]
    user: str | int | None = None
    context: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class History:
    """A history: rows of its kept events, and its interests once they are computed."""

    rows: np.ndarray
    interests: Interests | None = None


@dataclass
class EncodedRequest:
    """A request as rows: ``user`` is int32 ``[1]``, ``context`` has one row."""

    raw: RankRequest
    history: History
    candidates: np.ndarray
    user: np.ndarray
    context: dict[str, FeatureValues]
    unknown_context: int


def user_counts(candidates: int, at_most: int = USER_BUCKETS[-1]) -> list[int]:
    """Return the compiled numbers of users for requests of so many candidates each."""
    limit = max(min(at_most, MAX_ROWS // max(candidates, 1)), 1)
    return [count for count in USER_BUCKETS if count <= limit]


def grouped(
    members: Iterable[Member],
    shape: Callable[[Member], Hashable],
    sizes: Callable[[Member], Sequence[int]],
) -> Iterator[list[Member]]:
    """Yield groups of members of the same shape, in order, each of one of the allowed sizes."""
    by_shape: dict[Hashable, list[Member]] = {}
    for member in members:
        by_shape.setdefault(shape(member), []).append(member)
    for alike in by_shape.values():
        allowed = sizes(alike[0])
        while alike:
            size = max(size for size in allowed if size <= len(alike))
            yield alike[:size]
            alike = alike[size:]

"""Several users ranked for in one call of a program, each as if alone.

A program for one user leaves most of a device idle, and much of a processor's time goes into
calling it. What is equally long and wide is put together, in groups of as many users as programs
are compiled for: no group is padded with users who are not there.

Dimensions: U users, T steps, N candidates.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

USER_BUCKETS = (1, 2, 4, 8)
"""Numbers of users that programs are compiled for, rising from 1."""
MOST_ROWS = 1024
"""Candidates of all users of a call: with more of them a call is busy enough already."""

Member = TypeVar("Member")


class RankRequest(NamedTuple):
    """What :meth:`dien_jax.inference.ranker.Ranker.rank` takes, for one user of many."""

    history: Sequence[str | int] | None
    candidates: Sequence[str | int]
    user: str | int | None = None
    context: Mapping[str, Any] | None = None


def user_counts(candidates: int, most: int = USER_BUCKETS[-1]) -> list[int]:
    """How many users with so many candidates each a program is compiled for, ``most`` at most."""
    allowed = max(min(most, MOST_ROWS // max(candidates, 1)), 1)
    return [count for count in USER_BUCKETS if count <= allowed]


def together(
    members: Iterable[Member],
    shape: Callable[[Member], Hashable],
    counts: Callable[[Member], Sequence[int]],
) -> Iterator[list[Member]]:
    """Members in groups of one shape, each of a size that is compiled.

    Args:
      members: in any order, which is kept within a shape.
      shape: what all members of a group have in common.
      counts: sizes of groups for a shape, rising from 1.
    """
    by_shape: dict[Hashable, list[Member]] = {}
    for member in members:
        by_shape.setdefault(shape(member), []).append(member)
    for alike in by_shape.values():
        sizes = counts(alike[0])
        while alike:
            size = max(size for size in sizes if size <= len(alike))
            yield alike[:size]
            alike = alike[size:]


def stacked(trees: Sequence[Any]) -> Any:
    """Host arrays of several users, one more dimension in front."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)

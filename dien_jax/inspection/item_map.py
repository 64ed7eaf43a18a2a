"""The items as a model knows them, in two dimensions: principal components of their embeddings."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dien_jax.errors import UserError
from dien_jax.inspection.examples import Names
from dien_jax.runs.trained import TrainedModel
from dien_jax.utils.plots import shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_ITEMS = 2000
"""Items that are drawn, the most frequent in training."""
COLOURS = ("C0", "C1", "C2", "C3", "C4", "C5", "C6", "C8", "C9", "black")
"""Of the commonest categories, one each; all others are grey."""


class EmbeddingMap(NamedTuple):
    """Where items lie.

    Attributes:
      points: float ``[n, 2]``, the first two principal components.
      explained: share of the variance along each.
      items: how many the vocabulary has, the unknown one not among them.
      feature: what ``groups`` are of; None where items have nothing of the kind.
      groups: by name, the commonest first: places among the n, each in one group.
      neighbours: share of items whose nearest neighbour, by all components, is of their group;
        None without groups.
      by_chance: share that would be if neighbours were drawn at random.
    """

    points: np.ndarray
    explained: tuple[float, float]
    items: int
    feature: str | None
    groups: dict[str, np.ndarray]
    neighbours: float | None
    by_chance: float


def embedding_map(trained: TrainedModel) -> EmbeddingMap:
    """Maps the most frequent items by the vectors of their ids alone.

    An item of several categories counts to the first of them.

    Raises:
      UserError: when fewer than three items occur in training.
    """
    dataset = trained.dataset
    popularity = np.array(dataset.popularity)
    popularity[0] = 0  # the unknown item
    rows = np.argsort(-popularity, kind="stable")[:MOST_ITEMS]
    rows = rows[popularity[rows] > 0]
    if len(rows) < 3:
        raise UserError(
            f"{dataset.path} has {len(rows)} items that occur in training; a map takes three"
        )
    vectors = np.asarray(trained.params["item_embeddings"]["item"], np.float64)[rows]
    centred = vectors - vectors.mean(0)
    left, lengths, _ = np.linalg.svd(centred, full_matrices=False)
    components = (left * lengths)[:, :2]
    points = np.pad(components, ((0, 0), (0, 2 - components.shape[1])))
    variances = np.pad(lengths**2, (0, 2)) / max(float((lengths**2).sum()), 1e-30)
    names = Names(dataset)
    groups: dict[str, np.ndarray] = {}
    neighbours, by_chance = None, 0.0
    if names.feature is not None:
        first = np.array([next(iter(names.categories(int(row))), 0) for row in rows])
        values, counts = np.unique(first, return_counts=True)
        for value in values[np.argsort(-counts, kind="stable")]:
            # Two values may read alike, as unknown does where a category is named so.
            name = names.category(int(value))
            places = np.flatnonzero(first == value)
            groups[name] = np.concatenate([groups[name], places]) if name in groups else places
        neighbours = float((first[_nearest(centred)] == first).mean())
        by_chance = float((counts * (counts - 1)).sum() / (len(rows) * (len(rows) - 1)))
    return EmbeddingMap(
        points,
        (float(variances[0]), float(variances[1])),
        dataset.schema.num_items - 1,
        names.feature,
        groups,
        neighbours,
        by_chance,
    )


def _nearest(vectors: np.ndarray) -> np.ndarray:
    """The nearest other row of each, ``[n]``."""
    squares = (vectors**2).sum(1)
    distances = squares[:, None] + squares[None] - 2 * vectors @ vectors.T
    np.fill_diagonal(distances, np.inf)
    return distances.argmin(1)


def describe_map(found: EmbeddingMap) -> list[str]:
    """What the picture shows, in words."""
    first, second = found.explained
    lines = [
        f"the {len(found.points):,} most frequent of {found.items:,} items, by the embeddings of "
        f"their ids; the two components explain {first:.0%} and {second:.0%} of the variance"
    ]
    if found.neighbours is None:
        lines.append("items have no categorical feature to be coloured by")
    else:
        lines.append(
            f"the nearest neighbour of an item, by all components, is of its {found.feature} in "
            f"{found.neighbours:.0%} of cases; by chance it would be {found.by_chance:.0%}"
        )
    return lines


def draw_map(found: EmbeddingMap) -> "Figure":
    """The items as points, the commonest categories in colours; needs matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.2), layout="constrained")
    axes = figure.subplots()
    size = 24 if len(found.points) < 500 else 11
    own = dict(list(found.groups.items())[: len(COLOURS)])
    rest = np.setdiff1d(np.arange(len(found.points)), np.concatenate([[], *own.values()]))
    shown = [
        (name, places, colour) for (name, places), colour in zip(own.items(), COLOURS, strict=False)
    ]
    if len(rest):
        others = len(found.groups) - len(own)
        name = f"{others} other values" if others else "all items"
        shown.insert(0, (name, rest, "0.75"))
    handles, labels = [], []
    for name, places, colour in shown:
        first_of, second_of = found.points[places].T
        handles.append(axes.scatter(first_of, second_of, s=size, color=colour, alpha=0.75, lw=0))
        labels.append(f"{shortened(name, 26)} ({len(places):,})")
    first, second = found.explained
    axes.set_xlabel(f"first principal component ({first:.0%} of the variance)")
    axes.set_ylabel(f"second ({second:.0%})")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(
        f"embeddings of the {len(found.points):,} most frequent of {found.items:,} items",
        fontsize="medium",
    )
    order = [*range(1, len(shown)), 0] if len(rest) else range(len(shown))
    legend = figure.legend(
        [handles[k] for k in order],
        [str(k) for k in order],  # a text may start with what matplotlib leaves out
        loc="outside right upper",
        fontsize="small",
        title=None if found.feature is None else f"{found.feature} (items)",
        markerscale=1.5,
    )
    for text, k in zip(legend.get_texts(), order, strict=True):
        text.set_parse_math(False)
        text.set_text(labels[k])
    return figure

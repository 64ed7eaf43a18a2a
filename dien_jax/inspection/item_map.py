"""The embeddings of a model's items in two dimensions, by their principal components."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dien_jax.data.schema import UNKNOWN
from dien_jax.errors import UserError
from dien_jax.inspection.examples import Names
from dien_jax.runs.trained import TrainedModel
from dien_jax.utils.plots import new_figure, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_ITEMS = 2000
"""Maximum number of items on a map; the most frequent in training are chosen."""
COLOURS = ("C0", "C1", "C2", "C3", "C4", "C5", "C6", "C8", "C9", "black")
"""Colours of the most common categories; the others are grey."""


class EmbeddingMap(NamedTuple):
    """Positions of items by the embeddings of their ids.

    Attributes:
      points: float ``[n, 2]``, the first two principal components.
      explained: share of the variance along each component.
      items: number of items in the vocabulary, without the unknown item.
      feature: the item feature that is shown as the category; None if items have none.
      groups: for each category, the most common first: indices of its points, each in one group.
      neighbour_share: share of items whose nearest neighbour, over all components, is in the same
        category; None without categories.
      chance_share: the same share for neighbours that are drawn at random.
    """

    points: np.ndarray
    explained: tuple[float, float]
    items: int
    feature: str | None
    groups: dict[str, np.ndarray]
    neighbour_share: float | None
    chance_share: float


def embedding_map(trained: TrainedModel) -> EmbeddingMap:
    """Map the most frequent items by the embeddings of their ids alone.

    An item with several categories is in the group of the first.

    Raises:
      UserError: if fewer than three items occur in training.

    >>> from dien_jax import load_run
    >>> item_map = embedding_map(load_run("runs/first"))
    >>> len(item_map.points) <= item_map.items
    True
    """
    dataset = trained.dataset
    popularity = np.array(dataset.popularity)
    popularity[UNKNOWN] = 0
    rows = np.argsort(-popularity, kind="stable")[:MOST_ITEMS]
    rows = rows[popularity[rows] > 0]
    if len(rows) < 3:
        content = f"{len(rows)} items that occur in training"
        raise UserError(f"{dataset.path} has {content}; a map needs three")
    vectors = np.asarray(trained.params["item_embeddings"]["item"], np.float64)[rows]
    centred = vectors - vectors.mean(0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    components = (left * singular)[:, :2]
    points = np.pad(components, ((0, 0), (0, 2 - components.shape[1])))
    variances = np.pad(singular**2, (0, 2)) / max(float((singular**2).sum()), 1e-30)
    names = Names(dataset)
    groups: dict[str, np.ndarray] = {}
    neighbour_share, chance_share = None, 0.0
    if names.feature is not None:
        category = np.array([next(iter(names.categories(int(row))), UNKNOWN) for row in rows])
        values, counts = np.unique(category, return_counts=True)
        for value in values[np.argsort(-counts, kind="stable")].tolist():
            # Two values can have one name, for example if a category is called "(unknown)".
            name, points_of_value = names.category(value), np.flatnonzero(category == value)
            groups[name] = np.concatenate([groups.get(name, points_of_value[:0]), points_of_value])
        neighbour_share = float((category[_nearest(centred)] == category).mean())
        chance_share = float((counts * (counts - 1)).sum() / (len(rows) * (len(rows) - 1)))
    explained, items = (float(variances[0]), float(variances[1])), dataset.schema.num_items - 1
    shares = (neighbour_share, chance_share)
    return EmbeddingMap(points, explained, items, names.feature, groups, *shares)


def _nearest(vectors: np.ndarray) -> np.ndarray:
    """Return the index of the nearest other row of each row, ``[n]``."""
    squares = (vectors**2).sum(1)
    distances = squares[:, None] + squares[None] - 2 * vectors @ vectors.T
    np.fill_diagonal(distances, np.inf)
    return distances.argmin(1)


def map_lines(item_map: EmbeddingMap) -> list[str]:
    """Return a description of a map."""
    first, second = item_map.explained
    explained = f"the two components explain {first:.0%} and {second:.0%} of the variance"
    neighbours = "items have no categorical feature to colour them by"
    if item_map.neighbour_share is not None:
        neighbours = (
            f"the nearest neighbour of an item, over all components, has the same "
            f"{item_map.feature} in {item_map.neighbour_share:.0%} of cases; expected by chance: "
            f"{item_map.chance_share:.0%}"
        )
    return [f"{_title(item_map)}; {explained}", neighbours]


def _title(item_map: EmbeddingMap) -> str:
    count = len(item_map.points)
    return f"id embeddings of the {count:,} most frequent of {item_map.items:,} items"


def draw_map(item_map: EmbeddingMap) -> "Figure":
    """Draw the items as points, the most common categories in colours; needs matplotlib."""
    figure, [axes] = new_figure(9.0, 6.2)
    coloured = list(item_map.groups.items())[: len(COLOURS)]
    in_colour = [places for _, places in coloured]
    rest = np.setdiff1d(np.arange(len(item_map.points)), np.concatenate([[], *in_colour]))
    layers = [(*group, colour) for group, colour in zip(coloured, COLOURS, strict=False)]
    if len(rest):
        others = len(item_map.groups) - len(coloured)
        layers.append((f"{others} other values" if others else "all items", rest, "0.75"))
    look: Any = {"s": 24 if len(item_map.points) < 500 else 11, "alpha": 0.75, "lw": 0}
    handles = []
    for _, places, colour in layers:  # grey points are below the others
        look["zorder"] = 1 + (places is not rest)
        handles.append(axes.scatter(*item_map.points[places].T, color=colour, **look))
    first, second = item_map.explained
    axes.set_xlabel(f"first principal component ({first:.0%} of the variance)")
    axes.set_ylabel(f"second principal component ({second:.0%})")
    axes.set_title(_title(item_map), fontsize="medium")
    legend = figure.legend(
        handles,
        [str(number) for number in range(len(layers))],  # a leading "_" would hide a label
        loc="outside right upper",
        fontsize="small",
        title=None if item_map.feature is None else f"{item_map.feature} (items)",
        markerscale=1.5,
    )
    for text, (name, places, _) in zip(legend.get_texts(), layers, strict=True):
        text.set_parse_math(False)
        text.set_text(f"{shortened(name, 26)} ({len(places):,})")
    return figure

"""Auxiliary negatives of a click: items of its request that were shown and not clicked."""

import numpy as np

from dien_jax.data.dataset import Column


def passed_over_items(
    item: np.ndarray, label: np.ndarray, starts: np.ndarray, num_items: int
) -> Column:
    """Return the items that the request of each click showed and of which no row was clicked.

    Each item appears once, in rising order, and the unknown one never. So the clicks of one
    request share their negatives, and none of the clicks is among them.

    ``item`` is int32 ``[R]``, ``label`` int8 ``[R]``, ``starts`` bool ``[R]`` as ``request_starts``
    returns it; ``num_items`` counts the unknown item. The column is over the clicks, in order.
    """
    request = np.cumsum(starts) - 1
    clicked = label == 1
    keys = request * num_items + item
    has_click = np.zeros(int(starts.sum()), bool)
    has_click[request[clicked]] = True
    passed = np.unique(keys[has_click[request] & ~clicked & (item > 0)])
    passed = np.setdiff1d(passed, np.unique(keys[clicked]), assume_unique=True)
    owner, values = np.divmod(passed, num_items)
    offsets = np.searchsorted(owner, np.arange(len(has_click) + 1))
    return Column(values.astype(np.int32), offsets).take(request[clicked])

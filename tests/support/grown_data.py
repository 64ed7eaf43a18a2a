"""The tiny data set with other vocabularies, as after a few days more."""

from pathlib import Path

import numpy as np

from dien_jax.data.dataset import Dataset
from dien_jax.data.schema import Feature, Schema
from dien_jax.preparation.writer import DatasetWriter

NEW_ITEMS = {"n1": "y", "n2": "brand new"}
"""Items that only the grown folder has, and their categories."""
GONE = "i4"
"""An item that only the first folder has."""


def write_grown(path: Path, before: Dataset) -> Path:
    """The tiny data under vocabularies in another order, with some values more and one less."""
    rng = np.random.default_rng(1)
    vocabularies, rows = {}, {}
    more = {"item": list(NEW_ITEMS), "category": ["brand new"], "user": ["v1", "v2"]}
    for name, added in more.items():
        known = before.vocabulary(name)
        kept = [value for value in known[1:] if value != GONE]
        vocabularies[name] = ["", *rng.permutation([*kept, *added]).tolist()]
        places = {value: row for row, value in enumerate(vocabularies[name])}
        rows[name] = np.array([places.get(value, 0) for value in known])
    features = {
        name: Feature(name, "categorical", size=len(values))
        for name, values in vocabularies.items()
    }
    schema = Schema((features["item"], features["category"]), (features["user"],))
    of_item = dict(zip(before.vocabulary("item"), before.items["category"].values, strict=True))
    categories = {
        item: before.vocabulary("category")[value] for item, value in of_item.items()
    } | NEW_ITEMS
    places = {value: row for row, value in enumerate(vocabularies["category"])}
    with DatasetWriter(
        path, schema=schema, source={"name": "tiny", "files": {}}, split={"policy": "by-user"}
    ) as writer:
        for name, values in vocabularies.items():
            writer.vocabulary(name, values)
        writer.items("category", [places[categories[item]] for item in vocabularies["item"]])
        writer.groups(before.groups())
        writer.events(rows["item"][before.event_item], before.event_timestamp, before.event_offsets)
        popularity = np.zeros(len(vocabularies["item"]), np.int64)
        np.add.at(popularity, rows["item"], before.popularity)
        writer.popularity(popularity)
        for split, examples in before.splits.items():
            users, items = rows["user"][examples.user], rows["item"][examples.item]
            writer.examples(split, examples._replace(user=users, item=items, context={}))
    return path

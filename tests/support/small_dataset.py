"""A small dataset folder with every kind of feature, for tests of what reads or writes one."""

from pathlib import Path
from typing import Any

import numpy as np

from dien_jax.data.columns import Column, Examples
from dien_jax.data.schema import Feature, Schema
from dien_jax.preparation.writer import DatasetWriter

SCHEMA = Schema(
    item=(
        Feature("item", "categorical", size=4),
        Feature("category", "categorical", size=3),
        Feature("tags", "multivalued", size=5, max_values=2),
        Feature("price", "numeric", mean=10.0, deviation=2.5),
    ),
    user=(
        Feature("user", "categorical", size=3),
        Feature("words", "multivalued", size=2, max_values=3),
    ),
    context=(
        Feature("device", "categorical", size=3),
        Feature("query", "multivalued", size=4, max_values=2),
    ),
)
PART = "parts/00000"
"""The part of the folder."""
ITEMS = ["", "pear\nfig", "back\\slash", "\u2028\x00\ud800"]


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def write(path: Path, **changes: Any) -> Path:
    """A small valid folder, some arguments of ``events`` or of training ``examples`` replaced."""
    events: dict[str, Any] = {
        "timestamp": ints(5, 7, 7, -3, 9),
        "offsets": ints(0, 3, 3, 5),
        "negatives": Column(ints(2, 3, 1), ints(0, 2, 2, 2, 3, 3)),
    }
    examples = {
        "sequence": ints(0, 0, 1, 2),
        "history_end": ints(2, 3, 3, 3),
        "user": ints(1, 1, 2, 0),
        "group": ints(0, 0, 1, 2),
        "item": ints(2, 3, 1, 0),
        "label": ints(1, 0, 1, 0),
        "probability": np.array([0.5, 0.25, 1, 0]),
        "context": {
            "device": Column(ints(0, 1, 2, 1), None),
            "query": Column(ints(1, 2, 3, 0), ints(0, 3, 3, 4, 4)),
        },
    }
    events |= {name: value for name, value in changes.items() if name in events}
    examples |= {name: value for name, value in changes.items() if name in examples}
    with DatasetWriter(
        path, schema=SCHEMA, source={"name": "test", "files": {}}, split={"policy": "by-user"}
    ) as writer:
        writer.vocabulary("item", ITEMS)
        writer.vocabulary("category", ["", "fruit", "tool"])
        writer.vocabulary("tags", ["", "a", "b", "c", "d"])
        writer.vocabulary("user", ["", "Ann", "Bob"])
        writer.vocabulary("words", ["", "x"])
        writer.vocabulary("device", ["", "phone", "desk"])
        writer.vocabulary("query", ["", "q", "r", "s"])
        writer.items("category", ints(0, 1, 1, 2))
        writer.items("tags", ints(1, 2, 3, 4), ints(0, 0, 3, 3, 4))
        writer.items("price", np.array([0, 1.5, -2, 0.25]))
        writer.users("words", ints(), ints(0, 0, 0, 0))
        writer.groups(["Ann", "Bob", "Cid"])
        writer.popularity(ints(1, 1, 2, 1))
        writer.events(item=ints(1, 2, 2, 3, 0), **events)
        writer.examples("train", Examples(**examples))
        writer.note(extra=[1, 2])
    return path


def leftovers(parent: Path) -> list[str]:
    """What lies in a folder."""
    return sorted(entry.name for entry in parent.iterdir())

"""Small files in the format of the authors' program, and the folder prepared from them."""

from pathlib import Path
from typing import Any

from dien_jax.data.dataset import Dataset, open_dataset
from dien_jax.preparation.sources.authors import AuthorsOptions, prepare

USERS = {"Ann": 0, "Bob": 1, "Cid": 2, "Dan": 3}
ITEMS = {"default_mid": 0, "pear": 1, "fig": 2, "saw": 3}
CATEGORIES = {"default_cat": 0, "fruit": 1, "tool": 2}
CATEGORY_OF = {"pear": "fruit", "fig": "fruit", "saw": "tool"}
TRAIN = [
    (1, "Ann", "fig", ["pear", "saw"]),
    (0, "Ann", "saw", ["pear", "saw"]),
    (1, "Bob", "pear", ["saw"]),
    (0, "Bob", "kiwi", ["saw"]),
    (1, "Cid", "saw", ["kiwi", "fig", "fig"]),
    (0, "Cid", "fig", ["kiwi", "fig", "fig"]),
    (1, "Dan", "pear", []),
    (0, "Dan", "fig", []),
]
TEST = [(1, "Eve", "saw", ["pear", "fig"]), (0, "Eve", "pear", ["pear", "fig"])]


def line(label: int, user: str, item: str, history: list[str]) -> str:
    kinds = [CATEGORY_OF.get(event, "nuts") for event in history]
    fields = [str(label), user, item, CATEGORY_OF.get(item, "nuts")]
    return "\t".join([*fields, "\x02".join(history), "\x02".join(kinds)]) + "\n"


def run(folder: Path, out: str = "out", **options: Any) -> tuple[Dataset, list[str]]:
    target = folder.parent / out
    report = prepare(AuthorsOptions(folder, target, **options))
    return open_dataset(target), report


def rows(data: Dataset, split: str) -> list[tuple[Any, ...]]:
    """Examples with raw values: label, group, user, item, history."""
    groups, items, users = data.groups(), data.vocabulary("item"), data.vocabulary("user")
    found, starts = data.splits[split], data.event_offsets
    places = zip(starts[found.sequence], found.history_end, strict=True)
    histories = [[items[event] for event in data.event_item[slice(*place)]] for place in places]
    named = ((groups, found.group), (users, found.user), (items, found.item))
    columns = [[names[row] for row in column] for names, column in named]
    return list(zip(found.label.tolist(), *columns, histories, strict=True))


def known(item: str) -> str:
    return item if item in ITEMS else "default_mid"

"""No count of an example is of its own event or later, by the raw log and the files of the folder.

Histories, splits and negatives are compared row by row in ``tests/preparation/test_reference.py``.
Only the making of the folder is the package's. What a log says of each example is computed here,
event by event; the folder is read with numpy.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from support.tiny_logs import write

from dien_jax.preparation.sources.interactions import InteractionsOptions
from dien_jax.preparation.sources.interactions import prepare as prepare_log

pytestmark = pytest.mark.long

SPLITS = {
    "last-event": {},
    "by-time": {"valid_share": 0.2, "test_share": 0.2},
    "by-user": {"valid_share": 0.2, "test_share": 0.2},
}
NEGATIVES = 3
LATEST = 800_000
Event = tuple[int, int, int]
"""User, item and time."""
Example = tuple[str, int, str, int]
"""User, number of earlier events of the user, candidate ("" if unknown), label."""


def noise(users: int, items: int, events: int, seed: int) -> list[Event]:
    """Events of users: the items of each are distinct, all times random."""
    rng = np.random.default_rng(seed)
    return [
        (user, int(item), int(time))
        for user in range(users)
        for item, time in zip(
            rng.permutation(items)[:events], rng.choice(LATEST, events, replace=False), strict=True
        )
    ]


def prepare(rows: list[Event], folder: Path, **settings: Any) -> None:
    """Write the events as a log, and prepare it."""
    lines = (f"{user},{item},{item % 3},{time}" for user, item, time in rows)
    file = write(folder, "\n".join(["user,item,category,timestamp", *lines, ""]))
    options = {"item_features": ("category",), **settings}
    prepare_log(InteractionsOptions(file=file, out=folder / "data", **options))


class Folder:
    """The log by user and time, and the training examples of a prepared folder, in raw values."""

    def __init__(self, rows: list[Event], data: Path) -> None:
        self.data, self.log = data, {str(user): [] for user, _, _ in rows}
        for user, item, time in sorted(rows, key=lambda row: row[2]):
            self.log[str(user)].append((str(item), time))
        self.items = (data / "vocab" / "item.txt").read_text().split("\n")[:-1]
        groups = (data / "groups.txt").read_text().split("\n")[:-1]
        offsets = self.read("events/offsets")
        names = ("group", "sequence", "history_end", "item", "label")
        columns = [self.read(f"examples/train/{name}/values") for name in names]
        self.examples: list[Example] = [
            (groups[group], int(end - offsets[sequence]), self.items[item], int(label))
            for group, sequence, end, item, label in zip(*columns, strict=True)
        ]

    def read(self, name: str) -> np.ndarray:
        return np.load(self.data / f"{name}.npy")

    def training(self) -> set[tuple[str, int]]:
        """User and place of every event that is a training example or in its history."""
        return {
            (user, place) for user, before, _, _ in self.examples for place in range(before + 1)
        }


@pytest.fixture(scope="module", params=SPLITS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    split = request.param
    rows = noise(users=40, items=30, events=7, seed=5)
    work = tmp_path_factory.mktemp("leakage")
    prepare(rows, work, split=split, negatives=NEGATIVES, **SPLITS[split])
    return Folder(rows, work / "data")


def test_counts_are_of_training_events(folder):
    trained = folder.training()
    events = [folder.log[user][place][0] for user, place in trained]
    users = {(user, folder.log[user][place][0]) for user, place in trained}
    chosen = [item for _, item in users]
    popularity, count = folder.read("popularity"), folder.read("statistics/item/count")
    for row, item in enumerate(folder.items[1:], start=1):
        assert popularity[row] == events.count(item)
        assert count[row] == chosen.count(item)


def test_count_of_a_training_candidate_leaves_out_its_own_event_and_later_ones(folder):
    trained = folder.training()
    count, own = folder.read("statistics/item/count"), folder.read("statistics/item/own")
    row_of = {item: row for row, item in enumerate(folder.items)}
    users: dict[str, set[str]] = {}
    for user, place in trained:
        users.setdefault(folder.log[user][place][0], set()).add(user)
    for (user, before, candidate, _), bits in zip(folder.examples, own, strict=True):
        earlier = [item for item, _ in folder.log[user][:before]]
        expected = len(users[candidate] - {user}) + (candidate in earlier)
        assert count[row_of[candidate]] - (bits & 1) == expected


@pytest.mark.parametrize("distribution", ["popularity", "uniform"])
def test_negatives_have_the_frequencies_of_their_time(tmp_path, distribution):
    rows = noise(users=60, items=25, events=7, seed=8)
    settings = {"split": "last-event", "negatives": 20, "negative_distribution": distribution}
    prepare(rows, tmp_path, **settings)
    folder = Folder(rows, tmp_path / "data")
    trained = folder.training()
    pool = [folder.log[user][place] for user, place in trained]
    expected, drawn = dict.fromkeys(folder.items[1:], 0.0), dict.fromkeys(folder.items[1:], 0)
    for user, before, candidate, label in folder.examples:
        if not label:
            drawn[candidate] += 1
            own = {item for item, _ in folder.log[user][: before + 1]}
            now = folder.log[user][before][1]
            known = [item for item, time in pool if time <= now and item not in own]
            known = sorted(set(known)) if distribution == "uniform" else known
            for item in known:
                expected[item] += 1 / len(known)
    # Chances differ from positive to positive, so that counts vary less than the test assumes.
    found = stats.chisquare(list(drawn.values()), list(expected.values()))
    assert sum(drawn.values()) > 4000
    assert found.pvalue > 1e-3

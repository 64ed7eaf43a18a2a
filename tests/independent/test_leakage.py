"""Nothing of an example is of its own event or later, by the raw log and the files of the folder.

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
Example = tuple[str, str, int, str, int]
"""Split, user, number of earlier events of the user, candidate ("" if unknown), label."""


def noise(users: int, items: int, events: int, seed: int) -> list[Event]:
    """Events of users: the items of each are distinct, all times random."""
    rng = np.random.default_rng(seed)
    return [
        (user, int(item), int(time))
        for user in range(users)
        for item, time in zip(
            rng.permutation(items)[:events],
            rng.choice(LATEST, events, replace=False),
            strict=True,
        )
    ]


def prepare(rows: list[Event], folder: Path, **settings: Any) -> None:
    """Write the events as a log, and prepare it."""
    lines = (f"{user},{item},{item % 3},{time}" for user, item, time in rows)
    file = write(folder, "\n".join(["user,item,category,timestamp", *lines, ""]))
    options = {"item_features": ("category",), **settings}
    prepare_log(InteractionsOptions(file=file, out=folder / "data", **options))


class Folder:
    """The log of a user and time, and the examples of a prepared folder, in raw values."""

    def __init__(self, rows: list[Event], data: Path) -> None:
        self.data, self.log = data, {str(user): [] for user, _, _ in rows}
        for user, item, time in sorted(rows, key=lambda row: row[2]):
            self.log[str(user)].append((str(item), time))
        self.items = (data / "vocab" / "item.txt").read_text().split("\n")[:-1]
        self.groups = (self.data / "groups.txt").read_text().split("\n")[:-1]
        self.examples: list[Example] = []
        self.histories: list[list[str]] = []
        events, offsets = (
            self.read("events/item/values"),
            self.read("events/offsets"),
        )
        for split in ("train", "valid", "test"):
            names = ("group", "sequence", "history_end", "item", "label")
            columns = [self.read(f"examples/{split}/{name}/values") for name in names]
            for group, sequence, end, item, label in zip(*columns, strict=True):
                history = events[offsets[sequence] : end]
                self.histories.append([self.items[row] for row in history])
                found = (split, self.groups[group], len(history), self.items[item], int(label))
                self.examples.append(found)

    def read(self, name: str) -> np.ndarray:
        return np.load(self.data / f"{name}.npy")

    def training(self) -> set[tuple[str, int]]:
        """User and place of every event that is a training example or in its history."""
        return {
            (user, place)
            for split, user, before, _, _ in self.examples
            if split == "train"
            for place in range(before + 1)
        }


@pytest.fixture(scope="module", params=SPLITS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    split = request.param
    rows = noise(users=40, items=30, events=7, seed=5)
    work = tmp_path_factory.mktemp("leakage")
    prepare(rows, work, split=split, negatives=NEGATIVES, **SPLITS[split])
    return Folder(rows, work / "data")


def test_history_is_what_the_user_did_before(folder):
    assert {split for split, *_ in folder.examples} == {"train", "valid", "test"}
    for (_, user, before, candidate, label), history in zip(
        folder.examples, folder.histories, strict=True
    ):
        earlier = [item for item, _ in folder.log[user][:before]]
        assert [have or raw for have, raw in zip(history, earlier, strict=True)] == earlier
        if label:
            assert candidate in ("", folder.log[user][before][0])


def test_negative_existed_by_then_and_was_not_chosen_before(folder):
    first: dict[str, int] = {}
    for events in folder.log.values():
        for item, time in events:
            first[item] = min(time, first.get(item, time))
    count = 0
    for _, user, before, candidate, label in folder.examples:
        if not label and candidate:
            count += 1
            assert first[candidate] <= folder.log[user][before][1]
            assert candidate not in [item for item, _ in folder.log[user][: before + 1]]
    assert count > len(folder.examples) / 2


def test_training_is_over_before_anything_is_held_out(folder):
    trained, split = folder.training(), folder.data.parent.name
    held_out = [(u, k) for name, u, k, _, _ in folder.examples if name != "train"]
    assert held_out, split
    assert not trained & set(held_out)
    policy = (folder.data / "meta.json").read_text()
    if '"policy": "by-time"' in policy:
        latest = max(folder.log[user][place][1] for user, place in trained)
        assert latest < min(folder.log[user][place][1] for user, place in held_out)
    elif '"policy": "by-user"' in policy:
        assert not {user for user, _ in trained} & {user for user, _ in held_out}
    else:
        last = {user: max(k for u, k in trained if u == user) for user in folder.log}
        assert all(place > last[user] for user, place in held_out)


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
    training = [example for example in folder.examples if example[0] == "train"]
    assert len(own) == len(training)
    for (_, user, before, candidate, _), bits in zip(training, own, strict=True):
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
    for split, user, before, candidate, label in folder.examples:
        if split == "train" and not label:
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

"""Values that only validation or test rows have are unknown to training, whatever they describe."""

import numpy as np
import pytest
from support.tiny_logs import make, noise, opened, training_events, values_of, write

from dien_jax.data.dataset import Dataset
from dien_jax.preparation.sources import impressions

pytestmark = pytest.mark.long

ROWS = noise(users=30, items=12, events=6, seed=2)
SPLITS = {
    "by-user": {"valid_share": 0.2, "test_share": 0.2},
    "last-event": {},
    "by-time": {"valid_share": 0.2, "test_share": 0.2},
}
FEATURES = {
    "item_features": ("kind", "tags:multivalued", "price:numeric"),
    "user_features": ("group", "age:numeric"),
}
HEADER = "user,item,kind,tags,price,group,age,slot,label,timestamp\n"


def log(cells, labels=None) -> str:
    """The log with the cells that ``cells`` gives for the number of a row."""
    lines = []
    for number, (user, item, time) in enumerate(ROWS):
        kind, tags, price, group, age, slot = cells(number)
        label = 1 if labels is None else labels[number]
        row = (f"u{user}", f"i{item}", kind, tags, price, group, age, slot, label, time)
        lines.append(",".join(map(str, row)) + "\n")
    return HEADER + "".join(lines)


def trained_rows(dataset: Dataset, trained: np.ndarray) -> list[bool]:
    """For each row of ``ROWS`` whether training sees it; ``trained`` is over the events."""
    users = np.repeat(np.arange(len(dataset.groups())), np.diff(dataset.event_offsets))
    names = dataset.groups()
    events = zip(users, dataset.event_timestamp.tolist(), trained, strict=True)
    seen = {(names[user], time): bool(mark) for user, time, mark in events}
    return [seen[f"u{user}", time] for user, _, time in ROWS]


def cell_of(trained: list[bool], missing: bool):
    """Cells of training rows, empty if ``missing``, and others for the rows held out."""
    early = ("",) * 6 if missing else ("early", "a|b", 1, "early", 1, "s")
    late = ("late", "x|y", 99, "late", 99, "t")
    return lambda number: early if trained[number] else late


def check(dataset: Dataset, missing: bool) -> None:
    """Nothing of the held-out rows is known, and known rows have what training has."""
    expected = [""] if missing else ["", "early"]
    assert dataset.vocabulary("kind") == dataset.vocabulary("group") == expected
    assert sorted(dataset.vocabulary("tags")) == ([""] if missing else ["", "a", "b"])
    for features, name in ((dataset.schema.item, "price"), (dataset.schema.user, "age")):
        (feature,) = [feature for feature in features if feature.name == name]
        assert (feature.mean, feature.deviation) == (0.0 if missing else 1.0, 1.0)
    assert not dataset.items["price"].values.any()
    assert not dataset.users["age"].values.any()
    for values in (dataset.items["kind"].values, dataset.users["group"].values):
        assert (values[1:] == (0 if missing else 1)).all()


@pytest.mark.parametrize("missing", [False, True], ids=["other", "missing"])
@pytest.mark.parametrize("split", SPLITS)
def test_values_of_interactions_are_those_of_training(tmp_path, split, missing):
    flags = {"split": split, **SPLITS[split]}
    plain, _ = make(write(tmp_path, log(lambda number: [""] * 6)), item_features=(), **flags)
    trained = trained_rows(plain, training_events(plain))
    assert 0 < sum(trained) < len(ROWS)
    file = write(tmp_path, log(cell_of(trained, missing)))
    dataset, _ = make(file, out=tmp_path / "told", **FEATURES, **flags)
    check(dataset, missing)
    assert dataset.vocabulary("item") == plain.vocabulary("item")


def prepared_impressions(**settings) -> Dataset:
    return opened(impressions.prepare, impressions.ImpressionsOptions(**settings))[0]


@pytest.mark.parametrize("missing", [False, True], ids=["other", "missing"])
@pytest.mark.parametrize("split", SPLITS)
def test_values_of_impressions_are_those_of_training(tmp_path, split, missing):
    flags = {"split": split, **SPLITS[split]}
    clicks = write(tmp_path, log(lambda number: [""] * 6), "clicks.csv")
    plain = prepared_impressions(file=clicks, out=tmp_path / "plain", **flags)
    trained = np.zeros(len(plain.event_item), bool)
    trained[plain.splits["train"].history_end] = True  # all rows are clicks, each at its own time
    rows = trained_rows(plain, trained)
    assert 0 < sum(rows) < len(ROWS)
    file = write(tmp_path, log(cell_of(rows, missing), [k % 2 for k in range(len(ROWS))]))
    flags |= {"file": file, "out": tmp_path / "told", "context_features": ("slot",)}
    dataset = prepared_impressions(**FEATURES, **flags)
    check(dataset, missing)
    assert dataset.vocabulary("slot") == ([""] if missing else ["", "s"])


def test_an_item_without_a_training_row_that_an_old_folder_knows_keeps_its_value(tmp_path):
    header = "user,item,category,timestamp\n"
    names = ("ann", "bob", "cat")
    old = "".join(f"{u},i{k},c{k},{k}\n" for u in names for k in range(6))
    new = "".join(f"{u},i{k},c{k},{10 + k}\n" for u in names for k in (0, 1, 2))
    new += "".join(f"{u},i3,{c},{20 + k}\n" for u in names for k, c in enumerate(("", "c3")))
    first, _ = make(write(tmp_path, header + old, "old.csv"), out=tmp_path / "old")
    assert "i3" in first.vocabulary("item")
    file = write(tmp_path, header + new, "new.csv")
    dataset, _ = make(file, out=tmp_path / "new", extend=tmp_path / "old")
    assert values_of(dataset, "items", "category")["i3"] == "c3"

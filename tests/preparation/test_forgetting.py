"""Extended folders that give rows back, and new ids that get one by how often they were seen."""

from pathlib import Path

import numpy as np
import pytest
from support.tiny_logs import write

from dien_jax.data.dataset import Dataset, open_dataset
from dien_jax.errors import UserError
from dien_jax.preparation.sources import impressions, interactions

pytestmark = pytest.mark.long

DAY = 86_400
OLD = {
    "ann": [(0, "a"), (1, "b"), (2, "c"), (9, "b")],
    "bob": [(0, "b"), (1, "d"), (3, "a")],
    "cid": [(1, "c"), (2, "d"), (9, "c"), (9.5, "d")],
}
NEW = {
    "ann": [(10, "b"), (11, "e"), (13, "b"), (14, "b")],
    "cid": [(10, "c"), (12, "b"), (13, "c"), (14, "c")],
    "dan": [(11, "e"), (12, "c"), (13, "e"), (14, "e")],
}
FEATURE = {"a": "red", "b": "blue", "c": "red", "d": "green", "e": "new"}
VALID, TEST = str(13 * DAY), str(14 * DAY)


def lines(*logs: dict, label: str = "") -> str:
    header = f"user,item,timestamp,colour{label and ',label'}\n"
    return header + "".join(
        f"{user},{item},{int(day * DAY)},{FEATURE[item]}{label}\n"
        for log in logs
        for user, events in log.items()
        for day, item in events
    )


def prepare(folder: Path, name: str, log: str, **changes) -> tuple[Dataset, list[str]]:
    options = interactions.InteractionsOptions(
        **{
            **{"file": write(folder, log, f"{name}.csv"), "out": folder / name},
            **{"item_features": ("colour",), "split": "by-time"},
            **changes,
        }
    )
    said = interactions.prepare(options)
    return open_dataset(folder / name), said


@pytest.fixture
def old(tmp_path: Path) -> Dataset:
    times = {"valid_from": str(9 * DAY), "test_from": str(int(9.5 * DAY))}
    return prepare(tmp_path, "old", lines(OLD), **times)[0]


def extended(tmp_path: Path, old: Dataset, **changes) -> tuple[Dataset, list[str]]:
    times = {"train_from": str(10 * DAY), "valid_from": VALID, "test_from": TEST}
    return prepare(tmp_path, "new", lines(OLD, NEW), extend=old.path, **times, **changes)


def test_ids_without_a_recent_event_lose_their_rows(tmp_path: Path, old: Dataset) -> None:
    assert set(old.vocabulary("item")) == {"", "a", "b", "c", "d"}
    new, said = extended(tmp_path, old, forget_after=5)
    kept = [item for item in old.vocabulary("item") if item != "a"]
    assert new.vocabulary("item") == [*kept, "e"]  # d had an event on day 9.5, before day 12 - 5
    assert set(new.vocabulary("user")) == {"", "ann", "cid", "dan"}
    assert "1 items and 1 users are forgotten and lose their rows" in said
    assert new.meta["source"]["extends"]["forget_after"] == 5
    colours = new.vocabulary("colour")
    of_items = new.items["colour"].values
    items = new.vocabulary("item")
    for row, item in enumerate(items[1:], start=1):
        assert colours[of_items[row]] == FEATURE[item]
    assert new.vocabulary("colour")[: len(old.vocabulary("colour"))] == old.vocabulary("colour")
    ann = new.groups().index("ann")
    events = new.event_item[new.event_offsets[ann] : new.event_offsets[ann + 1]]
    assert [items[row] for row in events] == ["", "b", "c", "b", "b", "e", "b", "b"]


def test_without_the_flag_all_rows_are_kept(tmp_path: Path, old: Dataset) -> None:
    new, said = extended(tmp_path, old)
    assert new.vocabulary("item") == [*old.vocabulary("item"), "e"]
    assert not [line for line in said if "forgotten" in line]
    assert "forget_after" not in new.meta["source"]["extends"]


def test_an_id_that_returns_has_a_new_row_after_the_others(tmp_path: Path, old: Dataset) -> None:
    first, _ = extended(tmp_path, old, forget_after=5)
    later = {"ann": [(15, "b"), (16, "a"), (17, "c"), (18, "a"), (19, "b")]}
    times = {"train_from": str(15 * DAY), "valid_from": str(18 * DAY), "test_from": str(19 * DAY)}
    log = lines(OLD, NEW, later)
    second, _ = prepare(tmp_path, "last", log, extend=first.path, forget_after=5, **times)
    assert second.vocabulary("item") == ["", "b", "c", "e", "a"]  # d has no event since day 12


def test_new_ids_are_counted_in_all_of_the_past(tmp_path: Path, old: Dataset) -> None:
    assert "e" in extended(tmp_path, old, min_count=2)[0].vocabulary("item")
    (tmp_path / "other").mkdir()
    assert "e" not in extended(tmp_path / "other", old, min_count=3)[0].vocabulary("item")
    earlier = {"eve": [(4, "e"), (5, "b"), (6, "e"), (7, "b")]}  # trains nothing from day 10 on
    (tmp_path / "third").mkdir()
    times = {"train_from": str(10 * DAY), "valid_from": VALID, "test_from": TEST, "min_count": 3}
    log = lines(OLD, earlier, NEW)
    new, _ = prepare(tmp_path / "third", "new", log, extend=old.path, **times)
    assert "e" in new.vocabulary("item")
    assert "eve" not in new.vocabulary("user")


def test_a_log_that_does_not_reach_back_is_refused(tmp_path: Path, old: Dataset) -> None:
    times = {"train_from": str(11 * DAY), "valid_from": VALID, "test_from": TEST}
    expected = "--forget-after 5: the log must reach back 5 days .* found 2.0 days"
    with pytest.raises(UserError, match=expected):
        prepare(tmp_path, "x", lines(NEW), extend=old.path, forget_after=5, **times)
    prepare(tmp_path, "y", lines(NEW), extend=old.path, forget_after=2, **times)


def test_flags_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    common = {"file": tmp_path / "log.csv", "out": tmp_path / "out"}
    with pytest.raises(UserError, match="--forget-after needs --extend"):
        interactions.InteractionsOptions(**common, forget_after=5)
    with pytest.raises(UserError, match="--forget-after must be at least 1, got 0"):
        interactions.InteractionsOptions(**common, extend=tmp_path, forget_after=0)


def test_impressions_forget_too(tmp_path: Path) -> None:
    def made(name: str, log: str, **changes) -> Dataset:
        options = impressions.ImpressionsOptions(
            file=write(tmp_path, log, f"{name}.csv"), out=tmp_path / name,
            item_features=("colour",), **changes,
        )  # fmt: skip
        impressions.prepare(options)
        return open_dataset(tmp_path / name)

    old = made("old", lines(OLD, label=",1"), valid_from=str(9 * DAY), test_from=str(10 * DAY))
    times = {"train_from": str(10 * DAY), "valid_from": VALID, "test_from": TEST}
    log = lines(OLD, NEW, label=",1")
    new = made("new", log, extend=old.path, forget_after=5, **times)
    assert set(old.vocabulary("item")) - set(new.vocabulary("item")) == {"a"}
    assert set(new.vocabulary("user")) == {"", "ann", "cid", "dan"}
    assert np.isin(new.event_item, range(new.schema.num_items)).all()

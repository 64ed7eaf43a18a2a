"""Folders are those of a preparation in plain Python, row by row."""

import csv
import dataclasses
import math
from collections import Counter, defaultdict
from itertools import accumulate, chain, compress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy import stats
from support.plain_splits import EARLIER, TRAIN, covered, sides_of
from support.small_dataset import contents
from support.tiny_logs import PREPARE, SPLITS, log_of, of_every_column, old_and_new, opened, write

from dien_jax.data import arrays
from dien_jax.data.dataset import Dataset
from dien_jax.data.metadata import SPLITS as NAMES
from dien_jax.data.schema import Column
from dien_jax.preparation.pipeline import events as pipeline_events
from dien_jax.preparation.pipeline import features as pipeline_features
from dien_jax.preparation.sources import impressions, interactions

pytestmark = pytest.mark.long


class Row(NamedTuple):
    line: int
    user: str
    item: str
    time: int
    label: int
    cells: dict[str, str]


class Reference:
    """What a folder should be that is prepared of a log.

    Which users ``by-user`` holds out is drawn, and taken from the folder.
    """

    def __init__(self, file: Path, found: Dataset, options: Any, old: Dataset | None) -> None:
        self.options, self.old = options, old
        self.clicks = isinstance(options, impressions.ImpressionsOptions)
        with file.open() as stream:
            self.log = [
                Row(line, c["user"], c["item"], int(c["timestamp"]), int(c["label"]), c)
                for line, c in enumerate(csv.DictReader(stream))
            ]
        self.users = {row.user: [] for row in self.log}
        for row in sorted(self.log, key=lambda row: (row.time, row.line)):
            self.users[row.user].append(row)
        self.rows = [row for rows in self.users.values() for row in rows]
        self.items = list(dict.fromkeys(row.item for row in self.log))
        held_out = {
            found.groups()[group]: name
            for name in NAMES[1:]
            for group in found.splits[name].group.tolist()
        }
        times = {user: [row.time for row in rows] for user, rows in self.users.items()}
        sides = sides_of(times, options, impressions=self.clicks, held_out=held_out)
        lines = [row.line for row in self.rows]
        self.side = dict(zip(lines, chain(*sides.values()), strict=True))

        def rows_of(*wanted: str) -> list[Row]:
            marks = (covered(own, *wanted, impressions=self.clicks) for own in sides.values())
            return list(compress(self.rows, chain(*marks)))

        self.seen, self.past = rows_of(TRAIN), rows_of(TRAIN, EARLIER)

    def vocabulary(
        self, name: str, values: Any, counts: Counter[str], past: Counter[str] | None = None
    ) -> list[str]:
        """Known values, then frequent ones, most frequent first; ties in the order of values."""
        known, least = self.old.vocabulary(name) if self.old else [""], self.options.min_count
        enough = past if past and self.old else counts
        new = [v for v in dict.fromkeys(values) if counts[v] and enough[v] >= least]
        return [*known, *sorted({*new} - {*known}, key=lambda v: (-counts[v], new.index(v)))]

    def ids(self, name: str) -> list[str]:
        seen, past = (Counter(getattr(r, name) for r in rows) for rows in (self.seen, self.past))
        return self.vocabulary(name, self.items if name == "item" else self.users, seen, past)

    def described(self, group: str, name: str) -> tuple[list[str], list[int]]:
        """The cell of each item or user, by first appearance, and how often training sees it."""
        cells, counts = [], []
        for value in self.items if group == "item" else self.users:
            trained = [row for row in self.seen if getattr(row, group) == value]
            rows = trained or [row for row in self.log if getattr(row, group) == value]
            rows.sort(key=lambda row: (row.time, row.line))
            present = (row.cells[name] for row in rows if row.cells[name] not in ("", "NaN"))
            cells.append(next(present, ""))
            counts.append(len(trained))
        return cells, counts

    def column(
        self, name: str, kind: str, cells: list[str], counts: list[int], found: Dataset
    ) -> list[Any]:
        """The encoded cells; checks the feature and its vocabulary."""
        feature, old = found.schema.feature(name), self.old and self.old.schema.feature(name)
        if kind == "numeric":
            numbers = [float(cell or "nan") for cell in cells]
            trained = [n for n, c in zip(numbers, counts, strict=True) if c and not math.isnan(n)]
            mean, deviation = np.mean(trained), np.std(trained) or 1.0
            if old:
                mean, deviation = old.mean, old.deviation
            assert (feature.mean, feature.deviation) == pytest.approx((mean, deviation), abs=1e-12)
            return [0.0 if math.isnan(n) else (n - mean) / deviation for n in numbers]
        is_list = kind == "multivalued"
        pieces = [[p for p in cell.split("|") if p] if is_list else [cell] for cell in cells]
        occurrences: Counter[str] = Counter()
        for own, count in zip(pieces, counts, strict=True):
            for value in own:
                occurrences[value] += count
        values = [value for own in pieces for value in own if value]
        vocabulary = self.vocabulary(name, values, occurrences)
        assert found.vocabulary(name) == vocabulary
        row_of = {value: row for row, value in enumerate(vocabulary)}
        rows = [list(dict.fromkeys(row_of.get(value, 0) for value in own)) for own in pieces]
        if not is_list:
            return [row for (row,) in rows]
        rows = [own[: self.options.max_values] for own in rows]
        longest = max(1, *map(len, rows), old.max_values if old else 1)
        assert feature.max_values == longest
        return rows


def cells_of(column: Column) -> list[Any]:
    values = column.values.tolist()
    if column.offsets is None:
        return values
    return [values[a:b] for a, b in zip(column.offsets, column.offsets[1:], strict=False)]


def check(found: Dataset, file: Path, options: Any, old: Dataset | None = None) -> None:
    """Compare all of a folder, and check the negatives that were drawn."""
    expected = Reference(file, found, options, old)
    row_of = {}
    for name in ("item", "user"):
        ids = expected.ids(name)
        assert found.vocabulary(name) == ids
        row_of[name] = {value: row for row, value in enumerate(ids) if row}
    items = {item: row_of["item"].get(item, 0) for item in expected.items}
    assert found.groups() == list(expected.users)
    about = found.meta["split"]
    assert about["policy"] == options.split
    for name in ("valid_from", "test_from", "train_from"):
        assert getattr(options, name) in (None, str(about.get(name)))
    history = [row for row in expected.rows if row.label or not expected.clicks]
    assert found.event_item.tolist() == [items[row.item] for row in history]
    assert found.event_timestamp.tolist() == [row.time for row in history]
    sizes = Counter(row.user for row in history)
    assert found.event_offsets.tolist() == [0, *accumulate(sizes[user] for user in expected.users)]
    past = [row for row in expected.past if row.label or not expected.clicks]
    popularity = Counter(items[row.item] for row in past)
    assert found.popularity.tolist() == [popularity[k] for k in range(found.schema.num_items)]

    groups = list(expected.users)
    for name in NAMES:
        rows = [row for row in expected.rows if expected.side[row.line] == name]
        part = found.splits[name]
        if not expected.clicks:
            check_negatives(expected, found, name, rows)
            part = part.take(np.flatnonzero(part.label))
        before = [
            sum(h.user == r.user and (h.time < r.time if expected.clicks else
                (h.time, h.line) < (r.time, r.line)) for h in history)
            for r in rows
        ]  # fmt: skip
        assert (part.history_end - found.event_offsets[part.sequence]).tolist() == before
        assert part.sequence.tolist() == part.group.tolist()
        assert part.group.tolist() == [groups.index(row.user) for row in rows]
        assert part.user.tolist() == [row_of["user"].get(row.user, 0) for row in rows]
        assert part.item.tolist() == [items[row.item] for row in rows]
        assert part.label.tolist() == [row.label if expected.clicks else 1 for row in rows]

    check_features(found, expected, old)
    check_counts(found, [(row.user, items[row.item]) for row in past])


def check_counts(found: Dataset, past: list[tuple[str, int]]) -> None:
    """Counts are of users in training; that of an example less its own event and later ones."""
    part, groups, starts = found.splits[TRAIN], found.groups(), found.event_offsets
    of_features = zip(found.statistics.values.items(), found.statistics.own, strict=True)
    for (name, counts), own in of_features:
        value_of = found.items[name].values if name != "item" else np.arange(found.schema.num_items)
        users: dict[int, set[str]] = defaultdict(set)
        for user, item in past:
            users[value_of[item]].add(user)
        assert counts.count[1:].tolist() == [len(users[k]) for k in range(1, len(counts.count))]
        columns = part.group, part.sequence, part.history_end, value_of[part.item], own & 1
        for group, sequence, end, value, is_own in zip(*columns, strict=True):
            earlier = value_of[found.event_item[starts[sequence] : end]]
            left = len(users[value] - {groups[group]}) + (value in earlier)
            assert not value or counts.count[value] - is_own == left


def check_negatives(expected: Reference, found: Dataset, name: str, positives: list[Row]) -> None:
    """Negatives follow their positive, existed by then, and had not been chosen by its user."""
    part, options, vocabulary = found.splits[name], expected.options, found.vocabulary("item")
    starts, of_positive = np.flatnonzero(part.label), np.cumsum(part.label) - 1
    assert (np.diff([*starts, len(part.label)]) <= 1 + options.negatives).all()
    for column in (part.sequence, part.history_end, part.user, part.group):
        assert (column == column[starts[of_positive]]).all()
    row_of = {item: row for row, item in enumerate(vocabulary) if row}
    pool = expected.log
    if name == TRAIN:
        trained = {row.item for row in expected.seen} | set(row_of)
        pool = [row for row in expected.past if row.item in trained]
    negative = np.flatnonzero(part.label == 0)
    for place, item in zip(of_positive[negative], part.item[negative], strict=True):
        positive = positives[place]
        assert item in {row_of.get(row.item, 0) for row in pool if row.time <= positive.time}
        own = expected.users[positive.user]
        chosen = {row.item for row in own[: own.index(positive) + 1]}
        assert not item or vocabulary[item] not in chosen
    if (name == "test" and options.split == "by-time") or (name == TRAIN and options.min_count > 1):
        assert not part.item[negative].all(), "unknown items are among them"


def check_features(found: Dataset, expected: Reference, old: Dataset | None) -> None:
    for group in ("item", "user"):
        values = list(expected.items if group == "item" else expected.users)
        features = [(each.name, each.kind) for each in getattr(found.schema, group)[1:]]
        asked = getattr(expected.options, f"{group}_features")
        assert tuple(map(":".join, features)) == asked
        for name, kind in features:
            encoded = expected.column(name, kind, *expected.described(group, name), found)
            by_value = dict(zip(values, encoded, strict=True))
            column = cells_of(getattr(found, f"{group}s")[name])
            before = cells_of(getattr(old, f"{group}s")[name]) if old else []
            for row, value in enumerate(found.vocabulary(group)[1:], 1):
                wanted = by_value[value] if value in by_value else before[row]
                is_number = kind == "numeric"
                assert column[row] == (pytest.approx(wanted, abs=1e-6) if is_number else wanted)
    counts = Counter(row.line for row in expected.seen)
    of_rows = [counts[row.line] for row in expected.rows]
    for feature in found.schema.given:
        is_number = feature.kind == "numeric"
        cells = [row.cells[feature.name] for row in expected.rows]
        encoded = expected.column(feature.name, feature.kind, cells, of_rows, found)
        parts = {name: found.splits[name].columns for name in NAMES}
        kept = {name: [expected.side[row.line] == name for row in expected.rows] for name in NAMES}
        if feature in found.schema.event:
            parts = {"events": found.events}
            kept = {"events": [row.label or not expected.clicks for row in expected.rows]}
        for name, columns in parts.items():
            wanted = list(compress(encoded, kept[name]))
            column = cells_of(columns[feature.name])
            assert column == (pytest.approx(wanted, abs=1e-6) if is_number else wanted)


def prepared_and_checked(
    kind: str, file: Path, out: Path, old: Dataset | None = None, **settings: Any
) -> tuple[Dataset, Any, list[str]]:
    """Prepare a folder and check it; return it with its options and its summary."""
    options = of_every_column(kind, file, out, **settings)
    found, summary = opened(PREPARE[kind], options)
    check(found, file, options, old)
    return found, options, summary


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("kind", PREPARE)
def test_folders_are_those_of_plain_python_also_in_parts(kind, split, tmp_path, monkeypatch):
    _, options, summary = prepared_and_checked(
        kind, log_of(tmp_path), tmp_path / "data", **SPLITS[split]
    )
    monkeypatch.setattr(pipeline_events, "PART_EVENTS", 25)
    monkeypatch.setattr(arrays, "CHUNK_ROWS", 7)
    monkeypatch.setattr(pipeline_features, "CHUNK_ROWS", 7)
    parted = dataclasses.replace(options, out=tmp_path / "parts")
    assert PREPARE[kind](parted) == summary
    assert contents(options.out) == contents(parted.out)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("kind", PREPARE)
def test_folders_that_extend_others_are_those_of_plain_python(kind, split, tmp_path):
    first, second = old_and_new(tmp_path)
    settings = SPLITS[split] | {"min_count": 2, "max_values": 3}
    old, *_ = prepared_and_checked(kind, first, tmp_path / "old", **settings)
    settings |= {"old": old, "extend": old.path}
    *_, summary = prepared_and_checked(kind, second, tmp_path / "new", **settings)
    assert "begins after" not in " ".join(summary)


@pytest.mark.parametrize("distribution", ["popularity", "uniform"])
def test_negatives_have_the_frequencies_of_their_time(tmp_path, distribution):
    """Of users who choose seven different items each, at random times."""
    random = np.random.default_rng(8)
    lines = [
        f"{user},{item},{time},1"
        for user in range(60)
        for item, time in zip(
            random.permutation(25)[:7], random.choice(800_000, 7, replace=False), strict=True
        )
    ]
    file = write(tmp_path, "\n".join(["user,item,timestamp,label", *lines, ""]))
    options = interactions.InteractionsOptions(
        file=file, out=tmp_path / "data", negatives=20, negative_distribution=distribution
    )
    found, _ = opened(interactions.prepare, options)
    log, part, names = Reference(file, found, options, None), found.splits[TRAIN], found.vocabulary
    drawn = Counter(names("item")[row] for row in part.item[part.label == 0])
    positives = [row for row in log.rows if log.side[row.line] == TRAIN]
    expected = dict.fromkeys(drawn, 0.0)
    for place in (np.cumsum(part.label) - 1)[part.label == 0]:
        positive, own = positives[place], log.users[positives[place].user]
        chosen = {row.item for row in own[: own.index(positive) + 1]}
        known = [r.item for r in log.past if r.time <= positive.time and r.item not in chosen]
        known = sorted(set(known)) if distribution == "uniform" else known
        for item in known:
            expected[item] += 1 / len(known)
    # Chances differ from positive to positive, so that counts vary less than the test assumes.
    assert drawn.total() > 4000
    assert stats.chisquare([*drawn.values()], [*expected.values()]).pvalue > 1e-3

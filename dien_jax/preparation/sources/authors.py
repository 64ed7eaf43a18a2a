"""Prepared files of the program that the authors of DIEN published with their paper.

    local_{train,test}_splitByUser    label, user, item, category, items, categories
    {uid,mid,cat}_voc.pkl             pickled dict of raw value to index
    item-info                         item, category

Fields are separated by tabs; items and categories of a history, oldest first, by U+0002. A user
has two lines: the real last item with label 1 and a sampled one with label 0. Index 0 of items and
categories is the unknown one. Index 0 of users is a training user, and the program gives that row
to every user without an index, including all test users. Here they share an unknown row.

Zhou et al., "Deep Interest Evolution Network for Click-Through Rate Prediction", AAAI 2019.
"""

import io
import pickle
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from dien_jax.data.arrays import Examples
from dien_jax.data.schema import UNKNOWN, Feature, Schema
from dien_jax.errors import UserError, failing, reading
from dien_jax.preparation.pipeline.splits import VALID, EventPart, user_sides
from dien_jax.preparation.pipeline.target_negatives import NONE, NegativeSampler
from dien_jax.preparation.writer import DatasetWriter, check_target
from dien_jax.utils.json_values import BelowOne, LargeCount, Share, convert_fields
from dien_jax.utils.text_files import BadLines, open_bytes, plain_or_gzip, read_lines, sha256

SEPARATOR = "\x02"
TRAIN_FILE, TEST_FILE = "local_train_splitByUser", "local_test_splitByUser"
FILES = (TRAIN_FILE, TEST_FILE, "uid_voc.pkl", "mid_voc.pkl", "cat_voc.pkl", "item-info")


@dataclass(frozen=True)
class AuthorsOptions:
    """Prepared files of the DIEN authors' program, with their split."""

    folder: Path
    """Folder with local_train_splitByUser, local_test_splitByUser, uid_voc.pkl, mid_voc.pkl,
    cat_voc.pkl and item-info, each plain or gzip (.gz)."""
    out: Path
    """Dataset folder to create. It must not exist."""
    valid_share: BelowOne = 0.1
    """Share of the training users held out for validation."""
    seed: LargeCount = 0
    """Random seed."""
    every_event: bool = False
    """Also train on every earlier event of the training users' histories, from the second on, each
    with a negative, sampled by popularity, that the user had not chosen before. The files have only
    the last event of each user as an example. Validation and test are always as in the files."""
    max_bad_share: Share = 0.001
    """Largest share of malformed lines that is tolerated. Malformed lines are skipped."""

    def __post_init__(self) -> None:
        convert_fields(self)


def prepare(options: AuthorsOptions) -> list[str]:
    """Read the files and write the dataset folder ``options.out``.

    Items and categories keep their indices; those that the vocabularies lack become unknown. Events
    have no times, so an event's timestamp is its position in its history. Lines with the same user
    and history share a sequence. GAUC groups are raw user ids.
    """
    if not options.folder.is_dir():
        raise UserError(f"{options.folder}: expected the folder that holds {', '.join(FILES)}")
    check_target(options.out)
    files = {name: plain_or_gzip(options.folder, name) for name in FILES}
    user_index = read_vocabulary(files["uid_voc.pkl"])
    item_index = read_vocabulary(files["mid_voc.pkl"], "default_mid")
    category_index = read_vocabulary(files["cat_voc.pkl"], "default_cat")
    bad = BadLines()
    category = _read_item_info(files["item-info"], item_index, category_index, bad)
    log = _Log(item_index)
    train, share = log.read(files[TRAIN_FILE], bad), options.valid_share
    sides = user_sides(len(log.groups), valid_share=share, test_share=0.0, seed=options.seed)
    is_valid = sides[train.group] == VALID
    splits = {
        "train": train.take(np.flatnonzero(~is_valid)),
        "valid": train.take(np.flatnonzero(is_valid)),
        "test": log.read(files[TEST_FILE], bad),
    }
    warnings = bad.check(bad.read, options.max_bad_share)
    events, offsets = np.array(log.events, np.int32), np.array(log.offsets, np.int64)
    # Each training history counts once, and so does each training positive.
    train = splits["train"]
    in_training = np.isin(np.arange(len(offsets) - 1), train.sequence)
    of_training = events[np.repeat(in_training, np.diff(offsets))]
    seen = np.concatenate([of_training, train.item[train.label == 1]])
    popularity = np.bincount(seen, minlength=len(item_index))
    position = np.arange(len(events)) - np.repeat(offsets[:-1], np.diff(offsets))
    if options.every_event:
        earlier = _earlier_events(train, events, offsets, seen, options.seed)
        columns = zip(train[:6], earlier[:6], strict=True)
        splits["train"] = Examples._make([*map(np.concatenate, columns), {}])
    for name, split in ((TRAIN_FILE, "train"), (TEST_FILE, "test")):
        if not len(splits[split].label):
            raise UserError(f"{files[name]}: no examples are left for the {split} split")
    groups = list(log.groups)
    trained = {groups[group] for group in np.flatnonzero(sides != VALID)}
    users = ["", *(user for user in _by_index(user_index) if user in trained)]
    row_of = {users[row]: row for row in range(1, len(users))}
    group_user = np.array([row_of.get(user, UNKNOWN) for user in groups], np.int32)
    texts = {"item": _by_index(item_index), "category": _by_index(category_index), "user": users}
    item, kind, user = (Feature(n, "categorical", size=len(v)) for n, v in texts.items())
    settings = ("seed", "valid_share", "every_event")
    with DatasetWriter(
        options.out,
        schema=Schema(item=(item, kind), user=(user,)),
        source={"name": "authors", "files": {file.name: sha256(file) for file in files.values()}},
        split={"policy": "by-user"} | {name: getattr(options, name) for name in settings},
    ) as writer:
        for name, vocabulary in texts.items():
            writer.vocabulary(name, vocabulary)
        writer.groups(groups)
        writer.items("category", category)
        writer.events(events, position, offsets)
        writer.popularity(popularity)
        for name, examples in splits.items():
            writer.examples(name, examples._replace(user=group_user[examples.group]))
    numbers = (
        f"{len(rows.label):,} examples of {len(np.unique(rows.group)):,} users for {split}"
        for split, rows in splits.items()
    )
    histories = f"{len(events):,} events in {len(offsets) - 1:,} histories"
    return [f"{', '.join(numbers)}; {histories}", *warnings]


def read_vocabulary(file: Path, unknown: str | None = None) -> dict[str, int]:
    """Read a pickled dict of strings to the numbers 0 to n-1, plain or gzip, of any protocol.

    Nothing in the file is ever imported or called. ``unknown``, if given, must be the unknown row.
    """
    expected = f"{file}: expected a pickled dict of strings to the numbers 0 to n-1"
    with failing(expected), reading(file), open_bytes(file) as stream:
        content = io.BytesIO(stream.read())
        index = _PlainUnpickler(content, encoding="utf-8", errors="surrogateescape").load()
    if type(index) is not dict:
        raise UserError(f"{expected}, found {type(index).__name__}")
    keys, values = ({type(entry).__name__ for entry in part} for part in (index, index.values()))
    if (keys, values) != ({"str"}, {"int"}) or set(index.values()) != set(range(len(index))):
        kinds = f"{', '.join(sorted(keys))} to {', '.join(sorted(values))}"
        raise UserError(f"{expected}, found {len(index)} entries of {kinds}")
    if unknown is not None and index.get(unknown) != UNKNOWN:
        first = _by_index(index)[0]
        raise UserError(f"{file}: expected index {UNKNOWN} to be {unknown!r}, found {first!r}")
    return index


class _PlainUnpickler(pickle.Unpickler):
    """Unpickler of strings, numbers and containers that refuses references to code."""

    def find_class(self, module_name: str, global_name: str) -> NoReturn:
        asked = f"it asks for {module_name}.{global_name}"
        raise pickle.UnpicklingError(f"{asked}, and code in a data file is never run")


class _Log:
    """Content of the two logs, which share histories, users and vocabularies."""

    def __init__(self, item_index: dict[str, int]) -> None:
        self._item_index = item_index
        self._sequences: dict[tuple[int, str], int] = {}
        self.groups: dict[str, int] = {}  # index of each raw user id, by first appearance
        self.events = array("i")  # item of each event
        self.offsets = array("q", [0])  # start of each history, and the end of the last one

    def read(self, file: Path, bad: BadLines) -> Examples:
        """Read the examples of one log; a user is its group."""
        columns = {name: array("i") for name in ("sequence", "group", "item", "label")}
        for number, line in read_lines(file, bad):
            fields = line.split("\t")
            if len(fields) != 6:
                bad.add(file, number, f"expected 6 fields, found {len(fields)}")
                continue
            label, user, item, _, *joined = fields
            items, kinds = (text.split(SEPARATOR) if text else [] for text in joined)
            if label not in ("0", "1"):
                bad.add(file, number, f"expected the label 0 or 1, found {label[:20]!r}")
            elif len(items) != len(kinds):
                bad.add(file, number, f"history of {len(items)} items but {len(kinds)} categories")
            else:
                group = self.groups.setdefault(user, len(self.groups))
                sequence = self._sequences.setdefault((group, joined[0]), len(self._sequences))
                if sequence == len(self.offsets) - 1:  # a new history
                    self.events.extend(self._item_index.get(event, UNKNOWN) for event in items)
                    self.offsets.append(len(self.events))
                columns["sequence"].append(sequence)
                columns["group"].append(group)
                columns["item"].append(self._item_index.get(item, UNKNOWN))
                columns["label"].append(label == "1")
        arrays = {name: np.array(values, np.int32) for name, values in columns.items()}
        ends = np.array(self.offsets)[arrays["sequence"] + 1]
        return Examples(history_end=ends, user=arrays["group"], columns={}, **arrays)


def _by_index(index: dict[str, int]) -> list[str]:
    return sorted(index, key=index.__getitem__)


def _read_item_info(
    file: Path, item_index: dict[str, int], category_index: dict[str, int], bad: BadLines
) -> np.ndarray:
    """Read the category of each item, int32 ``[items]``; the last line of an item counts."""
    category = np.full(len(item_index), UNKNOWN, np.int32)
    for number, line in read_lines(file, bad):
        fields = line.split("\t")
        if len(fields) != 2:
            bad.add(file, number, f"expected 2 fields, found {len(fields)}")
        elif fields[0] in item_index:
            category[item_index[fields[0]]] = category_index.get(fields[1], UNKNOWN)
    return category


def _earlier_events(
    train: Examples, events: np.ndarray, offsets: np.ndarray, seen: np.ndarray, seed: int
) -> Examples:
    """Return two examples for each event of a training history that has an event before it.

    One is the event itself. The other is a negative, sampled by popularity from ``seen``, the items
    of all training events.
    """
    sequences, first = np.unique(train.sequence, return_index=True)
    counts = np.maximum(offsets[sequences + 1] - offsets[sequences] - 1, 0)
    sequence, group = (np.repeat(part, counts) for part in (sequences, train.group[first]))
    within = np.arange(len(sequence)) - np.repeat(np.cumsum(counts) - counts, counts)
    position = offsets[sequence] + 1 + within
    drawn_from = seen[seen != UNKNOWN]
    num_items = 1 + int(max(seen.max(initial=0), events.max(initial=0)))
    part = EventPart(0, 0, events, np.zeros(len(events), int), None, offsets)
    choices = np.full(len(position), len(drawn_from))  # all of them: the files have no times
    sampler = NegativeSampler(part, num_items)
    drawn = sampler.draw(position, drawn_from, choices, count=1, seed=(seed,))[:, 0]
    sampled = np.flatnonzero(drawn != NONE)
    both = np.concatenate([np.arange(len(sequence)), sampled])
    item = np.concatenate([events[position], drawn[sampled]])
    label = np.repeat([1, 0], [len(sequence), len(sampled)]).astype(np.int32)
    return Examples(sequence[both], position[both], group[both], group[both], item, label)

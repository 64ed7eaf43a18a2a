"""The prepared files of the program that the authors of DIEN published with their paper.

That program writes and reads one folder:

    local_{train,test}_splitByUser    label, user, item, category, items, categories
    {uid,mid,cat}_voc.pkl             pickled dict of raw value to index
    item-info                         item, category

Fields are separated by tabs; items and categories of a history, oldest first, by the character
U+0002. A user has two lines: the real last item with label 1 and a sampled one with label 0.
Indices 0 of items and categories stand for what is unknown. Index 0 of users is a training user,
and the program gives that row to every user without an index, all test users among them.

Zhou et al., "Deep Interest Evolution Network for Click-Through Rate Prediction", AAAI 2019.
"""

import io
import pickle
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from dien_jax.data.schema import UNKNOWN, Feature, Schema
from dien_jax.data.writer import DatasetWriter, check_target
from dien_jax.errors import UserError
from dien_jax.preparation.options import check_shares
from dien_jax.preparation.pipeline.splits import VALID, user_sides
from dien_jax.preparation.pipeline.target_negatives import draw_negatives
from dien_jax.utils.text_files import BadLines, open_bytes, read_lines, sha256

SEPARATOR = "\x02"
"""Between the items, and between the categories, of a history."""
TRAIN_FILE, TEST_FILE = "local_train_splitByUser", "local_test_splitByUser"
FILES = (TRAIN_FILE, TEST_FILE, "uid_voc.pkl", "mid_voc.pkl", "cat_voc.pkl", "item-info")


@dataclass(frozen=True)
class AuthorsOptions:
    """The prepared files of the DIEN authors' program, split as they are."""

    folder: Path
    """Folder with local_train_splitByUser, local_test_splitByUser, uid_voc.pkl, mid_voc.pkl,
    cat_voc.pkl and item-info, each plain or with .gz at the end of its name."""
    out: Path
    """Dataset folder to make; must not exist."""
    valid_share: float = 0.1
    """Share of the training users that is set aside for validation."""
    seed: int = 0
    """Which training users are set aside."""
    keep_indices: bool = False
    """Keep the users' own indices, for exact reproduction: users without an index then share row 0
    with a training user, and users set aside for validation have rows that nothing trains.
    Otherwise all of them share an unknown row of their own."""
    every_event: bool = False
    """Train on every event of the training users' histories from the second on, each with a
    negative drawn by popularity, beside the files' own lines, which know a user's last event only.
    Validation and test stay the files' own lines."""
    max_bad_share: float = 0.001
    """Malformed lines are left out; a larger share of them is an error."""

    def __post_init__(self) -> None:
        check_shares(self.valid_share, 0.0)
        if not 0 <= self.max_bad_share <= 1:
            raise UserError(f"--max-bad-share must be from 0 to 1, got {self.max_bad_share}")


def prepare(options: AuthorsOptions) -> list[str]:
    """Reads the files and writes the dataset folder ``options.out``.

    Items and categories keep their indices; one that the vocabularies lack becomes the unknown
    one. Events have no clock, so an event's timestamp is its position in its history. Lines of
    one user with one history share it. GAUC groups are raw user ids.

    Returns:
      Lines of text for the user: what was read, and what was odd about it.

    Raises:
      UserError: when a file is missing, empty, cut off or rubbish, a pickle holds anything but a
        dict of strings to the numbers 0 to n-1, too many lines are malformed, an option makes no
        sense, or the folder cannot be written.
    """
    if not options.folder.is_dir():
        raise UserError(f"{options.folder}: expected the folder that holds {', '.join(FILES)}")
    check_target(options.out)
    files = {name: _find(options.folder, name) for name in FILES}
    user_index = read_vocabulary(files["uid_voc.pkl"])
    item_index = _with_unknown(files["mid_voc.pkl"], "default_mid")
    category_index = _with_unknown(files["cat_voc.pkl"], "default_cat")
    bad = BadLines()
    category = _read_item_info(files["item-info"], item_index, category_index, bad)
    log = _Log(item_index, category_index)
    train = log.read(files[TRAIN_FILE], bad)
    sides = user_sides(
        len(log.groups), valid_share=options.valid_share, test_share=0.0, seed=options.seed
    )
    is_valid = sides[train["group"]] == VALID
    splits = {
        "train": {name: values[~is_valid] for name, values in train.items()},
        "valid": {name: values[is_valid] for name, values in train.items()},
        "test": log.read(files[TEST_FILE], bad),
    }
    warnings = bad.check(bad.read, options.max_bad_share)
    events, offsets = np.array(log.events, np.int32), np.array(log.offsets, np.int64)
    popularity = _popularity(splits["train"], events, offsets, len(item_index))
    for rows in splits.values():
        rows["history_end"] = offsets[rows["sequence"] + 1]
    if options.every_event:
        earlier = _earlier_events(splits["train"], events, offsets, popularity, options.seed)
        splits["train"] = {
            name: np.concatenate([values, earlier[name]])
            for name, values in splits["train"].items()
        }
    for name, split in ((TRAIN_FILE, "train"), (TEST_FILE, "test")):
        if not len(splits[split]["label"]):
            raise UserError(f"{files[name]}: no examples are left for the {split} split")

    groups = list(log.groups)
    users = _by_index(user_index)
    if not options.keep_indices:
        trained = {groups[group] for group in np.flatnonzero(sides != VALID)}
        users = ["", *(user for user in users if user in trained)]
        user_index = {users[row]: row for row in range(1, len(users))}
    group_user = np.array([user_index.get(user, UNKNOWN) for user in groups], np.int32)
    schema = Schema(
        item=(
            Feature("item", "categorical", size=len(item_index)),
            Feature("category", "categorical", size=len(category_index)),
        ),
        user=(Feature("user", "categorical", size=len(users)),),
    )
    hashes = {file.name: sha256(file) for file in files.values()}
    policy = {
        "policy": "by-user",
        "seed": options.seed,
        "valid_share": options.valid_share,
        "keep_indices": options.keep_indices,
        "every_event": options.every_event,
    }
    source = {"name": "authors", "files": hashes}
    with DatasetWriter(options.out, schema=schema, source=source, split=policy) as writer:
        writer.vocabulary("item", _by_index(item_index))
        writer.vocabulary("category", _by_index(category_index))
        writer.vocabulary("user", users)
        writer.groups(groups)
        writer.items("category", category)
        writer.events(events, np.arange(len(events)) - _starts(offsets), offsets)
        writer.popularity(popularity)
        for name, rows in splits.items():
            writer.examples(
                name,
                sequence=rows["sequence"],
                history_end=rows["history_end"],
                user=group_user[rows["group"]],
                group=rows["group"],
                item=rows["item"],
                label=rows["label"],
            )
    return [*_counts(splits, log), *_oddities(splits, log, category), *warnings]


def read_vocabulary(file: Path) -> dict[str, int]:
    """The dict of strings to the numbers 0 to n-1 that a pickle holds, plain or gzip.

    Pickles of any protocol, those written by Python 2 among them. Nothing in the file is ever
    imported or called.

    Raises:
      UserError: when the file cannot be read or holds anything else.
    """
    try:
        with open_bytes(file) as stream:
            whole = io.BytesIO(stream.read())
        found = _PlainUnpickler(whole, encoding="utf-8", errors="surrogateescape").load()
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a damaged pickle raises every kind of exception
        raise UserError(
            f"{file}: expected a pickled dict of strings to whole numbers: {error}"
        ) from error
    if type(found) is not dict or not found:
        raise UserError(
            f"{file}: expected a pickled dict of strings to whole numbers, "
            f"found {'an empty dict' if found == {} else type(found).__name__}"
        )
    for key, value in found.items():
        if type(key) is not str or type(value) is not int:
            raise UserError(
                f"{file}: expected a pickled dict of strings to whole numbers, "
                f"found an entry of {type(key).__name__} to {type(value).__name__}"
            )
    if set(found.values()) != set(range(len(found))):
        raise UserError(
            f"{file}: expected each of the numbers 0 to {len(found) - 1} once in its "
            f"{len(found)} entries"
        )
    return found


class _PlainUnpickler(pickle.Unpickler):
    """Builds strings, numbers and containers; refuses everything that names code."""

    def find_class(self, module_name: str, global_name: str) -> NoReturn:
        raise pickle.UnpicklingError(
            f"it asks for {module_name}.{global_name}, and code in a data file is never run"
        )


class _Log:
    """What was read of the two logs, which share histories, users and vocabularies.

    Attributes:
      groups: index of each raw user id, in order of first appearance.
      events: item of each event.
      event_category: its category, as the log gives it.
      offsets: where each history begins, and the last one ends.
    """

    def __init__(self, item_index: dict[str, int], category_index: dict[str, int]) -> None:
        self._item_index = item_index
        self._category_index = category_index
        self._sequences: dict[tuple[int, str], int] = {}
        self.groups: dict[str, int] = {}
        self.events = array("i")
        self.event_category = array("i")
        self.offsets = array("q", [0])

    def read(self, file: Path, bad: BadLines) -> dict[str, np.ndarray]:
        """The columns of one log: ``sequence``, ``group``, ``item`` and ``label``, int32."""
        columns = {name: array("i") for name in ("sequence", "group", "item", "label")}
        for number, line in read_lines(file, bad):
            fields = line.split("\t")
            if len(fields) != 6:
                bad.add(file, number, f"expected 6 fields, found {len(fields)}")
                continue
            label, user, item, _, history, categories = fields
            if label not in ("0", "1"):
                bad.add(file, number, f"expected the label 0 or 1, found {label[:20]!r}")
                continue
            events, kinds = _length(history), _length(categories)
            if events != kinds:
                bad.add(file, number, f"history of {events} items but {kinds} categories")
                continue
            group = self.groups.setdefault(user, len(self.groups))
            sequence = self._sequences.get((group, history))
            if sequence is None:
                sequence = self._add_sequence(group, history, categories)
            columns["sequence"].append(sequence)
            columns["group"].append(group)
            columns["item"].append(self._item_index.get(item, UNKNOWN))
            columns["label"].append(label == "1")
        return {name: np.array(values, np.int32) for name, values in columns.items()}

    def _add_sequence(self, group: int, history: str, categories: str) -> int:
        sequence = self._sequences[group, history] = len(self._sequences)
        if history:
            items, kinds = self._item_index, self._category_index
            self.events.extend(items.get(item, UNKNOWN) for item in history.split(SEPARATOR))
            self.event_category.extend(
                kinds.get(kind, UNKNOWN) for kind in categories.split(SEPARATOR)
            )
        self.offsets.append(len(self.events))
        return sequence


def _length(joined: str) -> int:
    return joined.count(SEPARATOR) + 1 if joined else 0


def _find(folder: Path, name: str) -> Path:
    for file in (folder / name, folder / f"{name}.gz"):
        if file.is_file():
            return file
    raise UserError(f"{folder} has neither {name} nor {name}.gz")


def _with_unknown(file: Path, unknown: str) -> dict[str, int]:
    index = read_vocabulary(file)
    if index.get(unknown) != UNKNOWN:
        raise UserError(
            f"{file}: expected index {UNKNOWN} to be {unknown!r}, found {_by_index(index)[0]!r}"
        )
    return index


def _by_index(index: dict[str, int]) -> list[str]:
    return sorted(index, key=index.__getitem__)


def _read_item_info(
    file: Path, item_index: dict[str, int], category_index: dict[str, int], bad: BadLines
) -> np.ndarray:
    """The category of each item, int32 ``[items]``; the last line of an item counts."""
    category = np.full(len(item_index), UNKNOWN, np.int32)
    for number, line in read_lines(file, bad):
        fields = line.split("\t")
        if len(fields) != 2:
            bad.add(file, number, f"expected 2 fields, found {len(fields)}")
        elif fields[0] in item_index:
            category[item_index[fields[0]]] = category_index.get(fields[1], UNKNOWN)
    return category


def _starts(offsets: np.ndarray) -> np.ndarray:
    """For each event the first one of its sequence."""
    return np.repeat(offsets[:-1], np.diff(offsets))


def _popularity(
    train: dict[str, np.ndarray], events: np.ndarray, offsets: np.ndarray, num_items: int
) -> np.ndarray:
    """Events of each item in training histories, each history once, and training positives."""
    is_trained = np.zeros(len(offsets) - 1, bool)
    is_trained[train["sequence"]] = True
    in_history = events[np.repeat(is_trained, np.diff(offsets))]
    positives = train["item"][train["label"] == 1]
    return np.bincount(np.concatenate([in_history, positives]), minlength=num_items)


def _earlier_events(
    train: dict[str, np.ndarray],
    events: np.ndarray,
    offsets: np.ndarray,
    popularity: np.ndarray,
    seed: int,
) -> dict[str, np.ndarray]:
    """Columns of two examples for each event of a training history that has an event before it.

    The event itself with label 1, and with label 0 an item that its user did not choose, drawn
    by popularity. Their history is what came before the event.
    """
    sequences, first = np.unique(train["sequence"], return_index=True)
    counts = np.maximum(offsets[sequences + 1] - offsets[sequences] - 1, 0)
    sequence = np.repeat(sequences, counts)
    group = np.repeat(train["group"][first], counts)
    within = np.arange(len(sequence)) - np.repeat(np.cumsum(counts) - counts, counts)
    position = offsets[sequence] + 1 + within
    negatives = draw_negatives(
        sequence,
        events[position],
        event_item=events,
        offsets=offsets,
        popularity=popularity,
        count=1,
        distribution="popularity",
        allow_own=False,
        seed=(seed,),
    )
    both = np.concatenate([np.arange(len(sequence)), negatives.positive])
    return {
        "sequence": sequence[both],
        "group": group[both],
        "item": np.concatenate([events[position], negatives.item]),
        "label": np.repeat([1, 0], [len(sequence), len(negatives.item)]).astype(np.int32),
        "history_end": position[both],
    }


def _counts(splits: dict[str, dict[str, np.ndarray]], log: _Log) -> list[str]:
    counts = (
        f"{len(rows['label']):,} examples of {len(np.unique(rows['group'])):,} users for {split}"
        for split, rows in splits.items()
    )
    return [
        f"{', '.join(counts)}; {len(log.events):,} events in {len(log.offsets) - 1:,} histories"
    ]


def _oddities(
    splits: dict[str, dict[str, np.ndarray]], log: _Log, category: np.ndarray
) -> list[str]:
    """What the program that wrote the files would not have done."""
    events = np.array(log.events, np.int32)
    known = events != UNKNOWN
    candidates = np.concatenate([rows["item"] for rows in splits.values()])
    seen = [set(splits[split]["group"].tolist()) for split in ("train", "test")]
    found = {
        "events of an item that mid_voc.pkl lacks": (~known).sum(),
        "examples of an item that mid_voc.pkl lacks": (candidates == UNKNOWN).sum(),
        "events of another category than the item's in item-info": (
            known & (np.array(log.event_category, np.int32) != category[events])
        ).sum(),
        "test users with training examples": len(seen[0] & seen[1]),
    }
    return [f"warning: {count:,} {what}" for what, count in found.items() if count]

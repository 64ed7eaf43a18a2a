"""Small logs: of interactions, and with every kind of column."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dien_jax.data.dataset import Dataset, open_dataset
from dien_jax.errors import UserError
from dien_jax.preparation.sources import impressions
from dien_jax.preparation.sources.interactions import InteractionsOptions, prepare

HEADER = "user,item,category,timestamp\n"
LOG = HEADER + "".join(
    f"{user},i{(7 * number + shift) % 11},c{(7 * number + shift) % 11 % 3},{100 + number}\n"
    for shift, user in enumerate(["ann", "bob", "cat", "dan"])
    for number in range(6)
)
SPLITS = {
    "last-event": {"split": "last-event"},
    "by-user": {"split": "by-user", "valid_share": 0.2, "test_share": 0.2, "max_examples": 2},
    "by-time": {"split": "by-time", "valid_share": 0.2, "test_share": 0.2},
    "train-from": {"split": "by-time", "train_from": "20", "valid_from": "60", "test_from": "80"},
}


def write(tmp_path: Path, content: str | bytes, name: str = "log.csv") -> Path:
    file = tmp_path / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def events_of(dataset: Dataset) -> dict[str, list[str]]:
    """Raw items of every raw user, in order."""
    items = dataset.vocabulary("item")
    return {
        user: [items[k] for k in dataset.event_item[start:end]]
        for user, (start, end) in zip(
            dataset.groups(), pairwise(dataset.event_offsets), strict=True
        )
    }


def values_of(dataset: Dataset, group: str, name: str) -> dict[str, str | list[str]]:
    """Raw values of a feature of ``items`` or ``users`` by raw id, lists of multi-valued ones."""
    (values, offsets), names = getattr(dataset, group)[name], dataset.vocabulary(name)
    texts = [names[value] for value in values]
    if offsets is not None:
        texts = [texts[start:end] for start, end in pairwise(offsets)]
    raws = dataset.vocabulary(group.removesuffix("s"))
    return {raw: text for raw, text in zip(raws, texts, strict=True) if raw}


def opened(prepare, options) -> tuple[Dataset, list[str]]:
    """The dataset that a source makes, and the summary."""
    summary = prepare(options)
    return open_dataset(options.out), summary


def options(file: Path, **changes) -> InteractionsOptions:
    return InteractionsOptions(
        **{"file": file, "out": file.parent / "data", "item_features": ("category",), **changes}
    )


def make(file: Path, **changes):
    return opened(prepare, options(file, **changes))


def refused(file: Path, match: str, **changes) -> None:
    """Preparing fails with the message and leaves nothing behind."""
    before = {path.name for path in file.parent.iterdir()}
    with pytest.raises(UserError, match=match):
        prepare(options(file, **changes))
    assert {path.name for path in file.parent.iterdir()} == before


def log_of(path: Path) -> Path:
    """Write a log with ties, users of one event, one long history, lists and missing numbers.

    Its rows are in no order, and all have one weight.
    """
    random = np.random.default_rng(0)
    header = "user,item,kind,tags,price,slot,mood,timestamp,label,weight,device,seen,stay"
    lines = list[str]()
    for user in range(30):
        count = 60 if user == 7 else int(random.integers(1, 9))
        for time in random.integers(0, 100, count):
            item = int(random.zipf(1.5)) % 40
            tags = "|".join(f"t{tag}" for tag in random.integers(0, 9, random.integers(0, 6)))
            price = "" if (share := random.random()) < 0.1 else "NaN"
            price = price if share < 0.2 else f"{random.normal():.3f}"
            slot = "|".join(f"s{slot}" for slot in random.integers(0, 5, random.integers(0, 4)))
            fields = (f"u{user}", f"i{item}", f"k{item % 5}", tags, price, slot, f"m{time % 3}")
            label, parts = str(int(random.random() < 0.4)), (f"p{part}" for part in range(time % 4))
            of_event = f"d{(time + user) % 5}", "|".join(parts), str(time % 7 or "")
            lines.append(",".join((*fields, str(time), label, "2.5", *of_event)))
    return write(path, "\n".join([header, *random.permutation(lines), ""]))


PREPARE = {"interactions": prepare, "impressions": impressions.prepare}


def of_every_column(kind: str, file: Path, out: Path, **settings: Any) -> Any:
    """The options that prepare a log such as that of :func:`log_of` with all its columns."""
    item: tuple[str, ...] = ("kind:categorical", "tags:multivalued")
    settings["event_features"] = ("device:categorical", "seen:multivalued", "stay:numeric")
    if kind == "impressions":
        settings.pop("max_examples", None)
        context = ("slot:multivalued", "price:numeric", "mood:categorical", "weight:numeric")
        settings |= {"item_features": item, "request_features": context}
        return impressions.ImpressionsOptions(file=file, out=out, **settings)
    user = ("mood:categorical", "weight:numeric")
    settings |= {"item_features": (*item, "price:numeric"), "user_features": user}
    return InteractionsOptions(file=file, out=out, negatives=2, **settings)


def old_and_new(path: Path) -> list[Path]:
    """Two logs that share some rows of that of :func:`log_of`."""
    lines = log_of(path).read_text().splitlines()
    parts = {"old.csv": lines[1:90], "new.csv": lines[60:]}
    return [write(path, "\n".join([lines[0], *rows, ""]), name) for name, rows in parts.items()]

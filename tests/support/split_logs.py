"""A log with every kind of column, and the ways of splitting it."""

from pathlib import Path

import numpy as np

from support.tiny_logs import write

SPLITS = {
    "last-event": {"split": "last-event"},
    "by-user": {"split": "by-user", "valid_share": 0.2, "test_share": 0.2, "max_examples": 2},
    "by-time": {"split": "by-time", "valid_share": 0.2, "test_share": 0.2},
    "train-from": {"split": "by-time", "train_from": "20", "valid_from": "60", "test_from": "80"},
}


def log_of(path: Path, *, users: int = 30, label: bool = False) -> Path:
    """Write a log with ties, users of one event, one long history, lists and missing numbers."""
    random = np.random.default_rng(0)
    lines = ["user,item,kind,tags,price,slot,mood,timestamp,label"]
    for user in range(users):
        count = 60 if user == 7 else int(random.integers(1, 9))
        for time in np.sort(random.integers(0, 100, count)):
            item = int(random.zipf(1.5)) % 40
            tags = "|".join(f"t{tag}" for tag in random.integers(0, 9, random.integers(0, 6)))
            price = "" if random.random() < 0.2 else f"{random.normal():.3f}"
            slot = "|".join(f"s{slot}" for slot in random.integers(0, 5, random.integers(0, 4)))
            fields = (f"u{user}", f"i{item}", f"k{item % 5}", tags, price, slot, f"m{time % 3}")
            lines.append(",".join((*fields, str(time), str(int(random.random() < 0.4)))))
    return write(path, "\n".join(lines) + "\n")

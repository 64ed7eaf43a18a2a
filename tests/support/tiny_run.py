"""A tiny dataset and the flags of a tiny model, for tests that train."""

import json
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np

from dien_jax.data.columns import Column, Examples
from dien_jax.data.schema import Feature, Schema
from dien_jax.preparation.writer import DatasetWriter
from dien_jax.runs.checkpoints import Checkpoints, restored
from dien_jax.runs.folder import Run
from dien_jax.steps import rows
from dien_jax.steps.placement import OneDevice
from dien_jax.steps.state import TrainState, create_state

SIZES = {"train": 64, "valid": 24, "test": 20}
USERS = 30
ITEMS = 12
SCHEMA = Schema(
    item=(
        Feature("item", "categorical", size=ITEMS),
        Feature("category", "categorical", size=4),
    ),
    user=(Feature("user", "categorical", size=USERS + 1),),
)
STEPS_PER_EPOCH = 4
EPOCHS = 3
SETTINGS = (
    "--model.embedding-size=4",
    "--model.hidden-size=4",
    "--model.layers=8",
    "--model.no-statistics",
    "--train.batch-size=16",
    f"--train.epochs={EPOCHS}",
    "--train.patience=0",
    "--train.log-every=2",
    "--train.max-history=8",
    "--train.buckets=8",
    "--optim.learning-rate=0.02",
)
"""Four steps an epoch, all of one shape; without statistics, which take long to compile."""
LIGHT = (
    "--model.extractor=none",
    "--model.evolution=none",
    "--model.auxiliary-weight=0",
    "--model.dropout=0.1",
)
"""For tests of what no model has a part in: no recurrence, and dropout for a step's draws."""


def write_data(
    path: Path, *, sizes: dict[str, int] | None = None, shown: bool = False, **labels: int
) -> Path:
    """Users who click items of one category; ``valid=1`` gives a split that label alone.

    ``shown`` tells up to three items shown and not clicked at each event but every fourth.
    """
    random = np.random.default_rng(0)
    lengths = random.integers(1, 9, USERS)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    category = np.arange(ITEMS) % 4
    liked = random.integers(0, 4, USERS)
    pool = [np.flatnonzero(category[1:] == one) + 1 for one in range(4)]
    events = np.concatenate(
        [random.choice(pool[liked[user]], lengths[user]) for user in range(USERS)]
    )
    with DatasetWriter(
        path, schema=SCHEMA, source={"name": "tiny", "files": {}}, split={"policy": "by-user"}
    ) as writer:
        writer.vocabulary("item", ["", 'a "quoted", item', *(f"i{k}" for k in range(2, ITEMS))])
        writer.vocabulary("category", ["", "x", "y", "z"])
        writer.vocabulary("user", ["", *(f"u{k}" for k in range(USERS))])
        writer.groups([f"u{k}" for k in range(USERS)])
        writer.items("category", category)
        counts = np.arange(len(events)) % 4
        negatives = Column(
            np.arange(counts.sum()) % (ITEMS - 1) + 1, np.concatenate([[0], np.cumsum(counts)])
        )
        writer.events(
            item=events,
            timestamp=np.arange(len(events)),
            offsets=offsets,
            negatives=negatives if shown else None,
        )
        writer.popularity(np.bincount(events, minlength=ITEMS))
        for split, count in (SIZES if sizes is None else sizes).items():
            user = random.integers(0, USERS, count)
            item = random.integers(1, ITEMS, count)
            label = (category[item] == liked[user]) ^ (random.random(count) < 0.2)
            if split in labels:
                label[:] = labels[split]
            examples = Examples(
                sequence=user,
                history_end=offsets[user + 1],
                user=user + 1 if split == "train" else np.zeros(count, np.int64),
                group=user,
                item=item,
                label=label.astype(np.int64),
            )
            writer.examples(split, examples)
    return path


def flags(data: Path, folder: Path) -> list[str]:
    """A whole command line."""
    return ["--data", str(data), "--run-dir", str(folder), *SETTINGS]


def light_flags(data: Path, folder: Path) -> list[str]:
    """A whole command line of a model without recurrence."""
    return [*flags(data, folder), *LIGHT]


def saved_states(
    folder: Path, dense_rows: int | None = None
) -> dict[str, tuple[int, TrainState, dict[str, Any]]]:
    """The latest and the best checkpoint of a run folder: step, state and progress."""
    with mock.patch.object(rows, "DENSE_ROWS", dense_rows or rows.DENSE_ROWS):
        place = OneDevice(SCHEMA)
    run = Run.load(folder)
    like = create_state(run.config, SCHEMA, STEPS_PER_EPOCH, run.seed)
    checkpoints = Checkpoints(folder / "checkpoints", read_only=True)
    found = {}
    for name, step in (("latest", checkpoints.latest_step()), ("best", checkpoints.best_step())):
        assert step is not None
        found[name] = (step, *restored(checkpoints, step, like, place))
    return found


def bits(state: TrainState) -> list[bytes]:
    """Every array of a state, to the last bit."""
    state = state._replace(key=jax.random.key_data(state.key))
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


def evaluations(folder: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]

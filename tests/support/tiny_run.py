"""The tiny world, which trains: a dataset, the flags of a model, and batches without a folder."""

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dien_jax import train
from dien_jax.config.presets import member
from dien_jax.config.settings import Config, ModelConfig, OptimConfig, TrainConfig
from dien_jax.data.arrays import Examples
from dien_jax.data.dataset import Dataset, open_dataset
from dien_jax.data.schema import Feature, Schema
from dien_jax.data.tables import Batch, FeatureTables
from dien_jax.preparation.sources import impressions
from dien_jax.runs.calibration import CALIBRATION_FILE
from dien_jax.runs.checkpoints import Checkpoints, restored
from dien_jax.runs.folder import RESULT_FILE, Run
from dien_jax.steps.negatives import make_sampler
from dien_jax.steps.placement import OneDevice
from dien_jax.steps.state import Tables, TrainState, create_state
from dien_jax.utils.files import read_json
from support.small_dataset import once, write_folder

SIZES = {"train": 64, "valid": 24, "test": 20}
USERS = 30
ITEMS = 12
SCHEMA = Schema(
    item=(Feature("item", "categorical", size=ITEMS), Feature("category", "categorical", size=4)),
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


@once
def write_data(
    path: Path,
    *,
    sizes: dict[str, int] | None = None,
    longest: int = 8,
    rows: int = 0,
    **labels: int,
) -> Path:
    """Users who click items of one category; ``valid=1`` gives a split that label alone.

    Vocabularies have at least so many ``rows``, by values that occur nowhere.
    """
    random = np.random.default_rng(0)
    lengths = random.integers(1, longest + 1, USERS)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    category = np.arange(ITEMS) % 4
    liked = random.integers(0, 4, USERS)
    pool = [np.flatnonzero(category[1:] == one) + 1 for one in range(4)]
    events = np.concatenate(
        [random.choice(pool[liked[user]], lengths[user]) for user in range(USERS)]
    )
    splits = {}
    for split, count in (SIZES if sizes is None else sizes).items():
        user = random.integers(0, USERS, count)
        item = random.integers(1, ITEMS, count)
        label = (category[item] == liked[user]) ^ (random.random(count) < 0.2)
        if split in labels:
            label[:] = labels[split]
        splits[split] = Examples(
            sequence=user,
            history_end=offsets[user + 1],
            user=user + 1 if split == "train" else np.zeros(count, np.int64),
            group=user,
            item=item,
            label=label.astype(np.int64),
        )
    return write_events(path, events, offsets, splits, rows)


def write_events(
    path: Path, item: np.ndarray, offsets: np.ndarray, splits: dict[str, Examples], rows: int = 0
) -> Path:
    """Some events of the first users, and examples of them."""
    users = [f"u{k}" for k in range(USERS)]
    items = ["", 'a "quoted", item', *(f"i{k}" for k in range(2, ITEMS))]
    vocabularies = {"item": items, "category": ["", "x", "y", "z"], "user": ["", *users]}
    for values in vocabularies.values():
        values += [f"unused {k}" for k in range(len(values), rows)]
    return write_folder(
        path,
        schema_of(vocabularies),
        vocabularies,
        items={"category": (np.arange(len(items)) % 4,)},
        groups=users,
        events={"item": item, "timestamp": np.arange(len(item)), "offsets": offsets},
        popularity=np.bincount(item, minlength=len(items)),
        splits=splits,
    )


def schema_of(vocabularies: dict[str, list[str]]) -> Schema:
    """Ids and categories of items, and ids of users."""
    item, category, user = (
        Feature(name, "categorical", size=len(vocabularies[name]))
        for name in ("item", "category", "user")
    )
    return Schema((item, category), (user,))


def flags(data: Path, folder: Path) -> list[str]:
    return ["--data", str(data), "--run-dir", str(folder), *SETTINGS]


def light_flags(data: Path, folder: Path) -> list[str]:
    """A whole command line of a model without recurrence."""
    return [*flags(data, folder), *LIGHT]


def light_config(*more: str) -> Config:
    """The settings of such a command line."""
    arguments = train.parse([*SETTINGS, *LIGHT, *more])
    return Config(arguments.model, arguments.optim, arguments.train)


def saved_states(folder: Path) -> dict[str, tuple[int, TrainState, dict[str, Any]]]:
    """The latest and the best checkpoint of a run folder: step, state and progress."""
    run = Run.load(folder)
    schema = open_dataset(run.data).schema
    like: Any = jax.eval_shape(lambda: create_state(run.config, schema, STEPS_PER_EPOCH, run.seed))
    checkpoints = Checkpoints(folder / "checkpoints", read_only=True)
    steps = {"latest": checkpoints.latest_step(), "best": checkpoints.best_step()}
    return {
        name: (step, *restored(checkpoints, step, like, OneDevice(schema)))
        for name, step in steps.items()
        if step is not None
    }


def bits(tree: Any) -> list[bytes]:
    """Every array of a state, or of a part of one, to the last bit."""
    if isinstance(tree, TrainState):
        tree = tree._replace(key=jax.random.key_data(tree.key))
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def assert_same(folder: Path, other: Path, *apart_from: str) -> None:
    """Checkpoints, progress, evaluations, calibration and result agree to the last bit.

    How long things took, and the fields ``apart_from`` of the result, may differ.
    """
    ours, theirs = saved_states(folder), saved_states(other)
    assert ours.keys() == theirs.keys() == {"latest", "best"}
    for name, (step, state, progress) in theirs.items():
        assert ours[name][0] == step
        assert bits(ours[name][1]) == bits(state)
        for key, value in progress.items():
            assert key.endswith("seconds") or key.startswith("timed") or ours[name][2][key] == value
    assert evaluations(folder) == evaluations(other)
    written, expected_file = ((each / CALIBRATION_FILE).read_bytes() for each in (folder, other))
    assert written == expected_file
    result, expected = (read_json(each / RESULT_FILE, dict) for each in (folder, other))
    for each in (result, expected):
        assert each.pop("train_examples_per_second") > 0
        assert each.pop("wall_seconds") > 0
        for name in apart_from:
            del each[name]
    assert result == expected


def evaluations(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def train_on_impressions(
    folder: Path, *flags: str, rows: int, users: int, items: int, rates: Sequence[float], **how: Any
) -> Path:
    """A run on random impressions; the share of clicks of an item is that of its category."""
    random, lines = np.random.default_rng(0), ["user,item,category,label,timestamp"]
    for k in range(rows):
        item = int(random.integers(items))
        category = item % len(rates)
        click = int(random.random() < rates[category])
        lines.append(f"u{k % users},i{item},c{category},{click},{1000 + k}")
    log, data, run = folder / "log.csv", folder / "data", folder / "run"
    log.write_text("\n".join(lines))
    options = {"item_features": ("category",), "split": "by-time"} | how
    impressions.prepare(impressions.ImpressionsOptions(file=log, out=data, **options))
    assert train.main(["--data", str(data), "--run-dir", str(run), *flags]) == 0
    return run


NEW_ITEMS = {"n1": "y", "n2": "brand new"}
"""Items that only the grown folder has, and their categories."""
GONE = "i4"
"""An item that only the first folder has."""


def write_grown(path: Path, before: Dataset) -> Path:
    """The tiny data under vocabularies in another order, with some values more and one less."""
    rng = np.random.default_rng(1)
    vocabularies, rows = {}, {}
    more = {"item": list(NEW_ITEMS), "category": ["brand new"], "user": ["v1", "v2"]}
    for name, added in more.items():
        known = before.vocabulary(name)
        kept = [value for value in known[1:] if value != GONE]
        vocabularies[name] = ["", *rng.permutation([*kept, *added]).tolist()]
        places = {value: row for row, value in enumerate(vocabularies[name])}
        rows[name] = np.array([places.get(value, 0) for value in known])
    names = np.array(before.vocabulary("category"))[before.items["category"].values].tolist()
    categories = dict(zip(before.vocabulary("item"), names, strict=True)) | NEW_ITEMS
    places = {value: row for row, value in enumerate(vocabularies["category"])}
    popularity = np.zeros(len(vocabularies["item"]), np.int64)
    np.add.at(popularity, rows["item"], before.popularity)
    return write_folder(
        path,
        schema_of(vocabularies),
        vocabularies,
        items={"category": ([places[categories[item]] for item in vocabularies["item"]],)},
        groups=before.groups(),
        events={
            "item": rows["item"][before.event_item],
            "timestamp": before.event_timestamp,
            "offsets": before.event_offsets,
        },
        popularity=popularity,
        splits={
            split: examples._replace(
                user=rows["user"][examples.user], item=rows["item"][examples.item], columns={}
            )
            for split, examples in before.splits.items()
        },
    )


MODEL = ModelConfig(embedding_size=4, hidden_size=6, layers=(8,), statistics=False, dropout=0.0)
CONFIG = Config(MODEL, OptimConfig(learning_rate=0.01), TrainConfig(unknown_users=0.0))
LIGHT_CONFIG = dataclasses.replace(CONFIG, model=member("base_model", MODEL))
"""For what no recurrence and no auxiliary loss has a part in."""


def tables() -> Tables:
    category = jnp.arange(ITEMS, dtype=jnp.int32) % 4
    return Tables(FeatureTables({"category": category}, {}), make_sampler(np.ones(ITEMS)))


def batch_of(steps: int, size: int = 16, seed: int = 0) -> Batch:
    """A click is a candidate of the category of the last behaviour."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, steps + 1, size).astype(np.int32)
    live = np.arange(steps)[None] < lengths[:, None]
    history = np.where(live, rng.integers(1, ITEMS, (size, steps)), 0).astype(np.int32)
    item = rng.integers(1, ITEMS, size).astype(np.int32)
    last = history[np.arange(size), lengths - 1]
    item[::2] = last[::2]
    return Batch(
        history=history,
        lengths=lengths,
        item=item,
        user=np.zeros(size, np.int32),
        label=(item % 4 == last % 4).astype(np.float32),
        weight=np.ones(size, np.float32),
        columns={},
    )


def refused_by(main: Callable[..., int], arguments: list, capture: Any, status: int = 2) -> str:
    """What a command says when it refuses; nothing on standard output, no traceback."""
    capture.readouterr()
    assert main([str(argument) for argument in arguments]) == status
    output = capture.readouterr()
    assert output.out == ""
    assert "Traceback" not in output.err
    return output.err


refusal = functools.partial(refused_by, train.main)

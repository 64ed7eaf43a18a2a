"""Make the folder ``version_X_Y_Z``: what this version writes, and the scores that it computes.

    python tests/compatibility/make_release.py

Run it once for each release that writes what earlier ones could not, the first among them. The
folder must not exist.

    dataset/       ``dien_jax.prepare interactions`` of a made log
    run/           ``dien_jax.train dien``, finished, with all that is fitted before and after it
    stopped/       the same run, stopped by a signal in its last epoch
    model.dien     ``dien_jax.export`` of the run
    arrays.json    dtype, shape and sha256 of every array of the dataset and of the run's checkpoint
    scores.json    scores of the test split, and of candidates that a ranker was asked for

Everything is made in a folder of a fixed name in the system's folder for temporary files, as a run
holds the path of its dataset. TensorBoard events and pictures are left out.
"""

import contextlib
import csv
import hashlib
import itertools
import json
import random
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dien_jax import (
    Config,
    Dataset,
    Ranker,
    __version__,
    export,
    fit,
    load_run,
    open_dataset,
    train,
)
from dien_jax.errors import Interrupted
from dien_jax.preparation.sources import interactions
from dien_jax.runs.folder import Run
from dien_jax.runs.trained import restore_state, score_split

NAME = f"version_{__version__.replace('.', '_')}"
USERS, ITEMS = 80, 64
CATEGORIES = ["bread", "crème brûlée", "fruit", "soup"]
STOPPED_AFTER = 75
"""Times that a run is asked for a signal before it gets one, once a batch that is prepared."""
SETTINGS = [
    "--model.embedding-size=3",
    "--model.hidden-size=5",
    *("--model.layers", "8", "4"),
    "--train.batch-size=32",
    "--train.epochs=2",
    "--train.click-rate=0.05",
    "--optim.learning-rate=0.02",
    "--train.max-history=16",
    "--train.buckets=16",
]
REQUESTS: list[dict[str, Any]] = [
    {"history": ["item 1", "item 5", "item 9"], "candidates": ["item 2", "item 13", "item 60"]},
    {"history": [], "candidates": ["item 0", "item 7"], "user": "user 3"},
    {"history": [f"item {n}" for n in range(30)], "candidates": ["no such item", "item 31"]},
]
"""Arguments of :meth:`dien_jax.Ranker.rank`."""


def write_log(file: Path) -> None:
    """Write a log in which the last two categories decide the next, so that counts say little."""
    rng = random.Random("a log of interactions")
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["user", "item", "category", "price", "timestamp"])
        for user in range(USERS):
            before, last = rng.randrange(4), rng.randrange(4)
            for event in range(rng.randrange(4, 24)):
                follows = (before + last) % 4 if rng.random() < 0.9 else rng.randrange(4)
                before, last = last, follows
                item = 4 * rng.randrange(ITEMS // 4) + last
                price = "" if item % 7 == 2 else f"{1 + item % 10 / 4:.2f}"
                time = 1_700_000_000 + 3600 * (user + 24 * event)
                writer.writerow([f"user {user}", f"item {item}", CATEGORIES[last], price, time])


def dataset_arrays(dataset: Dataset) -> dict[str, Any]:
    splits = {name: examples._asdict() for name, examples in dataset.splits.items()}
    return {
        "events": (dataset.event_item, dataset.event_timestamp, dataset.event_offsets),
        "splits": {n: {c: v for c, v in s.items() if v is not None} for n, s in splits.items()},
        "own": dataset.statistics.own,
        "tables": dataset.feature_tables(statistics=True, folds=True),
        "popularity": dataset.popularity,
    }


def described(tree: Any) -> dict[str, dict[str, Any]]:
    """Return dtype, shape and sha256 of every array of a tree."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): {
            "dtype": str(np.asarray(leaf).dtype),
            "shape": list(np.shape(leaf)),
            "sha256": hashlib.sha256(np.ascontiguousarray(leaf).tobytes()).hexdigest(),
        }
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }


def opened(folder: Path) -> dict[str, Any]:
    """Return what ``arrays.json`` holds of a folder."""
    dataset, run = open_dataset(folder / "dataset"), folder / "run"
    _, state = restore_state(run, Run.load(run), dataset)
    state = state._replace(key=jax.random.key_data(state.key))
    return described({"dataset": dataset_arrays(dataset), "run": state._asdict()})


def scores(folder: Path) -> dict[str, list[float]]:
    """Return what ``scores.json`` holds of a folder."""
    dataset = folder / "dataset"
    found = {"test": score_split(load_run(folder / "run", dataset), "test").scores.tolist()}
    for name in ("run", "model.dien"):
        ranker = Ranker(folder / name, dataset if name == "run" else None)
        for number, request in enumerate(REQUESTS):
            ranking = ranker.rank(**request)
            by_id = dict(zip(ranking.ids, ranking.scores.tolist(), strict=True))
            found[f"{name}, request {number}"] = [by_id[one] for one in request["candidates"]]
    return found


def run_folders() -> None:
    """Train the run, and once more until a signal stops it."""
    asked = itertools.count()
    arguments = train.parse(["dien", *SETTINGS])
    config = Config(arguments.model, arguments.optim, arguments.train)
    fit(config, data="dataset", run_dir="run", seed=1)
    with contextlib.suppress(Interrupted):
        fit(
            config,
            data="dataset",
            run_dir="stopped",
            seed=1,
            stop_signal=lambda: signal.SIGTERM if next(asked) >= STOPPED_AFTER else None,
        )
    assert not Path("stopped/result.json").exists()


def make(folder: Path) -> None:
    """Write everything into a folder, which must not exist."""
    folder.mkdir()
    with contextlib.chdir(folder):
        write_log(Path("log.csv"))
        options = interactions.InteractionsOptions(
            file=Path("log.csv"), out=Path("dataset"), item_features=("category", "price:numeric")
        )
        interactions.prepare(options)
        run_folders()
        assert export.main(["run", "--out", "model.dien"]) == 0
        for run in ("run", "stopped"):
            shutil.rmtree(Path(run) / "tensorboard")
            (Path(run) / "curves.png").unlink(missing_ok=True)
        for name, content in (("arrays", opened(Path())), ("scores", scores(Path()))):
            text = json.dumps(content, indent=1)
            Path(f"{name}.json").write_text(text + "\n", encoding="utf-8")
        Path("log.csv").unlink()


if __name__ == "__main__":
    target = Path(__file__).with_name(NAME)
    if target.exists():
        raise FileExistsError(f"{target} exists")
    work = Path(tempfile.gettempdir()) / NAME
    try:
        make(work)
        shutil.copytree(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)

"""Logs of pure noise in the form of each source that draws negatives."""

import json
import zipfile
from pathlib import Path

import numpy as np

from dien_jax.data.dataset import Dataset, open_dataset
from dien_jax.preparation.sources import amazon, interactions, movielens, taobao

FIRST = taobao.FIRST_SECOND
LENGTH = taobao.END - taobao.FIRST_SECOND
SOURCES = ("interactions", "amazon", "movielens", "taobao")


def noise(users: int, items: int, events: int, seed: int) -> list[tuple[int, int, int]]:
    """User, item and time of events: each user's items are distinct, all times random."""
    rng = np.random.default_rng(seed)
    return [
        (user, int(item), int(time))
        for user in range(users)
        for item, time in zip(
            rng.permutation(items)[:events],
            FIRST + rng.choice(LENGTH, events, replace=False),
            strict=True,
        )
    ]


def prepared(source: str, rows: list[tuple[int, int, int]], folder: Path, **settings) -> Dataset:
    """The dataset that a source makes of the events."""
    settings |= {"out": folder / "data"}
    if source == "interactions":
        lines = ["user,item,timestamp", *(f"{u},{i},{t}" for u, i, t in rows)]
        log = _written(folder / "log.csv", lines)
        interactions.prepare(interactions.InteractionsOptions(file=log, **settings))
    elif source == "taobao":
        log = _written(folder / "log.csv", [f"{u},{i},{i % 3},pv,{t}" for u, i, t in rows])
        taobao.prepare(taobao.TaobaoOptions(source=log, **settings))
    elif source == "amazon":
        names = ("reviewerID", "asin", "unixReviewTime")
        records = [
            dict(zip(names, (str(u), str(i), t), strict=True)) | {"overall": 5.0}
            for u, i, t in rows
        ]
        reviews = _written(folder / "reviews.json", map(json.dumps, records))
        meta = _written(folder / "meta.json", ["{'asin': '0', 'categories': [['a']]}"])
        amazon.prepare(amazon.AmazonOptions(reviews=reviews, meta=meta, **settings))
    else:
        archive = folder / "ml-25m.zip"
        ratings = ["userId,movieId,rating,timestamp", *(f"{u},{i},5.0,{t}" for u, i, t in rows)]
        with zipfile.ZipFile(archive, "w") as packed:
            packed.writestr("ml-25m/ratings.csv", "\n".join(ratings) + "\n")
            packed.writestr("ml-25m/movies.csv", "movieId,title,genres\n0,A,Drama\n")
        movielens.prepare(movielens.MovielensOptions(name="25m", source=archive, **settings))
    return open_dataset(folder / "data")


def _written(file: Path, lines) -> Path:
    file.write_text("\n".join(lines) + "\n")
    return file

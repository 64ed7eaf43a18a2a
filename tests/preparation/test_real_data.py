"""Real logs are prepared whole. DIEN_JAX_DATA names their folder; the repository has none."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dien_jax.data.dataset import open_dataset
from dien_jax.preparation.sources import amazon, authors, interactions, taobao
from dien_jax.preparation.sources.amazon import AmazonOptions
from dien_jax.preparation.sources.interactions import InteractionsOptions

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif("DIEN_JAX_DATA" not in os.environ, reason="DIEN_JAX_DATA names no folder"),
]
DATA = Path(os.environ.get("DIEN_JAX_DATA", "."))
GROCERY = DATA / "interactions/grocery.csv.gz"
BOOKS = {kind: DATA / f"amazon_raw/{kind}_Books_sample.json.gz" for kind in ("reviews", "meta")}
INSTRUMENTS = {kind: DATA / f"amazon_raw/{kind}_Musical_Instruments_top100.json" for kind in BOOKS}
LOGS: dict[str, tuple[Any, Any, int, int, str]] = {
    "grocery": (
        interactions,
        partial(InteractionsOptions, file=GROCERY, item_features=("category",), split="by-time"),
        121_892,
        14_681,
        "",
    ),
    "books": (amazon, partial(AmazonOptions, **BOOKS, max_bad_share=0.0), 66_991, 37_692, ""),
    "instruments": (
        amazon,
        partial(AmazonOptions, **INSTRUMENTS, valid_share=0.0, test_share=0.0),
        100,
        96,
        "7 of 8 items have no category",
    ),
    "taobao": (
        taobao,
        partial(taobao.TaobaoOptions, source=DATA / "taobao/UserBehavior_2h.csv.gz"),
        85_773,
        0,
        "1 of 96169 lines are malformed",
    ),
}
"""By name: the source, its options, events and users (0: not counted), a part of the summary."""


@pytest.mark.parametrize("name", LOGS)
def test_a_log_is_prepared_whole(name: str, tmp_path: Path) -> None:
    source, options, events, users, part = LOGS[name]
    summary = "\n".join(source.prepare(options(out=tmp_path / "out")))
    assert part in summary
    assert part or "malformed" not in summary
    dataset = open_dataset(tmp_path / "out")
    assert len(dataset.event_item) == events
    assert users in (0, len(dataset.groups()))


def test_the_files_of_the_authors_program_are_prepared_whole(tmp_path: Path) -> None:
    train, test, events = 40_254, 4_472, 198_502
    folder = DATA / "authors_format" / "beauty"
    report = authors.prepare(authors.AuthorsOptions(folder, tmp_path / "out"))
    assert not any(line.startswith("warning") for line in report), "no line is odd"
    data = open_dataset(tmp_path / "out")
    sizes = {split: len(rows.label) for split, rows in data.splits.items()}
    assert (sizes["train"] + sizes["valid"], sizes["test"]) == (train, test)
    assert sizes["valid"] == 2 * round(0.1 * train / 2)
    for examples in data.splits.values():
        assert examples.label.mean() == 0.5
    assert not (set(data.splits["train"].group) & set(data.splits["valid"].group))
    # Histories were cut at 100 events and hold all but each user's last event.
    assert len(data.event_item) <= events - (train + test) // 2
    assert np.diff(data.event_offsets).max() == 100

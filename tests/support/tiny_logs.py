"""Logs for the tests of preparing them."""

import os
from itertools import pairwise
from pathlib import Path

import pytest

from dien_jax.data.dataset import Dataset


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


def real_data(*names: str) -> Path:
    folder = os.environ.get("DIEN_JAX_DATA")
    if not folder:
        pytest.skip("DIEN_JAX_DATA does not name a folder with real data")
    return Path(folder).joinpath(*names)

"""Logs for the tests of preparing them."""

from itertools import pairwise
from pathlib import Path

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

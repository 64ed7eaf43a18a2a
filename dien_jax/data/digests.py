"""Digests that tell one dataset from another: its folder, vocabularies and tables."""

import dataclasses
import hashlib
import json

import numpy as np

from dien_jax.data.arrays import chunks
from dien_jax.data.dataset import Dataset
from dien_jax.data.statistics_files import FACTORS, STATISTICS
from dien_jax.errors import reading


def vocabulary_digests(dataset: Dataset) -> dict[str, str]:
    """Return the sha256 of each vocabulary file by feature: what gives ids their meaning."""
    digests = {}
    for feature in dataset.schema.features:
        if feature.size is not None:
            file = dataset.path / "vocab" / f"{feature.name}.txt"
            with reading(file):
                digests[feature.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return digests


def table_digests(dataset: Dataset, *, statistics: bool = False) -> dict[str, str]:
    """Return the sha256 of what a model reads of each item and user, besides their ids.

    By the name in the folder: ``items/category``, ``users/age``; with ``statistics`` also
    ``statistics/item`` and the like, the counts of training events, and ``factors/item``.
    """
    tables: dict[str, list[np.ndarray]] = {}
    for folder, columns in (("items", dataset.items), ("users", dataset.users)):
        for name, column in columns.items():
            given = (column.values, column.offsets)
            tables[f"{folder}/{name}"] = [np.asarray(part) for part in given if part is not None]
    for name, counts in dataset.statistics.values.items() if statistics else ():
        fields = dataclasses.asdict(counts)
        tables[f"{STATISTICS}/{name}"] = [
            np.asarray(fields[field], np.int64 if field == "offsets" else np.int32)
            for field in sorted(fields)
        ]
    for name, (row, vectors, _) in dataset.factors.items() if statistics else ():
        tables[f"{FACTORS}/{name}"] = [np.asarray(row), np.asarray(vectors)]
    return {name: _digest(arrays) for name, arrays in tables.items()}


def _digest(arrays: list[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        for part in chunks(array.size):
            digest.update(np.ascontiguousarray(array.reshape(-1)[part]).data)
    return digest.hexdigest()


def data_digest(dataset: Dataset) -> str:
    """Return the sha256 of a folder's ``meta.json``, which identifies its content.

    It is of the indented JSON without ``parts``, so that it does not depend on how the data is
    divided.
    """
    file = dataset.path / "meta.json"
    with reading(file):
        content = file.read_bytes()
    meta = json.loads(content)
    del meta["parts"]
    return hashlib.sha256(f"{json.dumps(meta, indent=2)}\n".encode()).hexdigest()

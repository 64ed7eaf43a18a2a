"""Counts and vectors of training events in a dataset folder.

    statistics/<feature>/counts.json     sequences and least, see :class:`ValueStatistics`
    statistics/<feature>/<array>.npy     its arrays, int32; offsets int64
    statistics/<feature>/own.npy         int8 [n], bits of the n training examples
    statistics/<feature>/factors/row.npy, vectors.npy
                                         see :class:`ValueFactors`; vectors of all tables in
                                         sequence, flat

The folder is a function of the rest of the dataset: :mod:`dien_jax.statistics` computes it.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np

from dien_jax.data import tables
from dien_jax.data.arrays import COUNTS, Check, read_array, read_ids, read_offsets, release
from dien_jax.data.metadata import Counts
from dien_jax.data.schema import Schema
from dien_jax.data.tables import FOLDS, ValueFactors, ValueStatistics
from dien_jax.errors import UserError
from dien_jax.utils.files import read_json
from dien_jax.utils.json_values import Count

STATISTICS = "statistics"  # name of the folder
FACTORS = "factors"  # name of the folder of a feature's factors


class _Numbers(TypedDict):  # in counts.json
    sequences: Count
    least: Count


class Statistics(NamedTuple):
    """Counts of training events."""

    values: dict[str, ValueStatistics]  # by feature
    own: tuple[np.ndarray, ...]  # bits of the training examples, int8 [n] for each of these


CountedFeature = tuple[str, ValueStatistics, np.ndarray]  # with the bits of the training examples


def write_factors(folder: Path, factors: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Write the files of factors: rows and vectors, by feature."""
    for name, (row, vectors) in factors.items():
        target = folder / name / FACTORS
        target.mkdir(parents=True)
        np.save(target / "row.npy", row)
        np.save(target / "vectors.npy", vectors.reshape(-1))


def read_factors(folder: Path, schema: Schema) -> dict[str, ValueFactors]:
    """Read and check the files of factors."""
    # Without the sign, bits of float16 are ordered as sizes; comparing integers is much faster.
    within_one: Check = (lambda v: v.view(np.uint16) & 0x7FFF <= 0x3C00, "from -1 to 1")
    factors = {}
    for feature in tables.factor_features(schema):
        size, target = feature.size or 0, folder / feature.name / FACTORS
        transitions = feature is schema.item[0]
        components = (tables.DIRECTED if transitions else 1) * tables.factor_levels(size)[-1]
        file = target / "vectors.npy"
        flat = read_array(file, np.float16, None, within_one)
        row = read_ids(target / "row.npy", np.int32, size, size)
        rows = int(row.max()) + 1
        expected = (1 + FOLDS) * rows * components
        if len(flat) != expected:
            needed = f"expected {expected:,} entries, as row.npy has {rows:,} rows"
            raise UserError(f"{file}: {needed}, found {len(flat):,}")
        vectors = flat.reshape(1 + FOLDS, rows, -1)
        factors[feature.name] = tables.with_scale(row, vectors, transitions=transitions)
        release(flat)
    return factors


def write_counts(folder: Path, features: Iterable[CountedFeature]) -> dict[str, int]:
    """Write the files of counts and bits; return the number of interactions of each feature."""
    interactions = {}
    for name, counts, own in features:
        target = folder / name
        interactions[name] = int(counts.count.sum(dtype=np.int64))
        target.mkdir(parents=True, exist_ok=True)
        numbers = {"sequences": counts.sequences, "least": counts.least}
        (target / "counts.json").write_text(json.dumps(numbers) + "\n", encoding="utf-8")
        np.save(target / "offsets.npy", counts.offsets.astype(np.int64))
        for array in ("count", "other", "together", "before"):
            np.save(target / f"{array}.npy", getattr(counts, array))
        np.save(target / "own.npy", own)
        del counts, own  # keep one feature in memory at a time
    return interactions


def read_statistics(folder: Path, schema: Schema, counts: Counts) -> Statistics:
    """Read and check the files of counts; ``counts`` are those of the dataset."""
    values, own = {}, []
    bits: Check = (lambda part: (part >= 0) & (part < 4), "at least 0 and below 4")
    for feature in tables.statistics_features(schema):
        of_feature = folder / feature.name
        values[feature.name] = _read_counts(of_feature, feature.size or 0, counts["sequences"])
        own.append(read_array(of_feature / "own.npy", np.int8, counts["train"], bits))
    return Statistics(values, tuple(own))


def _read_counts(folder: Path, size: int, sequences: int) -> ValueStatistics:
    numbers = read_json(folder / "counts.json", _Numbers)
    count = read_array(folder / "count.npy", np.int32, size, COUNTS)
    other = read_ids(folder / "other.npy", np.int32, None, size)
    together = read_array(folder / "together.npy", np.int32, len(other), COUNTS)
    before = read_array(folder / "before.npy", np.int32, len(other), COUNTS)
    most, found = int(count.max()), numbers["sequences"]
    if not most <= found <= sequences:
        expected = f"{most:,}, the largest count, to {sequences:,}, those of the dataset"
        raise UserError(
            f"{folder / 'counts.json'}: sequences should be {expected}, found {found:,}"
        )
    offsets = read_offsets(folder / "offsets.npy", size, len(other)).astype(np.int32)
    longest = int(np.diff(offsets).max())
    arrays = count, offsets, other, together, before
    return ValueStatistics(*arrays, found, numbers["least"], longest)

"""Kinds of features: how the values of each are stored, padded, read and encoded.

``KINDS`` has one object for each kind. Its methods take the feature, so other modules need not ask
for the kind. :mod:`dien_jax.preparation.pipeline.features` encodes the columns of logs.

Dimensions: R rows that are read, K values of a padded multi-valued feature, L numbers of a vector.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, cast

import msgspec
import numpy as np

from dien_jax.data import arrays, value_text
from dien_jax.data.arrays import Check
from dien_jax.data.schema import UNKNOWN, Column, Feature, FeatureValues, Kind, MultiValued
from dien_jax.data.value_text import LARGEST_NUMBER, SPACE, as_text, digits_of, number_of
from dien_jax.errors import UserError

Rows = np.ndarray | slice
"""Integers ``[...]`` or a slice; row -1 is missing."""
Encoded = tuple[Column, int]
"""Values of some rows, and the number of values that training did not see."""
Split = Callable[[Any], list[str]]
"""A function that returns the values of a multi-valued cell."""
FINITE: Check = (np.isfinite, "a finite number")
_WHOLE = int | Annotated[float, msgspec.Meta(multiple_of=1)]
_VALUE = str | _WHOLE
_NUMBER = Annotated[float, msgspec.Meta(ge=-LARGEST_NUMBER, le=LARGEST_NUMBER)]


class Categorical:
    """One id for each row, which is also the base of the other kinds.

    Attributes:
      dtype: type of the stored values.
      cell: type of a raw value in JSON.
      has_offsets: whether rows have several stored values each.
    """

    dtype: type[np.generic] = np.int32
    cell: Any = _VALUE | None
    has_offsets = False

    def shape(self, feature: Feature) -> tuple[int, ...]:
        """Return the shape of a stored value."""
        del feature
        return ()

    def blank(self, feature: Feature, *axes: int) -> FeatureValues:
        """Return missing values, with leading dimensions ``axes``."""
        return np.zeros((*axes, *self.shape(feature)), self.dtype)

    def random(self, feature: Feature, rng: np.random.Generator, *axes: int) -> FeatureValues:
        """Return random values, with leading dimensions ``axes``."""
        assert feature.size is not None
        return rng.integers(0, feature.size, axes, np.int32)

    def read(self, folder: Path, feature: Feature, rows: int) -> Column:
        """Map the values in a folder, and check them."""
        assert feature.size is not None
        values = arrays.read_ids(folder / "values.npy", np.int32, rows, feature.size)
        return Column(values, None)

    def padded(self, feature: Feature, column: Column, rows: Rows) -> FeatureValues:
        """Return the values of some rows, padded."""
        if isinstance(rows, slice):
            return column.values[rows]
        if not len(column.values):
            return self.blank(feature, *rows.shape)
        values = column.values[rows]
        values[rows < 0] = 0
        return values

    def encode(
        self, feature: Feature, cells: Iterable[Any], ids: Mapping[str, int], split: Split
    ) -> Encoded:
        """Encode raw values, one cell for each row; None or an empty text is a missing value.

        ``ids`` has the row of each known value. A cell that cannot be read is a ``UserError`` that
        starts with the cell.
        """
        del feature, split
        texts = [as_text(cell) for cell in cells]
        codes = np.array([ids.get(text, UNKNOWN) for text in texts], np.int32)
        return Column(codes, None), sum(map(bool, texts)) - int(np.count_nonzero(codes))


class MultiValuedKind(Categorical):
    """Several ids for each row; those beyond ``max_values`` are left out. Missing: no values."""

    cell: Any = list[_VALUE] | str | None
    has_offsets = True

    def blank(self, feature: Feature, *axes: int) -> FeatureValues:
        values = np.zeros((*axes, feature.max_values or 1), np.int32)
        return MultiValued(values, np.zeros(axes, np.int32))

    def random(self, feature: Feature, rng: np.random.Generator, *axes: int) -> FeatureValues:
        assert feature.size is not None
        assert feature.max_values is not None
        values = rng.integers(0, feature.size, (*axes, feature.max_values), np.int32)
        return MultiValued(values, rng.integers(0, feature.max_values + 1, axes, np.int32))

    def read(self, folder: Path, feature: Feature, rows: int) -> Column:
        assert feature.size is not None
        values = arrays.read_ids(folder / "values.npy", np.int32, None, feature.size)
        return Column(values, arrays.read_offsets(folder / "offsets.npy", rows, len(values)))

    def padded(self, feature: Feature, column: Column, rows: Rows) -> FeatureValues:
        assert feature.max_values is not None
        assert column.offsets is not None
        if not isinstance(rows, slice) and len(column.offsets) == 1:
            return self.blank(feature, *rows.shape)
        first, last = column.offsets[:-1][rows], column.offsets[1:][rows]
        count = np.minimum(last - first, feature.max_values).astype(np.int32)
        if not isinstance(rows, slice):
            count[rows < 0] = 0
        slots = np.arange(feature.max_values)
        live = slots < count[..., None]
        values = np.zeros(live.shape, np.int32)
        values[live] = column.values[(first[..., None] + slots)[live]]
        return MultiValued(values, count)

    def encode(
        self, feature: Feature, cells: Iterable[Any], ids: Mapping[str, int], split: Split
    ) -> Encoded:
        values: list[int] = []
        offsets, unknown = [0], 0
        for cell in cells:
            codes = [ids.get(text, UNKNOWN) for text in split(cell)]
            unknown += codes.count(UNKNOWN)
            values += list(dict.fromkeys(codes))[: feature.max_values]
            offsets.append(len(values))
        return Column(np.array(values, np.int32), np.array(offsets, np.int64)), unknown


class Numeric(Categorical):
    """One standardised number for each row. Missing: 0, which is the mean."""

    dtype: type[np.generic] = np.float32
    cell: Any = _NUMBER | None

    def random(self, feature: Feature, rng: np.random.Generator, *axes: int) -> FeatureValues:
        return rng.standard_normal((*axes, *self.shape(feature)), np.float32)

    def read(self, folder: Path, feature: Feature, rows: int) -> Column:
        return Column(arrays.read_array(folder / "values.npy", np.float32, rows, FINITE), None)

    def encode(
        self, feature: Feature, cells: Iterable[Any], ids: Mapping[str, int], split: Split
    ) -> Encoded:
        mean, deviation = cast(float, feature.mean), cast(float, feature.deviation)

        def standard(cell: Any) -> float:
            if (number := _number(cell)) is None:
                return 0.0
            if abs(result := (number - mean) / deviation) > LARGEST_NUMBER:
                raise UserError(f"{_text(cell)[:40]!r} {value_text.too_far(mean, deviation)}")
            return result

        return Column(np.array([standard(cell) for cell in cells], np.float32), None), 0


class Vector(Numeric):
    """``length`` numbers for each row, as they are. Missing: zeros."""

    cell: Any = list[_NUMBER] | str | None

    def shape(self, feature: Feature) -> tuple[int, ...]:
        assert feature.length is not None
        return (feature.length,)

    def read(self, folder: Path, feature: Feature, rows: int) -> Column:
        file, (length,) = folder / "values.npy", self.shape(feature)
        numbers = arrays.read_array(file, np.float32, None, FINITE)
        if len(numbers) != rows * length:
            expected = f"{rows:,} vectors of {length:,} numbers"
            raise UserError(f"{file}: expected {expected}, found {len(numbers):,} numbers")
        return Column(numbers.reshape(rows, length), None)

    def encode(
        self, feature: Feature, cells: Iterable[Any], ids: Mapping[str, int], split: Split
    ) -> Encoded:
        vectors = []
        for cell in cells:
            if not (cell is None or isinstance(cell, Iterable)):
                raise UserError(f"{cell!r:.40} is not a list of numbers")
            parts = split(cell) if isinstance(cell, str) else [] if cell is None else list(cell)
            numbers = [_number(part) for part in parts]
            if numbers and (len(numbers) != feature.length or None in numbers):
                found = f"{len(numbers)}, of which {numbers.count(None)} are missing"
                raise UserError(f"expected a vector of {feature.length} numbers, found {found}")
            vectors.append(numbers or [0.0] * (feature.length or 0))
        return Column(np.array(vectors, np.float32).reshape(-1, *self.shape(feature)), None), 0


KINDS: dict[Kind, Categorical] = {
    "categorical": Categorical(),
    "multivalued": MultiValuedKind(),
    "numeric": Numeric(),
    "vector": Vector(),
}
"""The object of each kind, in the order in which messages list them."""


def blank_values(features: Iterable[Feature], *axes: int) -> dict[str, Any]:
    """Return missing values of features, with leading dimensions ``axes``."""
    return {f.name: KINDS[f.kind].blank(f, *axes) for f in features}


def padded_columns(
    features: Iterable[Feature], columns: Mapping[str, Column], rows: Rows
) -> dict[str, FeatureValues]:
    """Return the values of features for some rows, multi-valued ones padded."""
    return {f.name: KINDS[f.kind].padded(f, columns[f.name], rows) for f in features}


def _text(cell: Any) -> str:
    """Return the text of a number without spaces around it; "" if it is missing."""
    text = "" if cell is None else digits_of(cell) if isinstance(cell, int) else str(cell)
    return text.strip(SPACE)


def _number(cell: Any) -> float | None:
    """Parse a number as in a log; None if it is missing."""
    text = _text(cell)
    if not text or text.lower() == "nan":
        return None
    number = number_of(text)
    if number is None or math.isnan(number):
        raise UserError(f"{text[:40]!r} is not a number; leave a missing one empty")
    if abs(number) > LARGEST_NUMBER:
        raise UserError(f"{text[:40]!r} {value_text.BEYOND_FLOAT32}")
    return number

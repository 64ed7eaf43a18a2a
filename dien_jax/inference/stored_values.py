"""Checks of the arrays of an exported file that no type or shape holds: finite, in range, rising.

JAX reads an id outside of its table as another one, so a wrong table would give a wrong score.
"""

from pathlib import Path

import numpy as np

from dien_jax.data.schema import Schema
from dien_jax.data.tables import statistics_features
from dien_jax.errors import UserError
from dien_jax.model.logit_map import CALIBRATION, rises

Arrays = dict[str, np.ndarray]
_COUNTS = ("count", "together", "before", "following")


def check_values(file: Path, weights: Arrays, schema: Schema) -> None:
    """Refuse arrays with values that no export writes.

    Args:
      file: the exported file, named in messages.
      weights: its arrays by name, of the types and shapes that its manifest states.
      schema: its features.

    Raises:
      UserError: that names the array.
    """
    for name, array in weights.items():
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            raise UserError(f"{file}: {name} is not finite")
    for group, features in (("item", schema.item[1:]), ("user", schema.user[1:])):
        for feature in features:
            name = f"tables/{group}/{feature.name}"
            values = weights.get(f"{name}/values" if feature.kind == "multivalued" else name)
            if values is None or feature.size is None:
                continue
            _require_within(file, name, values, feature.size)
            if feature.kind == "multivalued":
                _require_within(file, f"{name}/count", weights.get(f"{name}/count"),
                                values.shape[-1] + 1)  # fmt: skip
    for feature in statistics_features(schema):
        assert feature.size is not None
        _check_statistics(file, f"tables/statistics/{feature.name}", weights, feature.size)
        _check_factors(file, f"tables/factors/{feature.name}", weights)
    points = [weights.get(f"{CALIBRATION}/{name}") for name in ("logits", "calibrated")]
    if points[0] is not None and points[1] is not None and not rises(points[0], points[1]):
        raise UserError(f"{file}: {CALIBRATION} should have rising logits and calibrated logits")


def _check_statistics(file: Path, name: str, weights: Arrays, size: int) -> None:
    offsets, other = (weights.get(f"{name}/{part}") for part in ("offsets", "other"))
    if offsets is None or other is None:  # a model without statistics, or programs refuse it
        return
    _require_within(file, f"{name}/other", other, size)
    for part in _COUNTS:
        _require_within(file, f"{name}/{part}", weights.get(f"{name}/{part}"), None)
    rising = np.diff(offsets, prepend=0)
    if offsets[0] != 0 or (rising < 0).any() or offsets[-1] != len(other):
        raise UserError(f"{file}: {name}/offsets should rise from 0 to {len(other):,}")


def _check_factors(file: Path, name: str, weights: Arrays) -> None:
    row, vectors = (weights.get(f"{name}/{part}") for part in ("row", "vectors"))
    if row is not None and vectors is not None and vectors.ndim == 3:
        _require_within(file, f"{name}/row", row, vectors.shape[1])


def _require_within(file: Path, name: str, array: np.ndarray | None, size: int | None) -> None:
    """Refuse entries below 0, and those of ``size`` or more if it is given."""
    if array is None:
        return
    wrong = array < 0 if size is None else (array < 0) | (array >= size)
    if wrong.any():
        place = int(np.flatnonzero(wrong)[0])
        expected = "0 or more" if size is None else f"0 to {size - 1:,}"
        raise UserError(
            f"{file}: entry {place:,} of {name} should be {expected}, found {array.flat[place]:,}"
        )

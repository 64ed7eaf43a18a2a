"""Calibration of a run: a linear map of logits, fitted on validation, in ``calibration.json``.

    {"slope": 0.5, "offset": -0.1, "step": 568, "shift": 0.0,
     "fitted_on": {"split": "valid", "examples": 4026, "click_share": 0.5}}

A calibrated logit is ``slope * logit + offset``. ``shift`` is added to it if the true click rate is
known (``train.click_rate``).

``list_offsets.npy`` has the terms that lists over all items add to the log odds of each item, see
:func:`list_offsets`.
"""

import dataclasses
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import msgspec
import numpy as np

from dien_jax.data.arrays import read_array
from dien_jax.data.dataset import Dataset
from dien_jax.data.schema import UNKNOWN
from dien_jax.errors import UserError
from dien_jax.metrics.scores import LOGLOSS_EPSILON
from dien_jax.utils.files import read_json, write_json
from dien_jax.utils.json_values import Count, as_complete

CALIBRATION_FILE = "calibration.json"
OFFSETS_FILE = "list_offsets.npy"
LEAST_EXAMPLES = 5
"""Minimum number of clicks, and of other examples, to fit on; else scores are left unchanged."""
SLOPES = (1e-3, 20.0)
"""Bounds of the slope, which must be positive, so that the order of scores does not change."""
OFFSETS = (-1000.0, 1000.0)
"""Bounds of offset and shift; logits of positive float64 probabilities are within them."""
AnyFitted = TypeVar("AnyFitted", bound="Fitted")
LogOdds = Annotated[float, msgspec.Meta(ge=OFFSETS[0], le=OFFSETS[1])]


@dataclass(frozen=True)
class Fitted:
    """The content of ``FILE`` in a run folder: what was fitted on the scores of a checkpoint."""

    FILE: ClassVar[str]

    def save(self, folder: Path) -> None:
        """Write the file of a run folder."""
        write_json(folder / self.FILE, dataclasses.asdict(self))

    @classmethod
    def load(cls: type[AnyFitted], folder: Path, step: int) -> AnyFitted | None:
        """Read what was fitted on the checkpoint of a step; None for a run without the file."""
        file = folder / cls.FILE
        if not os.path.lexists(file):  # a broken link is an error
            return None
        fitted: Any = as_complete(read_json(file, dict[str, Any]), cls, file)
        if fitted.step != step:
            raise UserError(
                f"{file} was fitted on the checkpoint of step {fitted.step}, but the best one is "
                f"that of step {step}; remove the file to use scores as they are"
            )
        return fitted


@dataclass(frozen=True)
class Calibration(Fitted):
    """The content of ``calibration.json``.

    The map was fitted on the scores of the checkpoint of ``step``. ``shift`` is added in use, but
    not in evaluation; it is 0 without a true click rate. ``fitted_on`` has ``split``, ``examples``
    and ``click_share``.
    """

    FILE = CALIBRATION_FILE
    slope: Annotated[float, msgspec.Meta(ge=SLOPES[0], le=SLOPES[1])]
    offset: LogOdds
    step: Count
    shift: LogOdds = 0.0
    fitted_on: dict[str, Any] = field(default_factory=dict)

    def logit_map(self, *, in_use: bool) -> dict[str, np.ndarray]:
        """Return slope and offset for programs, with the shift if scores are ``in_use``.

        Evaluation does not shift: its examples have the click rate that the map was fitted on.
        """
        offset = self.offset + (self.shift if in_use else 0.0)
        return {
            "slope": np.asarray(self.slope, np.float32),
            "offset": np.asarray(offset, np.float32),
        }

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """Return calibrated probabilities without shift, float32 ``[n]``, as evaluation does."""
        logits = self.slope * _logits(scores) + self.offset
        return (1 / (1 + np.exp(-logits))).astype(np.float32)


def list_offsets(dataset: Dataset) -> np.ndarray:
    """Return the terms that lists over all items add to log odds, float32 ``[items]``.

    Let p(i | h) be the probability that a user with history h chooses item i next, and q(i) the
    probability that i is sampled as a negative. A model that separates the two learns
    log p(i | h) - log q(i) + constant, so adding log q(i) sorts items by p(i | h). If negatives are
    sampled by popularity, q is the item's share of training events. If they are sampled uniformly,
    q is constant, and if they were shown, none are sampled: the offset is 0.

    The offset of an item without a training event is minus infinity, so it is never listed.

    Source: Yi et al., RecSys 2019 ("Sampling-Bias-Corrected Neural Modeling").
    """
    counts = np.asarray(dataset.popularity).astype(np.float64)
    counts[UNKNOWN] = 0
    with np.errstate(divide="ignore", invalid="ignore"):
        offsets = np.log(counts / counts.sum())
    if negative_distribution(dataset) != "popularity":
        offsets[counts > 0] = 0.0
    offsets[counts == 0] = -np.inf
    return offsets.astype(np.float32)


def negative_distribution(dataset: Dataset) -> str:
    """Return the distribution of negatives: ``popularity``, ``uniform``, or ``shown`` if real."""
    drawn = "popularity" if dataset.meta.get("source", {}).get("name") == "authors" else "shown"
    return dataset.meta.get("split", {}).get("negative_distribution", drawn)


def load_list_offsets(folder: Path, items: int) -> np.ndarray | None:
    """Return a copy of ``list_offsets.npy``; None for a run without it."""
    file, allowed = folder / OFFSETS_FILE, (lambda part: part < np.inf, "below infinity")
    is_there = os.path.lexists(file)
    return np.array(read_array(file, np.float32, items, allowed)) if is_there else None


def fit_calibration(
    labels: np.ndarray, scores: np.ndarray, step: int, click_rate: float | None = None
) -> Calibration:
    """Fit Platt scaling on the validation scores: the linear map with the least log loss.

    ``labels`` are ``[n]``, 1 for a click, ``scores`` uncalibrated probabilities, float32 ``[n]``,
    ``step`` is that of the checkpoint. ``click_rate`` is the true click rate in use, in (0, 1); it
    needs examples of both labels.

    Source: Platt, 1999 ("Probabilistic Outputs for Support Vector Machines").
    Shift: King and Zeng, 2001 ("Logistic Regression in Rare Events Data"), section 4.1.
    """
    y = np.asarray(labels, np.float64)
    slope, offset, shift = 1.0, 0.0, 0.0
    if min(y.sum(), len(y) - y.sum()) >= LEAST_EXAMPLES:
        from scipy.optimize import minimize  # 0.2 s

        z = _logits(scores)

        def loss(line: np.ndarray) -> tuple[float, np.ndarray]:
            slope, offset = line
            logits = slope * z + offset
            error = 1 / (1 + np.exp(-np.clip(logits, -500, 500))) - y
            mean = float((np.logaddexp(0, logits) - y * logits).mean())
            return mean, np.array([(error * z).mean(), error.mean()])

        # Start at the constant score, so that the log loss is at most that of a constant.
        start, bounds = np.array([SLOPES[0], _logit(y.mean())]), [SLOPES, OFFSETS]
        how: Any = {"method": "L-BFGS-B", "options": {"ftol": 1e-14, "gtol": 1e-9}}
        slope, offset = minimize(loss, start, jac=True, bounds=bounds, **how).x.tolist()
    if click_rate is not None:
        shift = _logit(click_rate) - _logit(y.mean())
    fitted_on = {"split": "valid", "examples": len(y), "click_share": float(y.mean())}
    return Calibration(slope, offset, step, shift, fitted_on)


def _logit(share: float) -> float:
    return math.log(share / (1 - share))


def _logits(scores: np.ndarray) -> np.ndarray:
    p = np.clip(np.asarray(scores, np.float64), LOGLOSS_EPSILON, 1 - LOGLOSS_EPSILON)
    return np.log(p / (1 - p))

"""Calibration of a run: a map of its logits, fitted on validation scores, in ``calibration.json``.

    {"kind": "platt", "logits": [0, 1], "calibrated": [-0.1, 0.4], "shift": 0.0, "step": 568,
     "fitted_on": {"split": "valid", "examples": 4026, "click_share": 0.5},
     "cross_validated_log_loss": {"none": 0.583, "temperature": 0.56, ...}}

A calibrated logit is linear between the points and beyond them. ``shift`` is added to it where the
true share of clicks is known (``train.click_rate``).
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dien_jax.errors import UserError, writing
from dien_jax.metrics.scores import LOGLOSS_EPSILON
from dien_jax.model.logit_map import rises
from dien_jax.utils.files import read_json, write_json
from dien_jax.utils.json_values import Count, as_type, refuse_incomplete, refuse_unknown

CALIBRATION_FILE = "calibration.json"
FOLDS = 5
"""Parts of the validation split in cross-validation, and the least clicks and others to fit on."""
ISOTONIC_BINS = 64
MAX_POINTS = ISOTONIC_BINS + 2
"""Points of a map as fitted, at most; every program has as many."""
_FAR = 2.0**40
"""Distance of points beyond all logits."""
SLOPES = (1e-3, 20.0)
"""Bounds of the slope of a linear map, which must rise: the order of scores stays."""

LARGEST_SHIFT = 1000.0
"""Largest shift of logits; the logit of no positive float64 is as low."""

_Points = tuple[np.ndarray, np.ndarray]
_UNCHANGED = (np.array([0.0, 1.0]), np.array([0.0, 1.0]))


@dataclass(frozen=True)
class Calibration:
    """The content of ``calibration.json``.

    Attributes:
      kind: ``none``, ``temperature``, ``platt`` or ``isotonic``.
      logits, calibrated: points of the map, rising, at least two.
      step: step of the checkpoint whose scores it was fitted on.
      shift: added to calibrated logits in use, but not in evaluation; 0 without a true click rate.
      fitted_on: ``split``, ``examples`` and ``click_share``.
      cross_validated_log_loss: by kind, the kinds that were compared; empty if there were too few
        examples.

    Raises:
      ValueError: for another kind, points that do not rise, or a shift that is too large.
    """

    kind: str
    logits: tuple[float, ...]
    calibrated: tuple[float, ...]
    step: Count
    shift: float = 0.0
    fitted_on: dict[str, Any] = field(default_factory=dict)
    cross_validated_log_loss: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"expected kind to be one of {', '.join(KINDS)}, got {self.kind!r}")
        if len(self.logits) != len(self.calibrated) or len(self.logits) < 2:
            raise ValueError("expected logits and calibrated to have two or more points each")
        if not rises(np.asarray(self.logits), np.asarray(self.calibrated)):
            raise ValueError("expected logits and calibrated to be rising points of float32")
        if not abs(self.shift) <= LARGEST_SHIFT:
            raise ValueError(f"expected shift within {LARGEST_SHIFT:g}, got {self.shift:g}")

    def logit_map(self, *, in_use: bool) -> dict[str, np.ndarray]:
        """Return the map for programs, with the shift where scores are ``in_use``.

        Evaluation does not shift: its examples have the share of clicks that the map was fitted on.
        Further points continue the last line, so that one program serves maps of all kinds.
        """
        x, y = np.asarray(self.logits), np.asarray(self.calibrated)
        beyond = _FAR * np.arange(1, MAX_POINTS - len(x) + 1)
        slope = (y[-1] - y[-2]) / (x[-1] - x[-2])
        logits = np.concatenate([x, beyond])
        calibrated = np.concatenate([y, y[-1] + slope * (beyond - x[-1])])
        calibrated += self.shift if in_use else 0.0
        return {
            "logits": logits.astype(np.float32),
            "calibrated": calibrated.astype(np.float32),
        }

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """Return probabilities calibrated and not shifted, float32 ``[n]``, as evaluation has them.

        >>> import numpy as np
        >>> halved = Calibration("temperature", (0.0, 1.0), (0.0, 0.5), step=0)
        >>> [round(p, 4) for p in halved.apply(np.array([0.5, 0.8])).tolist()]
        [0.5, 0.6667]
        """
        mapped = _mapped(_logits(scores), (np.asarray(self.logits), np.asarray(self.calibrated)))
        return (1 / (1 + np.exp(-mapped))).astype(np.float32)

    def save(self, folder: Path) -> None:
        """Write ``calibration.json`` of a run folder."""
        with writing(folder / CALIBRATION_FILE):
            write_json(folder / CALIBRATION_FILE, dataclasses.asdict(self))

    @classmethod
    def load(cls, folder: Path, step: int) -> "Calibration | None":
        """Read the calibration of the checkpoint of a step; None for a run without one."""
        file = folder / CALIBRATION_FILE
        if not file.exists():
            return None
        values = read_json(file, dict[str, Any])
        names = [entry.name for entry in dataclasses.fields(cls)]
        refuse_unknown(values, names, file)
        refuse_incomplete(values, names, file)
        fitted = as_type(values, cls, file)
        if fitted.step != step:
            raise UserError(
                f"{file} was fitted on the checkpoint of step {fitted.step}, but the best one is "
                f"that of step {step}; remove the file to use scores as they are"
            )
        return fitted


def uncalibrated(step: int) -> Calibration:
    """Return the map that changes nothing."""
    logits, calibrated = (tuple(points.tolist()) for points in _UNCHANGED)
    return Calibration("none", logits, calibrated, step)


def fit_calibration(
    labels: np.ndarray, scores: np.ndarray, step: int, click_rate: float | None = None
) -> Calibration:
    """Fit a calibration to the scores of the validation split.

    Temperature scaling divides logits by one number, Platt scaling maps them linearly, isotonic
    regression by a rising function that is linear between bins. The kind with the least
    cross-validated log loss is fitted on all examples, "none" included. If its log loss is above
    that of the constant score, Platt's is taken, which contains the constant but for the bound of
    its slope.

    Args:
      labels: ``[n]``, 1 for a click.
      scores: float32 ``[n]``, uncalibrated probabilities.
      step: step of the checkpoint.
      click_rate: true share of clicks in use, in (0, 1); needs both labels.

    Source: Platt, 1999 ("Probabilistic Outputs for Support Vector Machines"); Zadrozny and Elkan,
    KDD 2002, for isotonic regression; Guo et al., ICML 2017 (arXiv:1706.04599), for temperature.
    Shift: King and Zeng, 2001 ("Logistic Regression in Rare Events Data"), section 4.1.
    """
    y = np.asarray(labels, np.float64)
    z, share = _logits(scores), float(y.mean())
    kind, (logits, calibrated), losses = "none", _UNCHANGED, dict[str, float]()
    if min(y.sum(), len(y) - y.sum()) >= FOLDS:
        losses = {name: _cross_validated(fit, z, y) for name, fit in KINDS.items()}
        kind = min(losses, key=lambda name: losses[name])
        logits, calibrated = KINDS[kind](z, y)
        constant = -(share * math.log(share) + (1 - share) * math.log(1 - share))
        if _loss(_mapped(z, (logits, calibrated)), y) > constant:
            kind, (logits, calibrated) = "platt", _platt(z, y)
    shift = 0.0
    if click_rate is not None:
        shift = math.log(click_rate / (1 - click_rate)) - math.log(share / (1 - share))
    return Calibration(
        kind,
        tuple(logits.tolist()),
        tuple(calibrated.tolist()),
        step,
        shift,
        {"split": "valid", "examples": len(y), "click_share": share},
        losses,
    )


def _logits(scores: np.ndarray) -> np.ndarray:
    p = np.clip(np.asarray(scores, np.float64), LOGLOSS_EPSILON, 1 - LOGLOSS_EPSILON)
    return np.log(p / (1 - p))


def _temperature(z: np.ndarray, y: np.ndarray) -> _Points:
    from scipy.optimize import minimize_scalar  # 0.2 s

    bounds = np.log(SLOPES)
    best = minimize_scalar(lambda log: _loss(np.exp(log) * z, y), bounds=bounds, method="bounded")
    return np.array([0.0, 1.0]), np.array([0.0, float(np.exp(best.x))])


def _platt(z: np.ndarray, y: np.ndarray) -> _Points:
    from scipy.optimize import minimize

    def loss(line: np.ndarray) -> tuple[float, np.ndarray]:
        slope, offset = line
        logits = slope * z + offset
        error = 1 / (1 + np.exp(-np.clip(logits, -500, 500))) - y
        return _loss(logits, y), np.array([(error * z).mean(), error.mean()])

    share = y.mean()
    start = np.array([SLOPES[0], np.log(share / (1 - share))])
    options = {"ftol": 1e-14, "gtol": 1e-9}
    result = minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=[SLOPES, (None, None)], options=options
    )
    slope, offset = (float(value) for value in result.x)
    return np.array([0.0, 1.0]), np.array([offset, offset + slope])


def _isotonic(z: np.ndarray, y: np.ndarray) -> _Points:
    """Return centres of the blocks of isotonic regression on bins, and ends with Platt's slope.

    Blocks have different shares, and the lines between their centres rise, so no order is lost.
    """
    from scipy.optimize import isotonic_regression

    order = np.argsort(z, kind="stable")
    parts = np.array_split(order, min(ISOTONIC_BINS, max(1, len(z) // FOLDS)))
    counts = np.array([len(part) for part in parts], np.float64)
    shares = np.array([y[part].mean() for part in parts])
    result = isotonic_regression(shares, weights=counts)
    starts = result.blocks[:-1]
    weights = np.add.reduceat(counts, starts)
    centres = np.add.reduceat(counts * [z[part].mean() for part in parts], starts) / weights
    levels = np.clip(result.x[starts], 0.5 / weights, 1 - 0.5 / weights)
    slope = float(np.diff(_platt(z, y)[1])[0])
    calibrated = np.log(levels / (1 - levels))
    kept = np.concatenate([[True], np.minimum(np.diff(centres), np.diff(calibrated)) > 1e-4])
    x, mapped = centres[kept], calibrated[kept]
    return (
        np.array([x[0] - 1, *x, x[-1] + 1]),
        np.array([mapped[0] - slope, *mapped, mapped[-1] + slope]),
    )


KINDS: dict[str, Callable[[np.ndarray, np.ndarray], _Points]] = {
    "none": lambda z, y: _UNCHANGED,
    "temperature": _temperature,
    "platt": _platt,
    "isotonic": _isotonic,
}
"""Fits by kind: logits ``[n]`` and labels ``[n]`` to the points of a map."""


def _cross_validated(
    fit: Callable[[np.ndarray, np.ndarray], _Points], z: np.ndarray, y: np.ndarray
) -> float:
    """Return the log loss of maps that were fitted on the other parts of the examples."""
    random, fold = np.random.default_rng(0), np.empty(len(z), int)
    for label in (0, 1):
        places = np.flatnonzero(y == label)
        fold[random.permutation(places)] = np.arange(len(places)) % FOLDS
    mapped = np.empty_like(z)
    for number in range(FOLDS):
        inside = fold == number
        mapped[inside] = _mapped(z[inside], fit(z[~inside], y[~inside]))
    return _loss(mapped, y)


def _mapped(z: np.ndarray, points: _Points) -> np.ndarray:
    x, y = points
    place = np.searchsorted(x[1:-1], z, side="right")
    return y[place] + (z - x[place]) * ((y[1:] - y[:-1]) / (x[1:] - x[:-1]))[place]


def _loss(z: np.ndarray, y: np.ndarray) -> float:
    """Return the mean log loss of logits."""
    return float((np.logaddexp(0, z) - y * z).mean())

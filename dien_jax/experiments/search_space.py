"""Search space: the settings that a search varies, and their values.

A space file is a JSON object of settings by flat name. A list gives choices; a single choice fixes
a setting. An object gives a range of numbers, of integers if the setting is an integer: ``log``
samples on a logarithmic scale, ``step`` only multiples of it above ``low``.

    {"optim.learning_rate": {"low": 0.0001, "high": 0.01, "log": true},
     "model.hidden_size": {"low": 16, "high": 96, "step": 16}, "model.layers": [[200, 80], [40]]}
"""

import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dien_jax.config.preset_files import flat_settings, with_settings
from dien_jax.config.settings import Config
from dien_jax.errors import UserError, suggestion
from dien_jax.utils.files import read_json

if TYPE_CHECKING:
    import optuna

_RANGE_KEYS = ("low", "high", "log", "step")


@dataclass(frozen=True)
class Choices:
    """A choice between values, as JSON has them."""

    values: tuple[Any, ...]

    def suggest(self, trial: "optuna.Trial", name: str) -> Any:
        """Draw the value of a trial."""
        texts = [json.dumps(value) for value in self.values]  # Optuna takes no lists
        return json.loads(trial.suggest_categorical(name, texts))


@dataclass(frozen=True)
class Range:
    """A number from ``low`` to ``high``, both included; an integer if ``whole``."""

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None
    whole: bool = False

    @property
    def values(self) -> tuple[int | float, int | float]:
        """Both ends."""
        return self.low, self.high

    def suggest(self, trial: "optuna.Trial", name: str) -> Any:
        """Draw the value of a trial."""
        if not self.whole:
            return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)
        step = 1 if self.step is None else int(self.step)
        return trial.suggest_int(name, int(self.low), int(self.high), step=step, log=self.log)


Space = dict[str, Choices | Range]


def default_space(base: Config) -> Space:
    """Return the space without a space file; it has only settings that the model uses."""
    space: Space = {
        "optim.learning_rate": Range(1e-4, 1e-2, log=True),
        "model.embedding_size": Range(8, 64, log=True, whole=True),
        "model.dropout": Range(0.0, 0.5),
        "train.batch_size": Choices((64, 128, 256, 512)),
    }
    if base.model.extractor == "gru":
        space["model.hidden_size"] = Range(16, 128, log=True, whole=True)
    if base.model.auxiliary_weight > 0:
        space["model.auxiliary_weight"] = Range(0.1, 5.0, log=True)
    return space


def read_space(file: Path | None, base: Config) -> Space:
    """Read the space of a file, or return the default one; check it against the base settings."""
    if file is None:
        return default_space(base)
    try:
        given = read_json(file, dict[str, Any])
        space = {name: _dimension(name, text, base) for name, text in given.items()}
        if not space:
            raise UserError("expected settings to search, found none")
        _check_values(space, base)
    except UserError as error:
        raise error if str(error).startswith(str(file)) else UserError(f"{file}: {error}") from None
    return space


def suggest(space: Space, trial: "optuna.Trial") -> dict[str, Any]:
    """Draw the settings of a trial, by flat name."""
    return {name: dimension.suggest(trial, name) for name, dimension in space.items()}


def chosen_settings(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by flat name from Optuna's parameters, where choices are JSON text."""
    return {name: json.loads(v) if isinstance(v, str) else v for name, v in params.items()}


def space_to_json(space: Space) -> dict[str, Any]:
    """Return the space as a space file has it."""
    return {
        name: list(dimension.values)
        if isinstance(dimension, Choices)
        else {key: getattr(dimension, key) for key in _RANGE_KEYS}
        for name, dimension in space.items()
    }


def _dimension(name: str, given: Any, base: Config) -> Choices | Range:
    known = flat_settings(base)
    if name not in known:
        raise UserError(f"unknown setting {name!r}{suggestion(name, known)}")
    if isinstance(given, list):
        if not given:
            raise UserError(f"{name}: expected one or more choices, found none")
        for place, choice in enumerate(given):
            if choice in given[:place]:
                raise UserError(f"{name}: the choice {choice!r} is given twice")
        return Choices(tuple(given))
    if not isinstance(given, dict):
        example = '{"low": 1, "high": 9}'
        raise UserError(
            f"{name}: expected a list of choices or a range like {example}, found {given!r}"
        )
    for key in given:
        if key not in _RANGE_KEYS:
            near = suggestion(key, _RANGE_KEYS)
            raise UserError(f"{name}: a range has {', '.join(_RANGE_KEYS)}, found {key!r}{near}")
    given = {"step": None, "log": False} | given
    numbers = [key for key in ("low", "high", "step") if key != "step" or given[key] is not None]
    for key in numbers:
        value = given.get(key)
        if type(value) not in (int, float) or not abs(value) < 1e300:
            raise UserError(f"{name}: expected {key!r} to be a number, found {value!r}")
    low, high, step, log = (given[key] for key in ("low", "high", "step", "log"))
    if not isinstance(log, bool):
        raise UserError(f"{name}: expected 'log' to be true or false, found {log!r}")
    if not low < high:
        raise UserError(f"{name}: 'low' must be below 'high', got {low} and {high}")
    if log and low <= 0:
        raise UserError(f"{name}: 'low' must be above 0 with 'log', got {low}")
    if log and step is not None:
        raise UserError(f"{name}: 'log' and 'step' exclude each other")
    if step is not None and not 0 < step <= high - low:
        raise UserError(f"{name}: 'step' must be above 0 and at most 'high' - 'low', got {step}")
    if step is not None and abs((high - low) / step - round((high - low) / step)) > 1e-9:
        raise UserError(f"{name}: 'high' must be a number of steps above 'low', got {high}")
    whole = _is_whole(name)
    if whole and not all(isinstance(given[key], int) for key in numbers):
        got = ", ".join(str(given[key]) for key in numbers)
        raise UserError(f"{name}: must be an integer, got {got}")
    return Range(low, high, log, step, whole)


def _check_values(space: Space, base: Config) -> None:
    """Try every choice and both ends of every range, with all else at its first value."""
    first = {name: dimension.values[0] for name, dimension in space.items()}
    for name, dimension in space.items():
        for value in dimension.values:
            with_settings(base, first | {name: value})


def _is_whole(name: str) -> bool:
    """Return whether a setting, which must be numeric, is an integer."""
    group, _, setting = name.partition(".")
    hint = typing.get_type_hints(typing.get_type_hints(Config)[group])[setting]
    kinds = typing.get_args(hint) or (hint,)
    if not {int, float} & set(kinds) or typing.get_origin(hint) is tuple:
        raise UserError(f"{name}: is not a number; give a list of choices, not a range")
    return int in kinds

"""Search space: the settings that a search varies, and their values.

A space file is a JSON object of settings by flat name. A list gives choices; a single choice fixes
a setting. An object gives a range of numbers, of integers if the setting is an integer: ``log``
samples on a logarithmic scale, ``step`` only multiples of it above ``low``.

    {"optim.learning_rate": {"low": 0.0001, "high": 0.01, "log": true},
     "model.hidden_size": {"low": 16, "high": 96, "step": 16}, "model.layers": [[200, 80], [40]]}
"""

import json
import typing
import warnings
from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dien_jax.config.preset_files import flat_settings, with_settings
from dien_jax.config.settings import Config
from dien_jax.errors import UserError, suggestion
from dien_jax.utils.files import read_json
from dien_jax.utils.json_values import as_type, refuse_unknown

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Space = dict[str, Any]
"""Optuna's distribution of each setting, by flat name; choices are JSON text: it takes no lists."""


@dataclass(frozen=True)
class _Range:
    """A range of numbers as a space file has it."""

    low: float
    high: float
    log: bool = False
    step: float | None = None


def default_space(base: Config) -> Space:
    """Return the space without a space file; it has only settings that the model uses."""
    from optuna.distributions import FloatDistribution, IntDistribution

    space: Space = {
        "optim.learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
        "model.embedding_size": IntDistribution(8, 64, log=True),
        "model.dropout": FloatDistribution(0.0, 0.5),
        "train.batch_size": _choices([64, 128, 256, 512]),
    }
    if base.model.extractor == "gru":
        space["model.hidden_size"] = IntDistribution(16, 128, log=True)
    if base.model.auxiliary_weight > 0:
        space["model.auxiliary_weight"] = FloatDistribution(0.1, 5.0, log=True)
    return space


def read_space(file: Path | None, base: Config) -> Space:
    """Read the space of a file, or return the default one; check it against the base settings."""
    if file is None:
        return default_space(base)
    try:
        given = read_json(file, dict[str, Any])
        space = {name: _distribution(name, text, base) for name, text in given.items()}
        if not space:
            raise UserError("expected settings to search, found none")
        _check_values(space, base)
    except UserError as error:
        raise error if str(error).startswith(str(file)) else UserError(f"{file}: {error}") from None
    return space


def chosen_settings(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by flat name from Optuna's parameters, where choices are JSON text."""
    return {name: json.loads(v) if isinstance(v, str) else v for name, v in params.items()}


def _choices(values: list[Any]) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution

    return CategoricalDistribution([json.dumps(value) for value in values])


def _distribution(name: str, given: Any, base: Config) -> "BaseDistribution":
    from optuna.distributions import FloatDistribution, IntDistribution

    known = flat_settings(base)
    if name not in known:
        raise UserError(f"unknown setting {name!r}{suggestion(name, known)}")
    if isinstance(given, list) and given:
        return _choices(given)
    if not isinstance(given, dict):
        example = '{"low": 1, "high": 9}'
        raise UserError(
            f"{name}: expected a list of one or more choices, or a range like {example}, "
            f"found {given!r}"
        )
    refuse_unknown(given, [field.name for field in fields(_Range)], name)
    low, high, log, step = astuple(as_type(given, _Range, name))
    try:
        with warnings.catch_warnings(action="error"):  # of a range that is no multiple of its step
            if not _is_whole(name):
                return FloatDistribution(low, high, log=log, step=step)
            if not all(number.is_integer() for number in (low, high, step or 1.0)):
                raise ValueError(f"must be an integer, got {low:g}, {high:g} and step {step}")
            return IntDistribution(int(low), int(high), log=log, step=int(step or 1))
    except (ValueError, UserWarning) as error:
        raise UserError(f"{name}: {error}") from error


def _check_values(space: Space, base: Config) -> None:
    """Try every choice and both ends of every range, with all else at its first value."""
    from optuna.distributions import CategoricalDistribution

    values = {
        name: [json.loads(str(choice)) for choice in entry.choices]
        if isinstance(entry, CategoricalDistribution)
        else [entry.low, entry.high]
        for name, entry in space.items()
    }
    first = {name: of_setting[0] for name, of_setting in values.items()}
    for name, of_setting in values.items():
        for value in of_setting:
            with_settings(base, first | {name: value})


def _is_whole(name: str) -> bool:
    """Return whether a setting, which must be numeric, is an integer."""
    group, _, setting = name.partition(".")
    hint = typing.get_type_hints(typing.get_type_hints(Config)[group])[setting]
    kinds = typing.get_args(hint) or (hint,)
    if not {int, float} & set(kinds) or typing.get_origin(hint) is tuple:
        raise UserError(f"{name}: is not a number; give a list of choices, not a range")
    return int in kinds

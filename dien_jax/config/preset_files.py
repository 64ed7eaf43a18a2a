"""Settings by flat name, like ``model.dropout``, and files of settings that stand for a preset.

A preset file holds the groups of :class:`dien_jax.config.settings.Config`, whole or in part.
Settings that it leaves out are those of the preset it names, ``dien`` where it names none:

    {"preset": "dien", "model": {"dropout": 0.2}, "optim": {"learning_rate": 0.002}}

``config.json`` of a run folder is one too: data, seed and what else it tells of its run are not
settings, and are passed over.
"""

import dataclasses
from pathlib import Path
from typing import Any

from dien_jax.config.presets import DEFAULT_PRESET, preset
from dien_jax.config.settings import Config
from dien_jax.errors import UserError
from dien_jax.utils.files import read_json, write_json

RUN_FIELDS = frozenset({"seed", "data", "data_digest", "schema", "versions"})
"""What ``config.json`` tells of its run beside the preset and the settings."""
WARM_START = "warm_start"
"""What it tells too of a run that did not start from fresh parameters."""


def flat_settings(config: Config) -> dict[str, Any]:
    """Every setting by its flat name, in the order of the dataclasses."""
    return {
        f"{group}.{name}": value
        for group, values in dataclasses.asdict(config).items()
        for name, value in values.items()
    }


def with_settings(config: Config, changes: dict[str, Any]) -> Config:
    """The settings with some of them changed.

    Args:
      config: what to start from.
      changes: values, as JSON has them, by flat name.

    Raises:
      UserError: for a name that does not exist or a value that cannot be.
    """
    values = dataclasses.asdict(config)
    for name, value in changes.items():
        group, _, setting = name.partition(".")
        values.setdefault(group, {})[setting] = value
    return Config.from_dict(values)


def read_preset_file(file: Path) -> tuple[str, Config]:
    """The preset that a file of settings starts from, and all settings.

    Raises:
      UserError: naming the file, and the setting that does not exist (with the nearest one that
        does) or has a value that cannot be.
    """
    given = read_json(file)
    name = given.pop("preset", DEFAULT_PRESET)
    if set(given) >= RUN_FIELDS:
        told = RUN_FIELDS | {WARM_START}
        given = {key: value for key, value in given.items() if key not in told}
    try:
        if not isinstance(name, str):
            raise UserError(f"preset must be a name, got {name!r}")
        values = dataclasses.asdict(preset(name))
        for group, changes in given.items():
            whole = isinstance(changes, dict) and group in values
            values[group] = {**values[group], **changes} if whole else changes
        return name, Config.from_dict(values)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


def write_preset_file(file: Path, name: str, config: Config) -> None:
    """Writes a preset file that holds every setting.

    Raises:
      OSError: when the file cannot be written.
    """
    write_json(file, {"preset": name, **dataclasses.asdict(config)})

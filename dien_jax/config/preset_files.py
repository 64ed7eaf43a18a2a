"""Preset files, and settings by flat name, such as ``model.dropout``.

A preset file holds the groups of :class:`dien_jax.config.settings.Config`, completely or in part.
Settings that it leaves out come from the preset that it names, by default ``dien``:

    {"preset": "dien", "model": {"dropout": 0.2}, "optim": {"learning_rate": 0.002}}

``config.json`` of a run folder is a preset file too; its other fields are ignored.
"""

import dataclasses
from pathlib import Path
from typing import Any

from dien_jax.config.presets import DEFAULT_PRESET, PRESETS, preset
from dien_jax.config.settings import Config
from dien_jax.errors import UserError
from dien_jax.utils.files import read_json, write_json
from dien_jax.utils.json_values import check_format

RUN_FORMAT = 1
"""``format_version`` of ``config.json`` of a run folder."""
RUN_FIELDS = frozenset(
    {"format_version", "seed", "data", "data_digest", "schema", "versions", "vocabularies"}
    | {"tables"}
)
"""Fields of ``config.json`` besides the preset and the settings."""
WARM_START = "warm_start"
"""One more, in a run that did not start from fresh parameters."""

AUTO = "auto"
ON_SMALL_DATA = {"optim.embedding_update": "dense"}
"""Settings that data decides where they are ``auto``, and their values for small data. A run
records the values, so that it resumes with them."""


def flat_settings(config: Config) -> dict[str, Any]:
    """Return every setting by its flat name, in the order of the dataclasses."""
    return {
        f"{group}.{name}": value
        for group, values in dataclasses.asdict(config).items()
        for name, value in values.items()
    }


def without_auto(config: Config, values: dict[str, str] = ON_SMALL_DATA) -> Config:
    """Return settings with ``values`` in place of ``auto``, for those that data decides."""
    flat = flat_settings(config)
    return with_settings(config, {name: values[name] for name in values if flat[name] == AUTO})


def with_settings(config: Config, changes: dict[str, Any]) -> Config:
    """Return settings with some changed to JSON values, by flat name."""
    values = dataclasses.asdict(config)
    for name, value in changes.items():
        group, _, setting = name.partition(".")
        values.setdefault(group, {})[setting] = value
    return Config.from_dict(values)


def read_preset_file(file: str | Path) -> tuple[str, Config]:
    """Read a preset file; return the preset that it starts from, and all settings.

    An unknown or invalid setting is a UserError that names it, the nearest one and the file.
    """
    file = Path(file)
    given = read_json(file, dict[str, Any])
    name = given.pop("preset", DEFAULT_PRESET)
    if set(given) >= RUN_FIELDS:
        check_format(given, RUN_FORMAT, file, "name another preset file")
        given = {key: given[key] for key in given if key not in RUN_FIELDS | {WARM_START}}
        # A row of dien_jax.reproduce, or a name given to fit. The file of a run has every setting.
        if isinstance(name, str) and name not in PRESETS:
            name = DEFAULT_PRESET
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


def write_preset_file(file: str | Path, name: str, config: Config) -> None:
    """Write a preset file with every setting."""
    write_json(Path(file), {"preset": name, **dataclasses.asdict(config)})

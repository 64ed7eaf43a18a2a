"""Presets: the networks of the paper, DIEN with a tower, and settings of the authors' program.

A preset file holds groups of :class:`dien_jax.config.settings.Config`, completely or in part. Other
settings are those of the preset that it names, by default ``wide_dien``:

    {"preset": "dien", "model": {"dropout": 0.2}, "optim": {"learning_rate": 0.002}}

``config.json`` of a run folder is a preset file too; its other fields are ignored.
"""

import dataclasses
from pathlib import Path
from typing import Any

from dien_jax.config.settings import Config, ModelConfig, OptimConfig, TrainConfig
from dien_jax.errors import UserError, suggestion
from dien_jax.utils.files import read_json, write_json
from dien_jax.utils.json_values import check_format

DEFAULT_PRESET = "wide_dien"
RUN_FORMAT = 1  # ``format_version`` of ``config.json`` of a run folder
# Fields of config.json besides the preset and the settings
RUN_FIELDS = {"format_version", "seed", "data", "data_digest", "schema", "versions"}
RUN_FIELDS |= {"vocabularies", "tables"}
WARM_START = "warm_start"  # a further field, of runs that started from another one

AUTHORS = Config(
    model=ModelConfig(
        initial_embeddings="random",
        gates="authors",
        auxiliary_weight=1.0,
        dropout=0.0,
        follow_authors=True,
    ),
    optim=OptimConfig(learning_rate=1e-3, schedule="halving", embedding_update="dense"),
    train=TrainConfig(batch_size=128, epochs=3, patience=0, order="sorted", unknown_users=0.0),
)
"""The program of the paper's authors, as far as settings can express it."""
FAMILY: dict[str, dict[str, Any]] = {
    "base_model": {"extractor": "none", "evolution": "none", "product": False},
    "wide_deep": {"extractor": "none", "evolution": "none", "product": False, "wide": True},
    "pnn": {"extractor": "none", "evolution": "none"},
    "din": {"extractor": "none", "evolution": "attention"},
    "gru_att": {"evolution": "gru_attention"},
    "aigru": {"evolution": "aigru"},
    "agru": {"evolution": "agru"},
    "augru": {"evolution": "augru"},
    "dien": {"evolution": "augru"},
}
"""The models of the paper's table, by the settings in which each differs from DIEN."""


def member(name: str, base: ModelConfig) -> ModelConfig:
    """Return a model of the paper's table, with all other settings from ``base``.

    As in the authors' program, models without attention use PReLU, and only DIEN has the auxiliary
    loss.
    """
    parts = dict(FAMILY[name])
    if parts["evolution"] == "none":
        parts["activation"] = "prelu"
    if name != "dien":
        parts["auxiliary_weight"] = 0.0
    return dataclasses.replace(base, **parts)


def member_name(model: ModelConfig) -> str:
    """Return the name of a network in the paper, or "custom"; a tower adds the prefix ``wide_``."""
    beside = "wide_" if model.statistics else ""
    names = ("extractor", "evolution", "product", "wide")
    for name, parts in FAMILY.items():
        whole = {part: parts.get(part, getattr(ModelConfig, part)) for part in names}
        same = all(getattr(model, part) == value for part, value in whole.items())
        if same and bool(model.auxiliary_weight) == (name == "dien"):
            return beside + name
    return beside + "custom"


PRESETS: dict[str, Config] = {
    DEFAULT_PRESET: Config(model=ModelConfig(item_embedding_size=64, statistics=True)),
    **{name: Config(model=member(name, ModelConfig(item_embedding_size=64))) for name in FAMILY},
    "authors": AUTHORS,
}
"""Named settings, by name.

``wide_dien`` is DIEN with a tower of counts and similarities. ``dien``, ``din`` and the others are
the networks of the paper alone, with this project's training settings; ``authors`` has the settings
of the authors' program."""


def preset(name: str) -> Config:
    """Return the settings of a preset; an unknown name is a UserError that suggests the nearest.

    >>> from dien_jax import preset
    >>> preset("din").model.evolution
    'attention'
    """
    if name not in PRESETS:
        near = suggestion(name, PRESETS)
        raise UserError(f"unknown preset {name!r}{near} (presets: {', '.join(PRESETS)})")
    return PRESETS[name]


def nearest_preset(config: Config) -> str:
    """Return the preset equal to the settings, else that of the network's name, else the nearest.

    The nearest is the default for a network with a tower. For others it is the preset with the
    fewest different model settings, the last such in :data:`PRESETS`.
    """
    own, own_name = vars(config.model), member_name(config.model)

    def distance(name: str) -> tuple[bool, bool, bool, int]:
        model = vars(PRESETS[name].model)
        differing = sum(model[setting] != value for setting, value in own.items())
        is_other_kind = model["statistics"] != own["statistics"]
        return PRESETS[name] != config, name != own_name, is_other_kind, differing

    return min(reversed(PRESETS), key=distance)


def flat_settings(config: Config) -> dict[str, Any]:
    """Return every setting by its flat name, in the order of the dataclasses."""
    return {
        f"{group}.{name}": value
        for group, values in dataclasses.asdict(config).items()
        for name, value in values.items()
    }


def with_settings(config: Config, changes: dict[str, Any]) -> Config:
    """Return settings with changes: JSON values by flat name."""
    values = dataclasses.asdict(config)
    for name, value in changes.items():
        group, _, setting = name.partition(".")
        values.setdefault(group, {})[setting] = value
    return Config.from_dict(values)


def read_preset_file(file: str | Path) -> tuple[str, Config]:
    """Read a preset file; return the name of its preset, and all settings."""
    file = Path(file)
    given = read_json(file, dict[str, Any])
    name = given.pop("preset", DEFAULT_PRESET)
    if set(given) >= RUN_FIELDS:
        check_format(given, RUN_FORMAT, file, "name another preset file")
        given = {key: given[key] for key in given if key not in RUN_FIELDS | {WARM_START}}
        # A name from dien_jax.reproduce or fit. A run's file has every setting: any base will do.
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

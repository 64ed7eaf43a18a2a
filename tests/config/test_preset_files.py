"""Settings by flat name, and files of settings in place of a preset."""

import json
from pathlib import Path

import pytest

from dien_jax.config.presets import (
    DEFAULT_PRESET,
    PRESETS,
    RUN_FIELDS,
    flat_settings,
    read_preset_file,
    with_settings,
    write_preset_file,
)
from dien_jax.config.settings import Config
from dien_jax.errors import UserError
from dien_jax.runs.folder import Run

pytestmark = pytest.mark.fast


def written(tmp_path: Path, values: object) -> Path:
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(values))
    return file


@pytest.mark.parametrize("name", PRESETS)
def test_flat_settings_build_the_same_configuration(name: str) -> None:
    flat = flat_settings(PRESETS[name])
    assert flat["model.hidden_size"] == PRESETS[name].model.hidden_size
    assert with_settings(Config(), flat) == PRESETS[name]


def test_file_that_names_no_preset_starts_from_the_default(tmp_path) -> None:
    assert read_preset_file(written(tmp_path, {})) == (DEFAULT_PRESET, PRESETS[DEFAULT_PRESET])


def test_written_file_reads_back(tmp_path) -> None:
    config = with_settings(PRESETS["authors"], {"optim.learning_rate": 1 / 3})
    write_preset_file(tmp_path / "best.json", "authors", config)
    assert read_preset_file(tmp_path / "best.json") == ("authors", config)


@pytest.mark.parametrize(
    ("preset", "warm_start", "expected"),
    [
        ("authors", None, "authors"),
        ("authors", {"run": "/runs/first", "step": 4, "vectors": True}, "authors"),
        ("no_dice", None, DEFAULT_PRESET),  # a row of a table of dien_jax.reproduce
    ],
)
def test_config_of_a_run_is_a_preset_file(preset, warm_start, expected, tmp_path) -> None:
    config = with_settings(PRESETS["authors"], {"train.epochs": 7})
    feature = {"kind": "categorical", "size": 2}
    schema = {name: [feature | {"name": name}] for name in ("item", "user")} | {"request": []}
    about = {"preset": preset, "seed": 5, "data": "/data", "data_digest": "0", "schema": schema}
    about |= {"versions": {"jax": "0"}, "vocabularies": {}, "tables": {}, "warm_start": warm_start}
    run = Run(config=config, **about)
    run.save(tmp_path)
    assert Run.load(tmp_path) == run
    assert set(json.loads((tmp_path / "config.json").read_text())) > RUN_FIELDS
    assert read_preset_file(tmp_path / "config.json") == (expected, config)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seed": 3}, "unknown setting 'seed'"),
        ({"preset": "author"}, "unknown preset 'author'; did you mean 'authors'"),
        ({"preset": ["dien"]}, "preset must be a name, got "),
        ([], "Expected 'object', got 'array'"),
    ],
)
def test_mistake_is_told_with_the_file(values, message, tmp_path) -> None:
    file = written(tmp_path, values)
    with pytest.raises(UserError) as raised:
        read_preset_file(file)
    assert str(raised.value).startswith(f"{file}: ")
    assert message in str(raised.value)

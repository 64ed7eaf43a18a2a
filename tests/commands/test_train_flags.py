"""Flags of the training command: defaults, presets, preset files, and what it refuses"""

import dataclasses

import pytest
from support.tiny_run import flags, refusal

from dien_jax import train
from dien_jax.config.presets import PRESETS
from dien_jax.errors import UserError


def test_preset_gives_the_defaults_and_flags_override_them():
    arguments = train.parse(["authors", "--optim.learning-rate", "0.5", "--train.buckets", "3"])
    expected = PRESETS["authors"]
    assert arguments.model == expected.model
    assert arguments.optim == dataclasses.replace(expected.optim, learning_rate=0.5)
    assert arguments.train == dataclasses.replace(expected.train, buckets=(3,))


def test_preset_file_gives_the_defaults_and_flags_override_them(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text('{"preset": "authors", "model": {"dropout": 0.5}, "train": {"epochs": 9}}')
    expected = PRESETS["authors"]
    for flag in ([f"--preset-file={file}"], ["--preset-file", str(file)]):
        arguments = train.parse(["--seed=4", *flag, "--train.epochs", "5"])
        assert arguments.preset == "authors"
        assert arguments.model == dataclasses.replace(expected.model, dropout=0.5)
        assert arguments.optim == expected.optim
        assert arguments.train == dataclasses.replace(expected.train, epochs=5)


def test_help_with_a_preset_file_shows_its_settings(tmp_path, capfd):
    file = tmp_path / "mine.json"
    file.write_text('{"model": {"embedding_size": 77}}')
    with pytest.raises(SystemExit) as stopped:
        train.parse(["--preset-file", str(file), "--help"])
    assert stopped.value.code == 0
    assert "(default: 77)" in capfd.readouterr().out


def test_help_lists_every_setting(capfd):
    with pytest.raises(SystemExit) as stopped:
        train.parse(["--help"])
    assert stopped.value.code == 0
    shown = capfd.readouterr().out
    for group in dataclasses.fields(train.Arguments)[-3:]:
        for setting in dataclasses.fields(getattr(PRESETS["dien"], group.name)):
            assert f"--{group.name}.{setting.name.replace('_', '-')}" in shown
    assert "(default: 18)" in shown
    assert f"Presets: {', '.join(PRESETS)}." in " ".join(shown.split())
    with pytest.raises(UserError, match="layers is given twice"):  # after a help text too
        train.parse(["--model.layers=8", "--model.layers", "8"])


def test_loggers_are_flags_of_the_process():
    assert train.parse(["din"]).loggers is None
    assert train.parse(["--loggers", "mlflow", "wandb"]).loggers == ("mlflow", "wandb")
    assert train.parse(["--loggers"]).loggers == ()
    assert train.parse(["--resume", "runs/x", "--loggers", "wandb"]).loggers == ("wandb",)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["autors"], "did you mean 'authors'"),
        (["--model.hiden-size", "3"], "--model.hidden-size"),
        (["--optim.schedule", "linear"], "cosine"),
        (["--model.hidden-size", "0"], "model.hidden_size must be at least 1, got 0"),
        (["--seed", "one"], "--seed"),
    ],
)
def test_mistake_is_refused_with_what_was_expected(arguments, expected, capfd):
    try:
        status = train.main(arguments)
    except SystemExit as stopped:  # by the parser of flags
        status = stopped.code
    assert status == 2
    output = capfd.readouterr()
    assert expected in " ".join(output.err.replace("│", "").split())
    assert output.out == ""
    assert "Traceback" not in output.err


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ([], True),
        (["--model.implementation=native"], True),
        (["--model.implementation=xla"], False),
        (["--train.deterministic"], False),  # XLA's flags must be set before it looks for devices
    ],
)
def test_native_kernels_are_loaded_before_the_data_is_read(
    settings, expected, tmp_path, monkeypatch, capfd
):
    calls = []
    monkeypatch.setattr("dien_kernels.load_native_in_background", lambda: calls.append("kernels"))
    nowhere = tmp_path / "nowhere"
    found = refusal([*flags(nowhere, tmp_path / "run"), *settings], capfd)
    assert str(nowhere) in found
    assert calls == ["kernels"] * expected

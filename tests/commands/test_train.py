"""The training command line: flags, the run folder, stopping, and what it refuses."""

import contextlib
import dataclasses
import functools
import io
import re
import signal
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tensorboard_files, tiny_run
from support.tiny_run import flags, light_flags, refusal

from dien_jax import train
from dien_jax.config.presets import PRESETS
from dien_jax.data.dataset import open_dataset
from dien_jax.errors import Interrupted, UserError
from dien_jax.metrics.scores import auc
from dien_jax.preparation.sources import synthetic
from dien_jax.training import loop
from dien_jax.training import run as training_run
from dien_jax.utils.files import read_json


@dataclasses.dataclass
class Finished:
    data: Path
    folder: Path
    output: str
    progress: str
    result: dict[str, Any]
    steps: list[dict[str, float]]
    """Metrics of every step."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Finished:
    """A run whose last batch of an epoch is not full."""
    made = tmp_path_factory.mktemp("runs")
    data, folder = made / "tiny", made / "run"
    tiny_run.write_data(data, sizes=tiny_run.SIZES | {"train": 53})
    steps: list[dict[str, float]] = []

    def note(state, metrics):
        steps.append({name: float(value) for name, value in metrics.items()})
        return state, metrics

    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(io.StringIO()) as output,
        contextlib.redirect_stderr(io.StringIO()) as progress,
    ):
        wrap_step(patch, note)
        assert train.main(flags(data, folder)) == 0
    result = read_json(folder / "result.json", dict)
    return Finished(data, folder, output.getvalue(), progress.getvalue(), result, steps)


def table_rows(output: str) -> dict[str, list[str]]:
    """The cells of each row by its name."""
    lines = (re.split(" {2,}", line) for line in output.splitlines())
    return {name: cells for name, *cells in lines}


def wrap_step(monkeypatch, change) -> None:
    """``change(state, metrics)`` after each step."""
    make = loop.make_train_step

    def make_changed(*arguments):
        step = make(*arguments)
        return lambda *of_step: change(*step(*of_step))

    monkeypatch.setattr(loop, "make_train_step", make_changed)


def test_best_checkpoint_is_that_of_the_best_evaluation(finished):
    records = tiny_run.evaluations(finished.folder)
    assert [record["step"] for record in records] == [4, 8, 12]
    best = max(records, key=lambda record: record["valid"]["auc"])
    assert finished.result["best_step"] == best["step"]
    kept = best["valid"].keys() - {"logloss", "normalised_entropy", "calibration_error"}
    assert all(finished.result["valid"][name] == best["valid"][name] for name in kept)


def test_training_metrics_are_means_over_all_examples_since_the_last_evaluation(finished):
    for number, record in enumerate(tiny_run.evaluations(finished.folder)):
        epoch = finished.steps[4 * number : 4 * number + 4]
        assert [row["weight"] for row in epoch] == [16, 16, 16, 5]
        for name in ("loss", "click_loss", "auxiliary_loss", "accuracy"):
            expected = sum(row[name] * row["weight"] for row in epoch) / 53
            assert record["train"][name] == pytest.approx(expected, rel=1e-12)


def test_speed_leaves_out_steps_that_compile(finished):
    _, _, progress = tiny_run.saved_states(finished.folder)["latest"]
    assert progress["timed_examples"] == 53 * 3 - 16


def test_console_says_what_it_does_first_and_where_results_are_last(finished):
    lines = finished.progress.splitlines()
    sizes = "53 training, 24 validation and 20"
    assert lines[0].startswith(f"train preset wide_dien on {finished.data}: {sizes}")
    [size] = [line for line in lines if "parameters on cpu" in line]
    assert str(finished.folder) in size
    assert lines.index(size) < lines.index(next(line for line in lines if "compiling" in line))
    assert (finished.folder / "curves.png").stat().st_size > 0
    assert str(finished.folder) in lines[-2]
    assert lines[-1].startswith("compare with simple models: python -m dien_jax.baselines ")


def test_small_tables_are_updated_densely_and_nothing_is_said(finished):
    recorded = read_json(finished.folder / "config.json", dict)
    assert recorded["optim"]["embedding_update"] == "dense"  # whatever auto is by then
    assert "embedding_update" not in finished.progress


def test_output_compares_the_test_set_with_popularity(finished):
    dataset = open_dataset(finished.data)
    test = dataset.splits["test"]
    popularity = auc(np.asarray(test.label), dataset.popularity[test.item])
    rows = table_rows(finished.output)
    assert rows["test"][0] == f"{finished.result['test']['auc']:.4f}"
    assert rows["test, popularity"][-1] == f"{popularity:.4f}"
    assert "test, best possible" not in rows


def test_tensorboard_gets_the_metrics_of_the_result(finished):
    scalars = tensorboard_files.scalars(finished.folder)
    for split in ("valid", "test"):
        for name in ("auc", "gauc", "logloss"):
            value = finished.result[split][name]
            key = (f"final/{split}_{name}", finished.result["best_step"])
            assert scalars[key] == pytest.approx(value)


def test_run_folder_is_named_by_preset_data_and_time(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    interrupted = Mock(side_effect=Interrupted(signal.SIGTERM))  # such a run keeps its folder
    monkeypatch.setattr(training_run, "Trainer", interrupted)
    assert train.main(["authors", "--data", str(data)]) == 128 + signal.SIGTERM
    [folder] = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"authors-tiny-\d{8}T\d{6}Z", folder.name)
    (tmp_path / "mine.json").write_text('{"preset": "authors"}')
    assert train.main(["--preset-file", "mine.json", "--data", str(data)]) == 143
    [folder] = (tmp_path / "runs").glob("mine-*")
    assert re.fullmatch(r"mine-tiny-\d{8}T\d{6}Z", folder.name)
    assert read_json(folder / "config.json", dict)["preset"] == "authors"


# Stopping and choosing


@pytest.mark.long
def test_run_stops_when_patience_is_out_and_keeps_the_best(data, tmp_path, monkeypatch):
    scores = iter([0.6, 0.7, 0.65, 0.7])  # equal is not better
    splits = []

    def scripted(trainer, split, *arguments):
        splits.append(split)
        found = measure(trainer, split, *arguments)
        return found | ({"auc": next(scores, 0.0)} if split == "valid" else {})

    measure = loop.Trainer._metrics
    monkeypatch.setattr(loop.Trainer, "_metrics", scripted)
    impatient = ["--train.patience=2", "--train.evaluate-every=2"]
    assert train.main([*light_flags(data, tmp_path / "run"), *impatient]) == 0
    result = read_json(tmp_path / "run" / "result.json", dict)
    assert (result["steps"], result["best_step"], result["epochs"]) == (8, 4, 2)
    assert splits == ["valid"] * 5 + ["test"]  # the test set once, at the end
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == ["4", "8"]


@pytest.mark.long
def test_without_a_test_set_and_an_auc_log_loss_chooses(tmp_path, capfd):
    data = tiny_run.write_data(tmp_path / "tiny", sizes=tiny_run.SIZES | {"test": 0}, valid=1)
    odd = ["--train.evaluate-every=5", "--train.epochs=2"]
    assert train.main([*light_flags(data, tmp_path / "run"), *odd]) == 0
    output = capfd.readouterr()
    assert "the valid split has label 1 only, so it has no AUC" in output.err
    assert "the test split has no examples" in output.err
    assert "none" in output.out
    records = tiny_run.evaluations(tmp_path / "run")
    assert [record["step"] for record in records] == [5, 8]  # the last one too
    result = read_json(tmp_path / "run" / "result.json", dict)
    best = min(records, key=lambda record: record["valid"]["logloss"])
    assert result["best_step"] == best["step"]
    assert result["valid"]["auc"] is result["valid"]["gauc"] is result["test"]["auc"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sizes": tiny_run.SIZES | {"train": 0}}, "{data} has no train examples to train on"),
        ({"sizes": tiny_run.SIZES | {"valid": 0}}, "{data} has no valid examples to choose"),
        ({"train": 1}, "the train split has label 1 only, and no model can learn from it"),
    ],
)
def test_data_to_train_or_validate_on_is_needed(changes, message, tmp_path, capfd):
    data = tiny_run.write_data(tmp_path / "tiny", **changes)
    said = refusal(light_flags(data, tmp_path / "run"), capfd)
    assert message.format(data=data) in said
    assert not (tmp_path / "run").exists()


# Divergence


@pytest.mark.long
@pytest.mark.parametrize("name", ["loss", "gradient_norm"])
def test_a_number_that_is_not_finite_stops_the_run(name, data, tmp_path, monkeypatch, capfd):
    def spoil(state, metrics):
        return state, metrics | {name: jnp.where(state.step == 7, jnp.inf, metrics[name])}

    wrap_step(monkeypatch, spoil)
    arguments = [*light_flags(data, tmp_path / "run"), "--train.log-every=100"]
    message = refusal(arguments, capfd, status=1)
    assert re.search(rf"a loss or the gradient is not finite at step 7 \(.*\b{name} inf", message)
    assert "lower --optim.learning-rate (now 0.02)" in message
    assert "the checkpoint of step 4 is kept" in message
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["4"]
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.long
def test_parameters_that_are_not_finite_are_never_saved(data, tmp_path, monkeypatch, capfd):
    def spoil(state, metrics):
        poison = jnp.where(state.step == 4, jnp.nan, 0.0)
        return state._replace(params=jax.tree.map(lambda p: p + poison, state.params)), metrics

    with jax.numpy_rank_promotion("allow"):
        wrap_step(monkeypatch, spoil)
        message = refusal(light_flags(data, tmp_path / "run"), capfd, status=1)
    assert "is not finite after step 4" in message
    assert message.strip().endswith("Try a lower --optim.learning-rate (now 0.02)")
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


# Built-in data


@pytest.mark.long
def test_without_data_users_are_simulated_once_and_the_best_score_is_shown(
    tmp_path, monkeypatch, capfd
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    options = functools.partial(synthetic.SyntheticOptions, users=80)
    monkeypatch.setattr(synthetic, "SyntheticOptions", options)
    light = [*tiny_run.SETTINGS, *tiny_run.LIGHT, "--train.epochs=1"]
    assert train.main(["--run-dir", "run", *light]) == 0
    output = capfd.readouterr()
    assert "simulating users" in output.err
    rows = table_rows(output.out)
    [folder] = (tmp_path / "cache" / "dien_jax").glob("*/simulated")
    result = read_json(tmp_path / "run" / "result.json", dict)
    assert result["data"] == str(folder)
    best = open_dataset(folder).meta["best_possible"]["test"]["auc"]
    assert rows["test"][0] == f"{result['test']['auc']:.4f}"
    assert rows["test, best possible"][-1] == f"{best:.4f}"
    assert 0 < float(rows["test, popularity"][-1]) < 1
    assert "\nHistory of " in output.out

    monkeypatch.setattr(synthetic, "prepare", Mock(side_effect=UserError("simulated again")))
    monkeypatch.setattr(training_run, "Trainer", Mock(side_effect=Interrupted(signal.SIGTERM)))
    assert train.main(["--run-dir", "again"]) == 128 + signal.SIGTERM


# Flags


def test_preset_or_its_file_gives_the_defaults_and_flags_override_them(tmp_path):
    expected = PRESETS["authors"]
    arguments = train.parse(["authors", "--optim.learning-rate", "0.5", "--train.buckets", "3"])
    assert arguments.model == expected.model
    assert arguments.optim == dataclasses.replace(expected.optim, learning_rate=0.5)
    assert arguments.train == dataclasses.replace(expected.train, buckets=(3,))
    file = tmp_path / "mine.json"
    file.write_text('{"preset": "authors", "model": {"dropout": 0.5}, "train": {"epochs": 9}}')
    for flag in ([f"--preset-file={file}"], ["--preset-file", str(file)]):
        arguments = train.parse(["--seed=4", *flag, "--train.epochs", "5"])
        assert arguments.preset == "authors"
        assert arguments.model == dataclasses.replace(expected.model, dropout=0.5)
        assert arguments.optim == expected.optim
        assert arguments.train == dataclasses.replace(expected.train, epochs=5)


def test_help_shows_the_presets_and_the_defaults_also_of_a_preset_file(tmp_path, capfd):
    file = tmp_path / "mine.json"
    file.write_text('{"model": {"embedding_size": 77}}')
    for words, default in (([], 18), (["--preset-file", str(file)], 77)):
        with pytest.raises(SystemExit) as stopped:
            train.parse([*words, "--help"])
        assert stopped.value.code == 0
        shown = capfd.readouterr().out
        assert f"(default: {default})" in shown
        assert f"Presets: {', '.join(PRESETS)}." in " ".join(shown.split())
    with pytest.raises(UserError, match="layers is given twice"):  # after a help text too
        train.parse(["--model.layers=8", "--model.layers", "8"])


def test_loggers_are_flags_of_the_process():
    assert train.parse(["din"]).loggers is None
    assert train.parse(["--loggers", "mlflow", "wandb"]).loggers == ("mlflow", "wandb")
    assert train.parse(["--loggers"]).loggers == ()
    assert train.parse(["--resume", "runs/x", "--loggers", "wandb"]).loggers == ("wandb",)
    assert not train.parse(["--resume", "runs/x", "--no_keep_memory"]).keep_memory


@pytest.mark.parametrize(
    ("settings", "expected"), [([], True), (["--model.implementation=xla"], False)]
)
def test_native_kernels_are_loaded_before_the_data_is_read(
    settings, expected, tmp_path, monkeypatch, capfd
):
    load = Mock()
    monkeypatch.setattr("dien_kernels.load_native_in_background", load)
    nowhere = tmp_path / "nowhere"
    found = refusal([*flags(nowhere, tmp_path / "run"), *settings], capfd)
    assert str(nowhere) in found
    assert load.call_count == expected

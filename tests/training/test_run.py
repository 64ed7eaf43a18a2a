"""Training from Python: fit, resume and their result."""

import dataclasses
import datetime
import inspect
import re
import signal
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from support import tiny_run
from support.tiny_run import LIGHT_CONFIG, SCHEMA, batch_of, tables
from support.tiny_run import light_config as config

import dien_jax
from dien_jax.config.presets import nearest_preset, with_settings
from dien_jax.data.schema import UNKNOWN, Feature, Schema
from dien_jax.errors import Interrupted
from dien_jax.runs.folder import Run
from dien_jax.steps.placement import OneDevice
from dien_jax.steps.rows import automatic_update
from dien_jax.steps.score import make_predict_step
from dien_jax.steps.state import create_state, parts
from dien_jax.steps.train import make_train_step
from dien_jax.training import run
from dien_jax.training.result import simple_baselines
from dien_jax.utils.files import read_json


@pytest.fixture(scope="module")
def result(data, tmp_path_factory) -> dien_jax.RunResult:
    return dien_jax.fit(config(), data=data, run_dir=tmp_path_factory.mktemp("runs") / "run")


@pytest.mark.long
def test_result_is_that_of_the_folder_and_of_the_command(result, light_run):
    ours, theirs = (
        read_json(folder / "result.json", dict) for folder in (result.run_dir, light_run)
    )
    for name in ("train_examples_per_second", "wall_seconds"):
        assert getattr(result, name) == ours.pop(name)
        theirs.pop(name)
    assert theirs.pop("preset") == "wide_dien"  # the command's; a row's name without a command
    assert ours.pop("preset") == result.preset == "pnn"
    assert ours == theirs
    assert {name: getattr(result, name) for name in ours} == ours
    assert set(result.baselines) == {"popularity"}  # a light run fits no logistic regression
    of_test = f"test AUC {result.test['auc']:.4f}, popularity {result.baselines['popularity']:.4f}"
    assert repr(result) == f"RunResult({str(result.run_dir)!r}, preset 'pnn', {of_test})"


def test_runs_of_one_second_have_folders_of_their_own(data, tmp_path, monkeypatch):
    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 2, 3, 4, 5, tzinfo=tz)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run.datetime, "datetime", Clock)
    dataset, folders = dien_jax.open_dataset(data), []
    for _ in range(3):
        folders.append(run.default_run_dir("dien", dataset))
        folders[-1].mkdir(parents=True)
    first = f"dien-{data.name}-20260102T030405Z"
    assert [folder.name for folder in folders] == [first, f"{first}-2", f"{first}-3"]


@pytest.mark.parametrize(
    ("flag", "problem"),
    [
        ("--model.embedding-size=2000000000", "take at least .* GB, more than the .* GB of memory"),
        ("--train.batch-size=1000000000", "of 1,000,000,000 histories of .* take at least"),
        ("--train.epochs=2147483647", "train.epochs must be at most 536,870,911 with 4 steps"),
    ],
)
def test_settings_that_cannot_be_trained_leave_no_folder(flag, problem, data, tmp_path):
    with pytest.raises(dien_jax.UserError, match=problem):
        dien_jax.fit(config(flag), data=data, run_dir=tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (tmp_path / "own").mkdir()
    with pytest.raises(dien_jax.UserError, match=problem):
        dien_jax.fit(config(flag), data=data, run_dir=tmp_path / "own")
    assert list((tmp_path / "own").iterdir()) == []


@pytest.mark.long
def test_a_finished_run_has_a_card_with_its_metrics_and_their_interval(result):
    text = (result.run_dir / "model_card.md").read_text()
    area = result.test["auc"]
    found = re.search(r"\| test \| 20 \| ([\d.]+) \(([\d.]+) to ([\d.]+)\) \|", text)
    assert found is not None
    assert found[1] == f"{area:.4f}"
    assert 0 <= float(found[2]) < area < float(found[3]) <= 1


@pytest.mark.long
def test_calibration_can_be_turned_off_and_changes_neither_training_nor_the_order(
    result, data, tmp_path
):
    plain = dien_jax.fit(config("--train.no-calibrate"), data=data, run_dir=tmp_path / "run")
    assert not (tmp_path / "run" / "calibration.json").exists()
    assert (result.run_dir / "calibration.json").exists()
    assert tiny_run.evaluations(tmp_path / "run") == tiny_run.evaluations(result.run_dir)
    assert plain.best_step == result.best_step
    assert plain.test["auc"] == pytest.approx(result.test["auc"], abs=1e-9)
    best = [r for r in tiny_run.evaluations(tmp_path / "run") if r["step"] == plain.best_step]
    assert best[0]["valid"] == pytest.approx(plain.valid, rel=1e-6)  # a share of the logit, float32


def test_click_rate_needs_validation_examples_of_both_labels(tmp_path):
    data = tiny_run.write_data(tmp_path / "tiny", valid=1)
    with pytest.raises(dien_jax.UserError, match=r"train.click_rate needs .* label 1 only"):
        dien_jax.fit(config("--train.click-rate=0.1"), data=data, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(dien_jax.UserError, match=r"none without train\.calibrate"):
        dien_jax.TrainConfig(calibrate=False, click_rate=0.1)


@pytest.mark.long
def test_library_runs_in_a_thread_without_signal_handlers_and_compiles_no_score_of_the_end(
    data, tmp_path, caplog
):
    """Those of the restored checkpoint and of its calibration."""
    how = {"data": dien_jax.open_dataset(data), "run_dir": tmp_path / "run"}

    def handlers() -> list:
        return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    def run() -> int:
        with jax.log_compiles():
            one = config("--train.epochs=1")
            result = dien_jax.fit(one, stop_signal=lambda: seen.append(handlers()), **how)
        return result.steps

    before, seen = handlers(), []
    with ThreadPoolExecutor() as threads:
        assert threads.submit(run).result() == tiny_run.STEPS_PER_EPOCH
    assert all(each == before for each in seen)
    compiled = [line for line in caplog.messages if line.startswith("Compiling jit(predict)")]
    assert len(compiled) == 1  # all batches are padded to one length
    assert read_json(tmp_path / "run" / "calibration.json", dict)["slope"] != 1


@pytest.mark.parametrize("name", dien_jax.PRESETS)
def test_settings_of_a_preset_are_recorded_by_its_name(name):
    assert nearest_preset(dien_jax.preset(name)) == name


def test_settings_of_no_preset_are_recorded_by_their_row_of_the_table():
    assert nearest_preset(dien_jax.Config(dien_jax.ModelConfig(dropout=0.5))) == "dien"
    assert nearest_preset(dien_jax.Config(dien_jax.ModelConfig(auxiliary_weight=0.0))) == "augru"
    beside_counts = dien_jax.ModelConfig(dropout=0.1, statistics=True)
    assert nearest_preset(dien_jax.Config(beside_counts)) == "wide_dien"
    own = dien_jax.ModelConfig(auxiliary_weight=0.0, wide=True)
    assert nearest_preset(dien_jax.Config(own)) == "augru"
    for name in ("wide_dien", "dien", "augru", "authors"):  # with a cell of one's own
        model = dataclasses.replace(dien_jax.preset(name).model, evolution="own")
        assert nearest_preset(dien_jax.Config(model)) == name


def test_popularity_does_not_count_rare_items_for_an_unknown_one(data):
    dataset = dien_jax.open_dataset(data)
    test, popularity = dataset.splits["test"], np.full(dataset.schema.num_items, 3)
    popularity[UNKNOWN] = 1000  # all items that are too rare for a row
    test = test._replace(item=np.where(test.label == 1, 1, UNKNOWN))
    changed = dataclasses.replace(dataset, popularity=popularity, splits={"test": test})
    assert simple_baselines(changed)["popularity"] == 1.0


def test_name_of_a_preset_is_no_config(data, tmp_path):
    with pytest.raises(TypeError, match=r"config must be a Config, .* got 'din'"):
        inspect.unwrap(dien_jax.fit)("din", data=data, run_dir=tmp_path / "run")  # no type checks
    table = {"user": ["Ann"]}
    with pytest.raises(TypeError, match=r"data must be a dataset folder, or what make_dataset .*"):
        inspect.unwrap(dien_jax.fit)(dien_jax.preset("din"), data=table, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("users", "update"), [(35_536, "dense"), (35_537, "lazy_adam")])
def test_rows_of_large_tables_decide_their_update(users, update):
    sizes = {"item": 30_000, "category": 4096, "user": users}  # categories are a small table
    item, category, user = (Feature(name, "categorical", size) for name, size in sizes.items())
    schema = Schema((item, category), (user,))
    assert automatic_update(schema) == update
    place = OneDevice(schema)
    assert place.tables_by_row("auto") == place.tables_by_row(update)


@pytest.mark.long
def test_large_tables_take_lazy_adam_and_say_so(large_data, tmp_path, capfd):
    says = "optim.embedding_update is lazy_adam: large embedding tables have more than 65,536 rows"
    stop = {"stop_signal": lambda: signal.SIGINT}
    for update, is_said in (("auto", True), ("lazy_adam", False)):
        chosen = config(f"--optim.embedding-update={update}")
        with pytest.raises(Interrupted):
            dien_jax.fit(chosen, data=large_data, run_dir=tmp_path / update, **stop)
        assert Run.load(tmp_path / update).config.optim.embedding_update == "lazy_adam"
        assert (says in " ".join(capfd.readouterr().err.split())) == is_said


def test_deterministic_is_an_option_of_every_program_of_training() -> None:
    """XLA may have read its flags before: with several processes, devices come first."""
    config = with_settings(LIGHT_CONFIG, {"train.deterministic": True})
    state, batch = create_state(config, SCHEMA, 10, seed=0), batch_of(4)
    model = state.params, state.batch_stats, tables().features
    for part in parts(config.model):
        train = make_train_step(config, SCHEMA, 10, part=part)
        predict = make_predict_step(config, SCHEMA, part=part)
        for program, arguments in ((train, (state, tables())), (predict, model)):
            # JAX names the options of a program that is called within another one.
            with pytest.raises(ValueError, match="xla_gpu_deterministic_ops"):
                jax.jit(lambda *given, run=program: run(*given)).lower(*arguments, batch)

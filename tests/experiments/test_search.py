"""Tuning: what is searched, what is kept, and that a killed search goes on as if it had not been.

Most trials here are scripted: a function of the learning rate takes the place of training.
"""

import functools
import json
import math
import os
import sys
from pathlib import Path

import pytest
from support import tiny_run
from support.scripted_trials import EPOCHS, RATE, Scripted
from support.small_dataset import change_meta
from support.tiny_run import refused_by

from dien_jax import train, tune
from dien_jax.config.preset_files import read_preset_file, with_settings
from dien_jax.config.presets import PRESETS
from dien_jax.experiments import search
from dien_jax.training import loop
from dien_jax.utils.files import locked, read_json

pytestmark = pytest.mark.long

optuna = pytest.importorskip("optuna")


@pytest.fixture
def command(data, tmp_path) -> list[str]:
    """A search of the learning rate."""
    (tmp_path / "space.json").write_text(json.dumps(RATE))
    return ["--data", str(data), "--out", str(tmp_path / "out"), f"--space={tmp_path}/space.json"]


@pytest.fixture
def scripted(monkeypatch) -> type[Scripted]:
    """No training."""
    kind = type("Scripted", (Scripted,), {"trained": []})
    monkeypatch.setattr(search, "Trainer", kind)
    return kind


def trials(out: Path) -> list[tuple]:
    """Parameters, intermediate values and state of every trial that counts, read with Optuna."""
    storage = optuna.storages.RDBStorage(f"sqlite:///{out}/study.db")
    found = optuna.load_study(study_name="tune", storage=storage).get_trials()
    storage.remove_session()
    storage.engine.dispose()
    return [
        (each.params, each.intermediate_values, each.state.name)
        for each in found
        if each.state.name != "FAIL"
    ]


refusal = functools.partial(refused_by, tune.main)


# A search


def test_search_trains_and_leaves_a_preset_file_that_training_takes(
    data, tmp_path, capfd, monkeypatch
):
    splits = []
    measure = loop.measure
    monkeypatch.setattr(
        loop, "measure", lambda *arguments: splits.append(arguments[1]) or measure(*arguments)
    )
    fixed = {"extractor": "none", "evolution": "none", "auxiliary_weight": 0.0}
    fixed |= {"statistics": False}
    fixed |= {"hidden_size": 4, "embedding_size": 4, "layers": [8]}
    space = {f"model.{name}": [value] for name, value in fixed.items()}
    space |= {"train.batch_size": [16], "train.max_history": [8], "train.buckets": [[8]]}
    space |= {"train.epochs": [2], "optim.learning_rate": [0.02, 0.005]}
    (tmp_path / "space.json").write_text(json.dumps(space))
    arguments = ["--data", str(data), "--out", str(tmp_path / "out"), "--trials=3"]
    assert tune.main([*arguments, "--space", str(tmp_path / "space.json")]) == 0
    output = capfd.readouterr()
    assert splits == ["valid"] * 6  # two evaluations a trial; never the test split
    found = trials(tmp_path / "out")
    assert [state for *_, state in found] == ["COMPLETE"] * 3
    best = max(found, key=lambda trial: max(trial[1].values()))
    file = tmp_path / "out" / "best.json"
    name, config = read_preset_file(file)
    rate = json.loads(best[0]["optim.learning_rate"])
    changes = {key: values[0] for key, values in space.items()}
    expected = with_settings(PRESETS["dien"], changes | {"optim.learning_rate": rate})
    assert (name, config) == ("dien", expected)
    assert f"validation AUC {max(best[1].values()):.4f}" in output.out
    assert f"  optim.learning_rate  {rate:g}\n" in output.out
    assert "train.batch_size" not in output.out  # it was not searched
    last = output.out.splitlines()[-1].split()
    assert last[:3] == ["python", "-m", "dien_jax.train"]
    assert train.main([*last[3:], "--run-dir", str(tmp_path / "run")]) == 0
    result = read_json(tmp_path / "run" / "result.json", dict)
    assert result["valid"]["auc"] == max(best[1].values())


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_estimators_learn_from_the_trials_before_and_random_draws_do_not(
    sampler, command, scripted, tmp_path, capfd, monkeypatch
):
    count = {"tpe": 20, "random": 12}[sampler]
    drawn = {}
    for peak in (0.001, 0.1):
        monkeypatch.setattr(scripted, "peak", peak)
        scripted.trained.clear()
        out = f"--out={tmp_path / str(peak)}"
        assert tune.main([*command, out, f"--trials={count}", f"--sampler={sampler}"]) == 0
        drawn[peak] = [math.log10(rate) for rate in scripted.trained]
        best = read_preset_file(tmp_path / str(peak) / "best.json")[1].optim.learning_rate
        assert best == min(scripted.trained, key=lambda rate: abs(math.log10(rate / peak)))
    assert drawn[0.001][:10] == drawn[0.1][:10]
    if sampler == "random":
        assert drawn[0.001] == drawn[0.1]
    else:
        assert sum(drawn[0.1][10:]) / 10 - sum(drawn[0.001][10:]) / 10 > 0.5


def test_trial_that_is_behind_is_pruned_and_none_at_its_last_evaluation(command, scripted, capfd):
    assert tune.main([*command, "--trials=15", "--sampler=random"]) == 0
    found = trials(Path(command[3]))
    pruned = [values for _, values, state in found if state == "PRUNED"]
    assert pruned
    assert all(len(values) < EPOCHS for values in pruned)
    assert [state for *_, state in found[: search.TRIALS_BEFORE_PRUNING]] == ["COMPLETE"] * 5
    output = capfd.readouterr()
    assert f"best of 15 trials, {len(pruned)} pruned: trial " in output.out
    assert "pruned after 2 epochs; best 0." in output.err


def test_search_that_was_stopped_goes_on_as_one_that_was_not(
    command, scripted, tmp_path, capfd, monkeypatch
):
    whole = [*command, "--trials=14"]
    assert tune.main(whole) == 0
    expected = list(scripted.trained)
    scripted.trained.clear()
    elsewhere = [*command, f"--out={tmp_path / 'other'}", "--trials=14"]
    monkeypatch.setattr(scripted, "dies_at", 12)
    assert tune.main(elsewhere) == 130
    assert "Run the same command again" in capfd.readouterr().err
    monkeypatch.setattr(scripted, "dies_at", None)
    assert tune.main(elsewhere) == 0
    assert "11 trials of" in capfd.readouterr().err
    assert scripted.trained == [*expected[:12], *expected[11:]]
    assert trials(tmp_path / "other") == trials(Path(command[3]))
    best = (tmp_path / "other" / "best.json").read_bytes()
    assert best == (Path(command[3]) / "best.json").read_bytes()


def test_finished_search_trains_nothing_and_more_trials_add_to_it(command, scripted, capfd):
    assert tune.main([*command, "--trials=3"]) == 0
    first = capfd.readouterr().out
    assert tune.main([*command, "--trials=3"]) == 0
    assert capfd.readouterr().out == first
    assert len(scripted.trained) == 3
    assert tune.main([*command, "--trials=5"]) == 0
    assert len(scripted.trained) == 5


def test_seed_and_sampler_decide_what_is_drawn(command, scripted, tmp_path, capfd):
    drawn = []
    for number, flags in enumerate((["--seed=0"], ["--seed=0"], ["--seed=1"])):
        scripted.trained.clear()
        assert tune.main([*command, f"--out={tmp_path / str(number)}", "--trials=3", *flags]) == 0
        drawn.append(list(scripted.trained))
    assert drawn[0] == drawn[1]
    assert not set(drawn[0]) & set(drawn[2])


def test_diverged_trial_counts_and_is_never_the_best(command, scripted, capfd, monkeypatch):
    monkeypatch.setattr(scripted, "diverges_above", 0.01)
    assert tune.main([*command, "--trials=8"]) == 0
    diverged = sum(rate > 0.01 for rate in scripted.trained)
    output = capfd.readouterr()
    assert output.err.count("diverged after 1 epochs") == diverged > 0
    assert f"{diverged} diverged: trial " in output.out
    assert read_preset_file(Path(command[3]) / "best.json")[1].optim.learning_rate <= 0.01


def test_search_where_all_diverges_says_so(command, scripted, capfd, monkeypatch):
    monkeypatch.setattr(scripted, "diverges_above", 0.0)
    assert tune.main([*command, "--trials=2"]) == 1
    output = capfd.readouterr()
    assert output.out == ""
    assert "error: every trial diverged" in output.err
    assert not (Path(command[3]) / "best.json").exists()


def test_progress_is_told_by_lines_where_there_is_no_terminal(
    command, scripted, capfd, monkeypatch
):
    monkeypatch.setattr(search, "SECONDS_BETWEEN_LINES", 0.0)
    assert tune.main([*command, "--trials=1"]) == 0
    [rate] = scripted.trained
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == f"trial 1 of 1: optim.learning_rate {rate:.4g}"
    assert lines[1] == f"trial 1 of 1, step 1 of {EPOCHS}, loss 0.5000, 10 examples/s"
    assert lines[2].startswith("  trial 1 of 1, epoch 1.00: validation AUC 0.")
    assert lines[7].startswith("trial 1 of 1: validation AUC 0.")


# Spaces


# Mistakes


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (["--sampler=random"], "begun with --sampler tpe, found random"),
        (["--seed=1"], "begun with --seed 0, found 1"),
        (["--space={other}"], "begun with other space"),
    ],
)
def test_other_command_in_the_same_folder_is_refused(
    changes, expected, command, scripted, tmp_path, capfd
):
    (tmp_path / "other.json").write_text('{"model.dropout": [0.1]}')
    assert tune.main([*command, "--trials=1"]) == 0
    changes = [each.format(other=tmp_path / "other.json") for each in changes]
    assert expected in refusal([*command, *changes], capfd)
    assert "begun with --preset dien, found authors" in refusal(["authors", *command], capfd)
    assert len(scripted.trained) == 1


def test_data_prepared_anew_is_refused(command, scripted, tmp_path, capfd):
    data = tiny_run.write_data(tmp_path / "data")
    command = ["--data", str(data), *command[2:], "--trials=1"]
    assert tune.main(command) == 0
    change_meta(data)
    assert "begun with other data" in refusal(command, capfd)


def test_folder_of_something_else_is_refused(command, tmp_path, capfd):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter.txt").touch()
    assert "is not empty and holds no tune.json" in refusal(command, capfd)
    (tmp_path / "out" / "letter.txt").unlink()
    (tmp_path / "out").rmdir()
    (tmp_path / "out").touch()
    assert f"--out {tmp_path / 'out'} cannot be written" in refusal(command, capfd)


def test_folder_in_use_is_refused(command, scripted, capfd):
    assert tune.main([*command, "--trials=1"]) == 0
    with locked(Path(command[3]), "--out"):
        message = f"is in use by process {os.getpid()}; wait until it ends"
        assert message in refusal([*command, "--trials=2"], capfd)


def test_damaged_study_is_refused(command, scripted, capfd):
    assert tune.main([*command, "--trials=1"]) == 0
    file = Path(command[3]) / "study.db"
    file.write_text("this was a study")
    assert f"{file}: cannot be used: " in refusal(command, capfd)


def test_missing_extra_is_told_with_what_to_install(command, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert "pip install 'dien_jax[tune]'" in refusal(command, capfd)


def test_validation_of_one_label_has_no_auc_to_tune_by(command, tmp_path, capfd):
    data = tiny_run.write_data(tmp_path / "data", valid=1)
    message = refusal(["--data", str(data), *command[2:]], capfd)
    assert "the valid split has label 1 only, so there is no AUC to tune by" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (["--trials=0"], "--trials must be at least 1, got 0"),
        (["--seed=-1"], "seed must be 0 to 4294967295, got -1"),
        (["--data=/does/not/exist"], "/does/not/exist does not exist"),
        (["--space=/does/not/exist"], "/does/not/exist cannot be read: No such file"),
    ],
)
def test_wrong_value_is_refused_before_anything_is_made(changes, expected, command, capfd):
    assert expected in refusal([*command, *changes], capfd)
    assert not Path(command[3]).exists()


def test_unknown_preset_is_refused_with_the_nearest(command, capfd):
    assert "did you mean 'authors'" in refusal(["autors", *command], capfd)


def test_help_tells_the_format_of_a_space(capfd):
    with pytest.raises(SystemExit) as stopped:
        tune.main(["--help"])
    assert stopped.value.code == 0
    shown = " ".join(capfd.readouterr().out.replace("│", "").split())
    assert '"optim.learning_rate", each with a range {"low": 1e-4' in shown
    assert f"Presets: {', '.join(PRESETS)}" in " ".join(shown.split())

"""A run that was killed and resumed ends as one that was never stopped, bit for bit."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import tiny_run
from support.deaths import signalling
from support.forks import Ended, Forks, Job
from support.tiny_run import assert_same, light_flags

from dien_jax import train
from dien_jax.inference import list_metrics
from dien_jax.runs.calibration import OFFSETS_FILE
from dien_jax.runs.folder import CONFIG_FILE, RESULT_FILE
from dien_jax.steps.rows import DENSE_ROWS
from dien_jax.training import loop
from dien_jax.training import run as training_run
from dien_jax.utils.files import read_json

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    """A process whose forks train, and end themselves."""
    forks = Forks()
    yield forks
    forks.end()


def ended(forks: Forks, patch: str, number: int, arguments: list[str]) -> Ended:
    """Train in a fork that a function of ``support.deaths`` ends."""
    job = Job(("train", *arguments), patch=f"support.deaths:{patch}", given=(number,))
    return forks.run(job)[0]


def steps_saved(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_second_signal_ends_the_process_at_once(data, forks, tmp_path):
    folder = tmp_path / "run"
    stopped = ended(forks, "by_two_signals", 3, light_flags(data, folder))
    assert stopped.status == -signal.SIGTERM, stopped.said
    assert "again to stop at once" in stopped.said
    assert steps_saved(folder) == []


def test_signals_save_and_say_how_to_go_on_and_the_run_ends_as_one_never_stopped(
    data, light_run, tmp_path, monkeypatch, capfd
):
    folder = tmp_path / "run"
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]

    # in the middle of an epoch, and what resuming needs was removed by then
    with monkeypatch.context() as patch:
        save = loop.Trainer._save

        def after_a_loss(trainer, **given):
            if (folder / CONFIG_FILE).is_file():
                (folder / CONFIG_FILE).unlink()
                os.mkfifo(folder / CONFIG_FILE)  # whoever writes into it waits for a reader
            save(trainer, **given)

        patch.setattr(loop.Trainer, "_save", after_a_loss)
        patch.setattr(loop.Trainer, "_step", signalling(loop.Trainer._step, 6, signal.SIGINT))
        assert train.main(light_flags(data, folder)) == 128 + signal.SIGINT
    output = capfd.readouterr()
    assert output.out == ""
    assert f"step 6 is saved. Resume with: python -m dien_jax.train --resume {folder}" in output.err
    assert f"{folder / CONFIG_FILE} was removed or changed during training" in output.err
    assert "Traceback" not in output.err
    assert steps_saved(folder) == ["4", "6"]
    assert handlers == [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]

    # in the evaluation of step 8: saved before it, evaluated on resumption
    with monkeypatch.context() as patch:
        patch.setattr(loop, "score_batches", signalling(loop.score_batches, 1, signal.SIGTERM))
        assert train.main(["--resume", str(folder)]) == 128 + signal.SIGTERM
    assert steps_saved(folder) == ["4", "8"]
    assert [line["step"] for line in tiny_run.evaluations(folder)] == [4]

    assert train.main(["--resume", str(folder)]) == 0
    assert_same(folder, light_run)


def test_run_of_two_parts_killed_in_either_ends_as_one_never_stopped(forks, tmp_path):
    """Two epochs of each; steps 2, 4, 6 and so on are saved, those of evaluations again.

    Tables are updated by row. Kills before changes of files are in ``tests/faults/test_stops.py``.
    """
    whole, folder = tmp_path / "whole", tmp_path / "run"
    data = tiny_run.write_data(tmp_path / "data", rows=DENSE_ROWS + 1)
    settings = ["--model.statistics", "--train.epochs=2", "--optim.embedding-update=lazy_adam"]
    assert train.main([*light_flags(data, whole), *settings]) == 0
    # between the second evaluation of the tower and its save, then before step 14 is saved
    for arguments, call, latest, evaluated in (
        ([*light_flags(data, folder), *settings], 6, "8", [4, 8]),
        (["--resume", str(folder)], 5, "12-1", [4, 8, 12]),
    ):
        killed = ended(forks, "before_save", call, arguments)
        assert killed.status == -signal.SIGKILL, killed.said
        assert latest in steps_saved(folder)
        assert [line["step"] for line in tiny_run.evaluations(folder)] == evaluated
    assert train.main(["--resume", str(folder)]) == 0
    assert_same(folder, whole)


def test_signals_before_the_first_step_and_while_lists_are_measured_lose_nothing(
    data, light_run, tmp_path, monkeypatch, capfd
):
    folder = tmp_path / "run"

    def signalled(*given, watch):
        signal.raise_signal(signal.SIGTERM)
        watch()

    with monkeypatch.context() as patch:
        patch.setattr(loop, "create_state", signalling(loop.create_state, 1, signal.SIGTERM))
        assert train.main(light_flags(data, folder)) == 128 + signal.SIGTERM
    output = capfd.readouterr()
    assert f"nothing is lost. Resume with: python -m dien_jax.train --resume {folder}" in output.err
    assert "Traceback" not in output.err
    assert steps_saved(folder) == []
    (folder / OFFSETS_FILE).unlink()  # as after a kill between the first two files
    with monkeypatch.context() as patch:
        patch.setattr(list_metrics, "measure_finished", signalled)
        assert train.main(["--resume", str(folder)]) == 128 + signal.SIGTERM
    assert f"Resume with: python -m dien_jax.train --resume {folder}" in capfd.readouterr().err
    assert train.main(["--resume", str(folder)]) == 0
    assert "the run began with" not in capfd.readouterr().err  # other versions or devices
    assert_same(folder, light_run)
    assert (folder / OFFSETS_FILE).exists()


def test_resume_of_a_finished_run_says_so_and_prints_the_result(light_run, capfd, monkeypatch):
    monkeypatch.setattr(training_run, "open_dataset", None)  # nothing but the result is looked at
    assert train.main(["--resume", str(light_run)]) == 0
    output = capfd.readouterr()
    assert "is finished" in output.err
    assert f"{read_json(light_run / RESULT_FILE, dict)['test']['auc']:.4f}" in output.out

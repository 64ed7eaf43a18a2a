"""The loggers of a run: which they are, what is kept of them, and calls in the background."""

import json
import threading
from unittest.mock import Mock

import pytest

from dien_jax import errors
from dien_jax.errors import UserError
from dien_jax.training.loggers import LONGEST_QUEUE, TRACKERS, Background, Logger, opened_loggers

pytestmark = pytest.mark.fast


class Tracker(Logger):
    """A logger that notes its calls, and fails or waits at some."""

    run_id = "7"

    def __init__(self):
        self.made, self.at_step = [], {}

    def scalars(self, step, values):
        self.at_step.get(step, lambda: None)()
        self.made.append(step)

    def close(self, error):
        self.made.append(error)


def test_loggers_are_kept_for_a_later_resumption(tmp_path):
    with opened_loggers(tmp_path) as [tensorboard]:
        assert not any(tmp_path.iterdir())  # a run that is refused leaves nothing
        tensorboard.scalars(1, {})
    assert [path.name for path in tmp_path.iterdir()] == ["tensorboard"]
    file = tmp_path / "loggers.json"
    for names in ([], None):
        with opened_loggers(tmp_path, names) as loggers:
            assert loggers == []
        assert json.loads(file.read_text()) == {"loggers": [], "runs": {}}
    with opened_loggers(tmp_path, ["tensorboard", "tensorboard"]) as loggers:
        assert len(loggers) == 1


@pytest.mark.parametrize(
    ("names", "content", "expected"),
    [
        (["mlfow"], None, "loggers must be one of tensorboard, .*; did you mean 'mlflow'"),
        (None, '{"loggers": ["aim"], "runs": {}}', r"loggers.json: .*loggers\[0\]"),
        (["mlflow"], None, "the logger mlflow needs the extra 'mlflow'"),
        (["tensorboard", "wandb"], None, "the logger wandb needs the extra 'wandb'"),
    ],
)
def test_wrong_names_and_files_are_refused(tmp_path, monkeypatch, names, content, expected):
    monkeypatch.setattr(errors, "EXTRAS", dict.fromkeys(("mlflow", "wandb"), ("no_such_module",)))
    for variable in ("MLFLOW_DISABLE_TELEMETRY", "WANDB_ERROR_REPORTING"):
        monkeypatch.setenv(variable, "true")
    file = tmp_path / "loggers.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=expected):
        opened_loggers(tmp_path, names).__enter__()
    assert [path.read_text() for path in tmp_path.iterdir()] == [content] * (content is not None)


def test_calls_are_made_in_order_and_one_that_fails_is_left_out(capfd):
    fail = Mock(side_effect=ConnectionError("no route to //me:secret@host"))
    tracker = Tracker()
    tracker.at_step = {1: fail, 3: fail}
    background = Background("a tracker", tracker)
    for step in range(5):
        background.scalars(step, {})
    background.close(None, 60.0)
    assert tracker.made == [0, 2, 4, None]
    expected = "warning: a tracker lacks reports of this run: no route to //host\n"
    assert capfd.readouterr().err == expected


def test_server_that_does_not_answer_is_not_waited_for(capfd):
    before, answered = {*threading.enumerate()}, threading.Event()
    tracker = Tracker()
    tracker.at_step = {0: answered.wait}
    background = Background("a tracker", tracker)
    for step in range(LONGEST_QUEUE + 5):
        background.scalars(step, {})
    background.close(None, 0.01)
    expected = "warning: a tracker lacks reports of this run: it does not answer\n"
    assert capfd.readouterr().err == expected
    [thread] = {*threading.enumerate()} - before
    assert thread.daemon
    answered.set()


def test_all_loggers_are_closed_with_what_ended_the_run(tmp_path, monkeypatch):
    made = []

    def tracker(name, settings, run_id):
        made.append(Tracker())
        return made[-1]

    for name in ("mlflow", "wandb"):
        monkeypatch.setitem(TRACKERS, name, (name, tracker))
    error = RuntimeError("stopped")
    with pytest.raises(RuntimeError), opened_loggers(tmp_path, ["mlflow", "wandb"]):
        raise error
    with opened_loggers(tmp_path):
        pass
    assert [one.made for one in made] == [[error], [error], [None], [None]]
    kept = json.loads((tmp_path / "loggers.json").read_text())
    assert kept == {"loggers": ["mlflow", "wandb"], "runs": {"mlflow": "7", "wandb": "7"}}

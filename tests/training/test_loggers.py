"""The loggers of a run: which they are, what is kept of them, and calls in the background."""

import json
import threading
from collections import deque
from pathlib import Path

import pytest

from dien_jax.errors import UserError
from dien_jax.training.loggers import choice, opened_loggers
from dien_jax.training.loggers.background import LONGEST_QUEUE, Background
from dien_jax.training.loggers.tensorboard import TensorBoard
from dien_jax.utils import extras


def refusal(folder: Path, names: list | None = None) -> str:
    with pytest.raises(UserError) as refused, opened_loggers(folder, names):
        pass
    return str(refused.value)


def test_run_with_tensorboard_alone_keeps_nothing(tmp_path):
    with opened_loggers(tmp_path) as loggers:
        loggers.begin({}, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["tensorboard"]


def test_loggers_are_kept_for_a_later_resumption(tmp_path):
    with opened_loggers(tmp_path, []) as loggers:
        loggers.begin({}, 0)
    assert json.loads((tmp_path / "loggers.json").read_text()) == {"loggers": [], "runs": {}}
    with opened_loggers(tmp_path) as loggers:
        loggers.begin({}, 0)
    assert not (tmp_path / "tensorboard").exists()
    with opened_loggers(tmp_path, ["tensorboard"]) as loggers:
        loggers.begin({}, 0)
    assert (tmp_path / "tensorboard").exists()


def test_unknown_and_repeated_names_are_refused(tmp_path):
    assert refusal(tmp_path, ["mlfow"]) == (
        "loggers: expected some of tensorboard, mlflow, wandb; found 'mlfow'; did you mean "
        "'mlflow'?"
    )
    twice = refusal(tmp_path, ["tensorboard", "tensorboard"])
    assert twice == "loggers: expected different loggers, found tensorboard tensorboard"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "expected JSON"),
        ('{"loggers": ["tensorboard"]', "expected JSON"),
        ('{"loggers": ["tensorboard"]}', "expected runs, which is missing"),
        ('{"loggers": "mlflow", "runs": {}}', "expected loggers to be a list"),
        ('{"loggers": ["aim"], "runs": {}}', "loggers[0]: invalid enum value 'aim'"),
        ('{"loggers": ["mlflow"], "runs": {"mlflow": 7}}', "expected runs.mlflow to be text"),
        ('{"loggers": ["wandb", "wandb"], "runs": {}}', "expected different loggers"),
    ],
)
def test_damaged_file_is_refused(tmp_path, content, expected):
    file = tmp_path / "loggers.json"
    file.write_text(content)
    message = refusal(tmp_path)
    assert message.startswith(f"{file}: ")
    assert expected in message
    assert file.read_text() == content


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_missing_package_is_refused_with_its_extra(tmp_path, monkeypatch, name):
    monkeypatch.setitem(extras.EXTRAS, name, ("no_such_module",))
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    message = refusal(tmp_path, ["tensorboard", name])
    assert f"the logger {name} needs the extra '{name}'" in message
    assert list(tmp_path.iterdir()) == []


def test_calls_are_made_in_order_and_one_that_fails_is_left_out():
    problems, made = deque[str](), list[int]()
    background = Background("a tracker", problems)

    def fail():
        raise ConnectionError("no route to it")

    for number in range(6):
        background.do(fail if number in (1, 3) else lambda number=number: made.append(number))
    background.wait(60.0)
    assert made == [0, 2, 4, 5]
    assert list(problems) == [
        "warning: a tracker: no route to it; training goes on without it",
        "warning: a tracker lacks 2 reports of this run",
    ]


def test_server_that_does_not_answer_is_not_waited_for():
    problems, answered = deque[str](), threading.Event()
    background = Background("a tracker", problems)
    background.do(answered.wait)
    while background._calls.qsize():  # until the thread has taken it
        pass
    for _ in range(LONGEST_QUEUE + 5):
        background.do(lambda: None)
    background.wait(0.01)
    background.wait(60.0)  # given up: returns at once
    answered.set()
    assert list(problems) == [
        "warning: a tracker: it does not answer; training goes on without it",
        f"warning: a tracker lacks {LONGEST_QUEUE + 5:,} reports of this run",
    ]


def test_thread_ends_and_does_not_keep_the_process_alive():
    before = {*threading.enumerate()}
    background = Background("a tracker", deque[str]())
    [thread] = {*threading.enumerate()} - before
    assert thread.daemon
    background.end(60.0)
    thread.join(60.0)
    assert not thread.is_alive()


def test_all_loggers_are_closed_with_what_ended_the_run(tmp_path, monkeypatch):
    closed = []

    class Tracker(TensorBoard):
        run_id = "7"

        def __init__(self, name, run_id, problems):
            problems.append("said at the end")

        def close(self, error):
            closed.append(error)

    for name in ("mlflow", "wandb"):
        monkeypatch.setitem(choice.TRACKERS, name, Tracker)
    error = RuntimeError("stopped")
    with pytest.raises(RuntimeError), opened_loggers(tmp_path, ["mlflow", "wandb"]):
        raise error
    assert closed == [error, error]
    with opened_loggers(tmp_path):
        pass
    assert closed[2:] == [None, None]
    kept = json.loads((tmp_path / "loggers.json").read_text())
    assert kept == {"loggers": ["mlflow", "wandb"], "runs": {"mlflow": "7", "wandb": "7"}}

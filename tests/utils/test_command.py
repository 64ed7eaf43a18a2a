"""Starting a command: errors and signals become an exit status."""

import signal

import pytest

from dien_jax.errors import Interrupted, NotFiniteError, UserError
from dien_jax.utils import extras
from dien_jax.utils.command import run_command


def fail(error: BaseException):
    def run(options: object) -> None:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UserError("--data is missing"), 2, "error: --data is missing\n"),
        (OSError(36, "File name too long", "nnn"), 2, "error: nnn: File name too long\n"),
        (MemoryError("Unable to allocate"), 2, "error: out of memory: Unable to allocate\n"),
        (NotFiniteError("the loss is NaN"), 1, "error: the loss is NaN\n"),
        (OSError(28, "No space left", "data/a"), 2, "error: data/a: No space left\n"),
        (Interrupted(signal.SIGTERM), 128 + signal.SIGTERM, "stopped\n"),
        (KeyboardInterrupt(), 128 + signal.SIGINT, "stopped\n"),
    ],
)
def test_errors_and_signals_become_an_exit_status(error, status, message, capsys) -> None:
    outcome = run_command(dict, fail(error), compiles=False, when_interrupted="stopped")
    assert outcome == status
    assert capsys.readouterr().err == message


def test_flags_that_cannot_be_parsed_are_a_user_error(capsys) -> None:
    assert run_command(lambda: fail(UserError("no such flag"))(None), print, compiles=False) == 2
    assert "no such flag" in capsys.readouterr().err


def test_the_status_of_a_command_is_its_own() -> None:
    assert run_command(dict, lambda options: None, compiles=False) == 0
    assert run_command(dict, lambda options: 3, compiles=False) == 3


def test_programming_errors_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command(dict, lambda options: 1 // 0, compiles=False)


def test_a_missing_extra_is_named_with_its_remedy(monkeypatch) -> None:
    monkeypatch.setitem(extras.EXTRAS, "plot", ("no_such_module",))
    with pytest.raises(UserError, match=r"--out needs the extra 'plot' \(no_such_module is not"):
        extras.require("plot", "--out")

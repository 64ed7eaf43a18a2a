"""Starting a command: errors and signals become an exit status, help is as wide as terminals."""

import contextlib
import dataclasses
import gc
import itertools
import logging
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated
from unittest.mock import Mock

import pytest
import tyro

from dien_jax import export, predict, prepare, reproduce, train
from dien_jax.errors import Interrupted, NotFiniteError, UserError
from dien_jax.utils.command import check_words, description, join_help_lines, run_command

CUT = """
import os, pathlib, sys, numpy
from dien_jax.data.arrays import open_array
from dien_jax.utils.command import run_command

def run(_):
    numpy.save("array.npy", numpy.ones(10_000))
    array = open_array(pathlib.Path("array.npy"))
    os.truncate("array.npy", 100)
    print(array.sum())

sys.exit(run_command(lambda: None, run, compiles=False))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mappings of Linux")
def test_a_mapped_file_that_is_cut_ends_a_command_with_its_name(tmp_path) -> None:
    found = subprocess.run([sys.executable, "-c", CUT], cwd=tmp_path, capture_output=True)
    assert (found.returncode, found.stdout) == (2, b"")
    assert b"\nerror: array.npy changed while it was in use: 100 bytes now, 80,128 " in found.stderr


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UserError("--data is missing"), 2, "error: --data is missing\n"),
        (OSError(36, "File name too long", "nnn"), 2, "error: nnn: File name too long\n"),
        (MemoryError("Unable to allocate"), 2, "error: out of memory: Unable to allocate\n"),
        (NotFiniteError("the loss is NaN"), 1, "error: the loss is NaN\n"),
        (OSError(28, "No space left", "data/a"), 2, "error: data/a: No space left\n"),
        (
            RuntimeError("Unable to initialize backend 'cuda': no plugin\nand more"),
            2,
            "error: Unable to initialize backend 'cuda': no plugin; "
            "JAX_PLATFORMS in the environment names the devices\n",
        ),
        (Interrupted(signal.SIGTERM), 128 + signal.SIGTERM, "stopped\n"),
        (KeyboardInterrupt(), 128 + signal.SIGINT, "stopped\n"),
    ],
)
def test_errors_and_signals_become_an_exit_status(error, status, message, capsys) -> None:
    run = Mock(side_effect=error)
    outcome = run_command(dict, run, compiles=False, when_interrupted="stopped")
    assert outcome == status
    assert capsys.readouterr().err == message


def test_other_errors_are_raised() -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        run_command(dict, Mock(side_effect=RuntimeError("a bug")), compiles=False)


TWICE = """
import os, signal, sys, time
from dien_jax.utils.command import stop_signals

number = int(sys.argv[1])
signal.signal(number, signal.SIG_DFL)  # these tests may run under nohup

def signal_again(seconds):
    os.kill(os.getpid(), number)

with stop_signals() as stop_signal:
    time.sleep = signal_again
    os.kill(os.getpid(), number)
    assert stop_signal() == number
    print("saved", flush=True)
    os.kill(os.getpid(), number)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_comes_twice_at_once_is_one(number) -> None:
    command = [sys.executable, "-c", TWICE, str(int(number))]
    found = subprocess.run(command, capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (-number, "saved\n"), found.stderr


def test_the_status_of_a_command_is_its_own_and_sigterm_is_as_before() -> None:
    for status in (None, 3):
        assert run_command(dict, lambda options, of=status: of, compiles=False) == (status or 0)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_what_the_kernels_log_is_a_plain_line(capsys, caplog) -> None:
    def run(options: object) -> None:
        logging.getLogger("dien_kernels").warning("compiling %s", "once")

    assert run_command(dict, run, compiles=False) == 0
    assert capsys.readouterr().err == "compiling once\n"
    assert not caplog.records
    logging.getLogger("dien_kernels").warning("after the command")
    assert [record.getMessage() for record in caplog.records] == ["after the command"]


def test_ctrl_c_in_a_callback_of_the_garbage_collector_is_not_lost(capsys) -> None:
    sent = []

    def send(phase: str, details: dict[str, int]) -> None:
        if not sent:
            sent.append(phase)
            signal.raise_signal(signal.SIGINT)

    def run(options: None) -> None:
        gc.collect()
        for _ in range(1000):
            time.sleep(0.01)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.callbacks.append(send)
    try:
        assert run_command(lambda: None, run, compiles=False) == 130
    finally:
        gc.callbacks.remove(send)
        signal.signal(signal.SIGINT, before)
    assert sent
    assert "KeyboardInterrupt" not in capsys.readouterr().err


class Renamed:
    """The annotation of a flag that has another name than its field."""

    name = "from"


@dataclasses.dataclass
class Flags:
    data: Path | None = None
    source: Annotated[Path | None, Renamed()] = None
    rows: tuple[str, ...] = ()
    user_id: str = ""
    all: bool = False


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data="], "--data must not be empty"),
        (["--from", "", "--all"], "--from must not be empty"),
        ([""], "an argument must not be empty"),
        (["--rows", "a", "b", "--rows"], "--rows is given twice; expected it once, followed by"),
        (["--user-id", ""], None),
        (["--user_id="], None),
        (["--rows", "a", ""], None),
        (["--others", ""], None),
        (["--data", "a", "--data=b", "--rows", "--data", "--data"], None),
    ],
)
def test_an_empty_path_and_a_list_given_twice_are_refused(words, message) -> None:
    refused = pytest.raises(UserError, match=f"^{message}") if message else contextlib.nullcontext()
    with refused:
        check_words(words, Flags)


def help_lines(capsys, main, *argv: str) -> list[str]:
    with pytest.raises(SystemExit):
        main([*argv, "--help"])
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("main", "argv"), [(train.main, ()), (prepare.main, ("impressions",))], ids=["train", "prepare"]
)
def test_no_line_ends_before_the_terminal_does(monkeypatch, capsys, main, argv):
    monkeypatch.setenv("COLUMNS", "80")
    lines = help_lines(capsys, main, *argv)
    texts = [line.strip("│|").rstrip() for line in lines]
    assert len(texts) > 40
    for line, after in itertools.pairwise(texts):
        indent = len(line) - len(line.lstrip())
        is_one_text = indent > 3 and after.startswith(" " * indent + after.lstrip()[:1])
        if is_one_text and after.strip() and not line.endswith(")"):
            assert len(f"{line} {after.split()[0]}") > 76, (line, after)


@pytest.mark.parametrize("main", [export.main, predict.main, train.main, reproduce.main])
@pytest.mark.parametrize("width", [60, 100])
def test_no_line_of_a_help_text_is_wider_than_the_terminal(monkeypatch, capsys, main, width):
    monkeypatch.setenv("COLUMNS", str(width))
    lines = help_lines(capsys, main)
    assert max(map(len, lines)) == width


def test_a_paragraph_of_a_description_starts_a_line(monkeypatch):
    monkeypatch.setenv("COLUMNS", "22")

    @dataclasses.dataclass
    class Described:
        """Make a table of rows.

        `Rows-of` are
        cheap.
        """

    assert description(Described) == "  Make a table of\n  rows.\n  `Rows-of` are cheap."


def test_fields_of_bases_and_of_fields_that_are_declared_again_have_their_texts(capsys):
    @dataclasses.dataclass
    class Base:
        """Flags."""

        file: str = ""
        """A file, the description of which
        takes two lines."""

    @dataclasses.dataclass
    class Described(Base):
        """Flags."""

        file: Annotated[str, tyro.conf.arg(metavar="FILE")] = ""

    join_help_lines(Described)
    with pytest.raises(SystemExit):
        tyro.cli(Described, args=["--help"])
    assert "A file, the description of which takes two lines." in capsys.readouterr().out

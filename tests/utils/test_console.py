"""Progress on a terminal and elsewhere."""

import ast
import io
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from dien_jax.errors import UserError
from dien_jax.utils import console
from dien_jax.utils.console import (
    ProgressLine,
    print_result,
    replace_what_encodings_lack,
    say,
    stage,
)


def as_terminal(monkeypatch, stream: io.TextIOBase | None = None) -> io.TextIOBase:
    """Standard error as a terminal; pytest would replace it after a fixture."""
    stream = stream or io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return stream


def test_terminal_has_a_line_with_a_bar_and_keeps_its_cursor(monkeypatch, capfd):
    terminal = as_terminal(monkeypatch)
    line = ProgressLine()
    line.update("step 1 [of] 2 :smile:", 0.5)
    assert terminal.getvalue().rfind("\x1b[?25h") > terminal.getvalue().rfind("\x1b[?25l")
    line.say("one [line] above :smile:")
    line.close("the end")
    shown = terminal.getvalue()
    half = console.BAR_WIDTH // 2
    assert "━" * half + "╌" * half + " step 1 [of] 2 :smile:" in shown
    assert "one [line] above :smile:" in shown
    assert shown.endswith("the end\n")
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l")
    assert capfd.readouterr() == ("", "")


def test_dumb_terminal_gets_lines(monkeypatch):
    terminal = as_terminal(monkeypatch)
    monkeypatch.setenv("TERM", "dumb")
    with closing(ProgressLine()) as line:
        line.update("step 1", 0.5)
    assert terminal.getvalue() == "step 1\n"


def test_stage_says_what_it_does_and_did(capfd, monkeypatch):
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0.05)
    with stage("reading") as current:
        current.note = "half of it"
        time.sleep(0.2)
    first, *_, last = capfd.readouterr().err.splitlines()
    assert first == "  reading: half of it, 0 s"
    assert last.startswith("  reading: half of it (0.")


def test_stage_that_fails_ends_without_a_line(capfd):
    with pytest.raises(ZeroDivisionError), stage("dividing"):
        1 / 0  # noqa: B018
    assert capfd.readouterr() == ("", "")


ODD = "\x1b]0;title\x07 \u202egpj.exe \x9b31m \r\t\udcff é"
SHOWN = r"\u001b]0;title\u0007 \u202egpj.exe \u009b31m \u000d\u0009\udcff é"


def test_text_from_files_is_escaped_wherever_it_is_printed(capsys, monkeypatch):
    say(ODD)
    print_result(f"first\n{ODD}")
    ProgressLine().update(ODD)
    assert capsys.readouterr() == (f"first\n{SHOWN}\n", f"{SHOWN}\n{SHOWN}\n")
    terminal = as_terminal(monkeypatch)
    with closing(ProgressLine()) as line:
        line.update(ODD, 0.5)
        line.say(ODD)
    shown = terminal.getvalue()
    assert shown.count(SHOWN) >= 2
    assert not set("\x07\u202e\x9b\udcff") & set(shown)
    assert str(UserError(f"a.csv:2: {ODD}")) == f"a.csv:2: {SHOWN}"


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_what_an_encoding_lacks_is_replaced(name, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr(sys, name, stream)
    {"stdout": print_result, "stderr": say}[name]("naïve 語")
    replace_what_encodings_lack()
    print("— help", file=stream, flush=True)
    assert stream.buffer.getvalue() == b"na\\xefve \\u8a9e\n\\u2014 help\n"


def test_a_terminal_without_unicode_has_a_bar_of_ascii(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    as_terminal(monkeypatch, stream)
    replace_what_encodings_lack()
    half = console.BAR_WIDTH // 2
    with closing(ProgressLine()) as line:
        line.update("naïve", 0.5)
        line.update("no share")
        line.say("語")
    stream.flush()
    shown = stream.buffer.getvalue().decode("ascii")
    assert "#" * half + "-" * half + " na\\xefve" in shown


def test_nothing_else_in_the_package_prints():
    package = Path(console.__file__).parents[1]
    for file in package.rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        names = {getattr(n.func, "id", "") for n in ast.walk(tree) if isinstance(n, ast.Call)}
        assert "print" not in names or file == Path(console.__file__), file


def test_a_stage_tells_the_time_left_by_the_pace_since_its_first_progress(clock):
    current = console.Stage("writing")
    assert current.left(60.0) == ""
    clock[0] += 40.0  # of compilation
    current.share = 0.25
    assert current.left(current.seconds()) == ""
    clock[0] += 1.0
    current.share = 0.5
    assert current.left(1.0) == ""
    assert current.left(current.seconds()) == ", about 2 s left"
    current.now("counting")
    assert (current.left(60.0), str(current)) == ("", "writing: counting")

"""Every flag of every command that takes a number or a choice, with values that are none of its.

The cases are made from the dataclasses of the commands: a new flag has its cases at once. All are
refused before anything is read, compiled or written.
"""

import dataclasses
import importlib
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from support import faults
from support.faults import Case

from dien_jax import prepare

pytestmark = pytest.mark.long

LONG = "n" * 300
HUGE = str(10**30)
INTEGERS = {
    "text": "many",
    "nothing": "",
    "a fraction": "1.5",
    "NaN": "nan",
    "infinity": "inf",
    "-1": "-1",
    "10^30": HUGE,
    "5,000 digits": "1" * 5000,
}
NUMBERS = {
    "text": "many",
    "nothing": "",
    "NaN": "nan",
    "infinity": "inf",
    "minus infinity": "-inf",
    "-1": "-1",
    "10^39": "1e39",
    "5,000 digits": "1" * 5000,
}
CHOICES = {"another word": "nope", "nothing": "", "control characters": "\x1b[31m\n", "300": LONG}
VALUES: dict[Any, dict[str, str]] = {int: INTEGERS, float: NUMBERS, Literal: CHOICES}
LINES: dict[str, tuple[str, ...]] = {
    "train": ("--data", "data", "--run-dir", "new"),
    "evaluate": ("run",),
    "compare": ("run",),
    "tune": ("--data", "data", "--out", "new"),
    "reproduce": ("--data", "data", "--out", "new"),
    "explain": ("run", "--features"),
    "report": ("run",),
    "serve": ("run", "--port=0"),
    "prepare interactions": ("log.csv", "--out", "new"),
    "prepare synthetic": ("--out", "new"),
    "prepare authors": ("data", "--out", "new"),
    "prepare impressions": ("log.csv", "--out", "new"),
    "prepare amazon": ("--reviews", "log.csv", "--meta", "log.csv", "--out", "new"),
    "prepare movielens": ("--name", "100k", "--from", "log.csv", "--out", "new"),
    "prepare taobao": ("--from", "log.csv", "--out", "new"),
    "prepare alimama": ("--from", "data", "--out", "new"),
}
SHARED = ("impressions", "amazon", "movielens", "taobao", "alimama")
"""Sources whose flags are those of ``interactions``, but for a few: their cases are slow."""
EXPLAINED = {"example", "features"}
"""Flags of ``explain`` that exclude each other; the line has one."""


@pytest.fixture(scope="module")
def untouched(whole_workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the workspace for all cases: each is checked to leave it as it was."""
    return faults.copy(whole_workspace, tmp_path_factory.mktemp("flags") / "work")


@pytest.fixture
def attempt(untouched: Path, monkeypatch, record_property) -> Callable[[Case], None]:
    """Run a case, and note it for the report."""

    def run(case: Case) -> None:
        monkeypatch.chdir(untouched)
        record_property("fault", f"{case.command}: {case.kind}")
        faults.attempt(case, untouched)

    return run


def flags(options: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the flags of a dataclass, groups included, each with its kind: a key of ``VALUES``."""
    hints = typing.get_type_hints(options)
    for field in dataclasses.fields(options):
        hint = hints[field.name]
        if isinstance(hint, types.UnionType):
            hint = next(kind for kind in typing.get_args(hint) if kind is not type(None))
        if dataclasses.is_dataclass(hint):
            yield from flags(typing.cast(type, hint), f"{prefix}{field.name}.")
            continue
        kind = typing.get_origin(hint) or hint
        if kind is tuple:
            kind = typing.get_origin(element := typing.get_args(hint)[0]) or element
        yield f"{prefix}{field.name}", kind


def without(line: Sequence[str], flag: str) -> tuple[str, ...]:
    """Return a command line without a flag and its one value."""
    words = [word for word in line if not word.startswith(f"{flag}=")]
    if flag in words:
        place = words.index(flag)
        del words[place : place + 2]
    return tuple(words)


def _cases(command: str) -> Iterator[Case]:
    name, *source = command.split()
    module = importlib.import_module(f"dien_jax.{name}")
    options = prepare.SOURCES[source[0]][0] if source else module.Arguments
    for flag, kind in flags(options):
        if name == "explain" and flag in EXPLAINED:
            continue
        written = flag.replace("_", "-")
        for label, value in VALUES.get(kind, {}).items():
            line = (*source, *without(LINES[command], f"--{written}"), f"--{written}={value}")
            expected = flag.replace("_", "[-_]").replace(".", r"\.")
            yield Case(name, "values of flags", f"{' '.join((*source, written))}: {label}", line,
                       message=expected)  # fmt: skip


GENERATED = [case for command in LINES for case in _cases(command)]
QUICK = [case for case in GENERATED if case.arguments[0] not in SHARED]
SLOW = [case for case in GENERATED if case.arguments[0] in SHARED]


@pytest.mark.parametrize("case", QUICK, ids=str)
def test_values_that_are_none_are_refused(case, attempt):
    attempt(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOW, ids=str)
def test_values_that_are_none_are_refused_by_other_sources(case, attempt):
    attempt(case)


def test_every_command_has_cases():
    assert len(QUICK) > 250
    assert {line.split()[-1] for line in LINES if " " in line} == set(prepare.SOURCES)


TOO_LARGE = {
    "train": (
        "--model.embedding-size=1000000000",
        "--model.hidden-size=1000000000",
        "--model.layers=1000000000",
        "--model.attention-layers=2000000000",
        "--model.auxiliary-layers=2000000000",
        "--model.auxiliary-negatives=1000000000",
        "--train.batch-size=1000000000",
        "--train.max-history=1000000000",
    ),
    "prepare synthetic": (
        "--users=1000000000",
        "--items=10000000000",
        "--examples-per-user=1000000000",
        "--users=9000000000000000000",
    ),
    "prepare interactions": ("--negatives=1000000000", "--negatives=9000000000000000000"),
    "explain": ("--permutations=10000000000", f"--permutations={HUGE}"),
}
"""What would exceed the memory of any machine."""
INSTALLED = r"takes? at least [\d,.]+ GB, more than the [\d,.]+ GB of memory; (choose|draw)"
PROMISED = r"--memory 4GB is too little: .* take about [\d,]+GB; raise it, or prepare fewer"
MEMORY = [
    Case(
        *(command.split()[0], "memory", f"{command} {flag}"),
        (*command.split()[1:], *LINES[command], flag),
        message=PROMISED if command == "prepare interactions" else INSTALLED,
    )
    for command, changes in TOO_LARGE.items()
    for flag in changes
]


@pytest.mark.parametrize("case", MEMORY, ids=str)
def test_what_exceeds_the_memory_is_refused_with_an_estimate(case, attempt):
    attempt(case)


def empty_object(folder: Path) -> None:
    """Write a preset file without settings."""
    (folder / "preset.json").write_text("{}")


TOGETHER = {
    "train": {
        "preset and file": (("din", "--preset-file=preset.json"), "not both; got 'din'"),
        "preset behind flags": (("--seed=1", "din"), "preset comes before all flags"),
        "resume and a seed": (("--resume", "run", "--seed=1"), "--resume takes no other flag"),
        "resume and data": (("--resume=run", "--data=data"), "--resume takes no other flag"),
        "click rate, not calibrated": (
            ("--train.no-calibrate", "--train.click-rate=0.1"),
            r"train\.click_rate must be none without train\.calibrate",
        ),
        "decay without adamw": (("--optim.weight-decay=0.1",), "weight_decay must be 0 unless"),
        "auxiliary loss without extractor": (
            ("--model.extractor=none",),
            r"model\.auxiliary_weight must be 0 unless model\.extractor",
        ),
        "buckets that fall": (("--train.buckets", "8", "4"), "buckets must be rising"),
        "no layers": (("--model.layers",), r"model\.layers must be one or more"),
        "no device": (("--mesh.devices",), r"mesh\.devices must be one or more different ids"),
        "a device twice": (("--mesh.devices", "0", "0"), r"mesh\.devices .* got \(0, 0\)"),
        "a device that is not there": (
            ("--mesh.devices", "999"),
            r"mesh\.devices must be ids of devices that are there, 0.*, got 999",
        ),
        "devices of another number": (
            ("--mesh.devices", "0", "--mesh.data=2"),
            r"mesh\.data must be 1, the number of mesh\.devices, or left out, got 2",
        ),
    },
    "prepare interactions": {
        "shares of last-event": (
            ("--split=last-event", "--valid-share=0.2"),
            "have no effect with --split last-event",
        ),
        "shares that leave nothing": (
            ("--split=by-user", "--valid-share=0.5", "--test-share=0.5"),
            "--valid-share and --test-share must leave something",
        ),
        "one border": (("--split=by-time", "--valid-from=100"), "must be given together"),
        "borders by user": (
            ("--split=by-user", "--valid-from=1", "--test-from=2"),
            "--valid-from needs --split by-time",
        ),
        "user and item in one column": (
            ("--user=id", "--item=ID"),
            "--item must name another column than --user, got 'ID'",
        ),
        "one column twice": (("--item-features", "price", "price"), "price: that name is taken"),
        "an unknown kind": (("--item-features", "price:number"), "did you mean 'numeric'"),
        "no separator": (("--separator=",), "--separator must not be empty"),
        "Spark's flags without it": (("--spark-url=sc://x",), "need --engine spark"),
        "no address of Spark": (
            ("--engine=spark", "--spark-url=localhost"),
            "--spark-url localhost: expected sc://HOST:PORT",
        ),
        "no memory": (("--memory=",), "--memory must be a size such as 4GB"),
        "memory below 0": (("--memory=-1",), "--memory must be a size such as 4GB"),
        "a column of 5,000 letters": ((f"--user={'u' * 5000}",), r"\(--user\); its columns are"),
        "a column of control characters": (("--item=\x1b[31m\n",), r"'\\x1b\[31m\\n' \(--item\)"),
        "columns that are not named": (("--columns", ""), r"no column 'user' \(--user\)"),
    },
    "prepare impressions": {
        "a label that is a feature": (
            ("--label=clicked", "--context-features", "clicked"),
            "--context-features clicked: that column is the label",
        ),
        "a label that is the item": (("--label=item",), "--label must name another column than"),
    },
    "prepare amazon": {
        "name and files": (("--name=books",), "--name and --reviews with --meta exclude"),
    },
    "prepare taobao": {"no behaviour": (("--behaviours",), "--behaviours")},
    "explain": {
        "two subjects": (("--example=0",), "found --example with --features"),
        "a user alone": (("--user=u1",), "found --user and --item with --features"),
        "context of no request": (("--context", "slot", "top"), "--context needs --user"),
        "no permutation": (("--permutations=0",), "--permutations must be at least 1, got 0"),
    },
    "reproduce": {
        "no data": (("--data",), "--data must name one dataset folder or more"),
        "no seed": (("--seeds=0",), "--seeds must be 1 to"),
        "a row of no name": (("--rows", ""), "--rows '' is not a row"),
        "data of one name": (("--data", "data", "data"), "--data folders must have different"),
    },
    "tune": {"no trial": (("--trials=0",), "--trials must be at least 1")},
    "serve": {
        "no host": (("--host=",), "--host must not be empty"),
        "a long host": ((f"--host={LONG}",), "cannot listen on --host"),
        "no separator": (("--separator=",), "--separator must not be empty"),
    },
}
"""Flags that exclude or need each other, and text that a flag cannot be."""
WITHOUT_LINE = ("preset and file", "resume and a seed", "resume and data", "preset behind flags")
EXCLUSIVE = [
    Case(
        *(command.split()[0], "flags together", f"{command}: {name}"),
        (
            *command.split()[1:],
            *(() if name in WITHOUT_LINE else without(LINES[command], arguments[0])),
            *arguments,
        ),
        empty_object,
        message,
    )
    for command, cases in TOGETHER.items()
    for name, (arguments, message) in cases.items()
]


@pytest.mark.parametrize("case", EXCLUSIVE, ids=str)
def test_flags_that_do_not_go_together_are_refused(case, attempt):
    attempt(case)


AGAIN = {
    "train": ("--model.layers=8", "--model.layers", "--model.layers is given twice"),
    "reproduce": ("--rows=din", "--rows", "--rows is given twice"),
    "prepare interactions": (
        "--item-features=price",
        "--item-features",
        "--item-features is given twice; expected it once, followed by all its values",
    ),
}
"""Flags of several values that are given again: the first values would be lost."""
TWICE = [
    Case(
        *(command.split()[0], "flags given twice", command),
        (*command.split()[1:], *LINES[command], *again, "8"),
        message=message,
    )
    for command, (*again, message) in AGAIN.items()
]


@pytest.mark.parametrize("case", TWICE, ids=str)
def test_lists_that_are_given_twice_are_refused(case, attempt):
    attempt(case)


PATHS = {
    "train": ("--data", "--run-dir", "--warm-start", "--preset-file", "--resume"),
    "evaluate": ("--data", "--predictions"),
    "predict": ("--input", "--out", "--data"),
    "compare": ("--out", "--data"),
    "baselines": ("--out",),
    "tune": ("--data", "--out", "--space"),
    "reproduce": ("--data", "--out"),
    "report": ("--data",),
    "explain": ("--data",),
    "export": ("--data", "--out", "--onnx"),
    "serve": ("--data",),
    "prepare interactions": ("--out", "--extend"),
    "prepare synthetic": ("--out",),
    "prepare authors": ("--out",),
    "prepare movielens": ("--from", "--out"),
    "prepare taobao": ("--from", "--out"),
    "prepare alimama": ("--from", "--out"),
    "prepare amazon": ("--reviews", "--meta"),
}
NEEDED = {
    "predict": ("run", "--input", "queries.csv", "--out", "scores.csv"),
    "baselines": ("data",),
    "export": ("run", "--out", "other.dien"),
}


def _with_path(command: str, flag: str, value: str) -> tuple[str, ...]:
    line = (*NEEDED.get(command, ()), *LINES.get(command, ()))
    line = () if flag == "--resume" else without(line, flag)
    return (*command.split()[1:], *line, flag, value)


NAMES = [
    Case(
        *(command.split()[0], "paths", f"{command} {flag}: a name of 300 letters"),
        _with_path(command, flag, LONG),
        message=f"{LONG[:30]}|File name too long",
    )
    for command, paths in PATHS.items()
    for flag in paths
]
MISSING = [
    Case(
        *(command.split()[0], "paths", f"{command} {flag}: does not exist"),
        _with_path(command, flag, "nowhere/at-all"),
        message=r"nowhere(/at-all)?\b",
    )
    for command, paths in PATHS.items()
    for flag in paths
    if flag not in ("--out", "--run-dir", "--meta")
]
EMPTY = [
    Case(
        *(command.split()[0], "paths", f"{command} {flag}: empty"),
        _with_path(command, flag, ""),
        message=f"{flag} must not be empty: expected a path",
    )
    for command, paths in PATHS.items()
    for flag in paths
]


@pytest.mark.parametrize("case", NAMES + MISSING + EMPTY, ids=str)
def test_paths_that_cannot_be_are_refused(case, attempt):
    attempt(case)

"""Every flag of every command that takes a number or a choice, with values that are none of its.

The cases are made from the dataclasses of the commands: a new flag has its cases at once. All are
refused before anything is read, compiled or written.
"""

import dataclasses
import importlib
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import pytest
from support import faults
from support.faults import PREPARE, Case

from dien_jax import Config, prepare

pytestmark = pytest.mark.long
LONG, DIGITS, HUGE = "n" * 300, "1" * 5000, str(10**30)
VALUES: dict[Any, tuple[str, ...]] = {
    int: ("1.5", "-1", HUGE),
    float: ("nan", "-1", "1e39"),
    Literal: ("\x1b[31m\n",),
}
"""Values that every flag of a type refuses, by itself or by its limits."""
WORDS = ("many", "", "inf", "-inf", DIGITS, LONG)
"""Values of :data:`ONE`: a parser refuses them for all flags of a type alike."""
ONE = ("train --seed", "train --optim.learning-rate", "train --optim.schedule", "prepare --split")
LINES: dict[str, tuple[str, ...]] = {
    "train": ("--data", "data", "--run-dir", "new"),
    "evaluate": ("run",),
    "compare": ("run",),
    "reproduce": ("--data", "data", "--out", "new"),
    "explain": ("run", "--example=0"),
    "report": ("run",),
    "serve": ("run", "--port=0"),
    "prepare interactions": ("log.csv", "--out", "new"),
    "prepare synthetic": ("--out", "new"),
    "prepare authors": ("data", "--out", "new"),
    "prepare impressions": ("log.csv", "--out", "new"),
    "prepare amazon": ("--reviews", "log.csv", "--meta", "log.csv", "--out", "new"),
    "prepare movielens": ("--name", "1m", "--from", "log.csv", "--out", "new"),
    "prepare taobao": ("--from", "log.csv", "--out", "new"),
    "prepare alimama": ("--from", "data", "--out", "new"),
}


def flags(options: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the flags of a dataclass, groups included, each with its kind: a key of ``VALUES``."""
    hints = typing.get_type_hints(options)
    for field in dataclasses.fields(options):
        hint = hints[field.name]
        if typing.get_origin(hint) in (typing.Union, types.UnionType):
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


def _cases() -> Iterator[Case]:
    shared = {name for name, _ in flags(prepare.SOURCES["interactions"][0])}
    for command, line in LINES.items():
        name, *source = command.split()
        module = importlib.import_module(f"dien_jax.{name}")
        options = prepare.SOURCES[source[0]][0] if source else module.Arguments
        for flag, kind in flags(options):
            if source and source != ["interactions"] and flag in shared:
                continue
            written = f"--{flag.replace('_', '-')}"
            more = WORDS if f"{name} {written}" in ONE and "synthetic" not in source else ()
            for value in (*VALUES[kind], *more) if kind in VALUES else ():
                words = (*source, *without(line, written), f"{written}={value}")
                expected = flag.replace("_", "[-_]").replace(".", r"\.")
                yield Case(name, f"{written}={value[:20]!r}, {source}", words, message=expected)


CASES = list(_cases())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_that_are_none_are_refused(case, workspace):
    faults.attempt(case, workspace)


def test_every_command_has_cases_and_every_setting_of_a_number_has():
    tried = {f"{case.command} {case.name.partition('=')[0]}" for case in CASES}
    assert set(ONE) <= tried
    for group, settings in dataclasses.asdict(Config()).items():
        numbers = [name for name, value in settings.items() if type(value) in (int, float)]
        assert {f"train --{group}.{name.replace('_', '-')}" for name in numbers} <= tried
    assert {line.split()[-1] for line in LINES if " " in line} == set(prepare.SOURCES)


EXTEND = ("--extend=data", *PREPARE[5:])
FEW = ("category:categorical", "price:numeric")
LATE = ("--split=by-time", "--valid-from=103")
THAT_OF = "error: --extend data: {} must be (?:that|those) of that folder, {}"
TOGETHER: dict[str, dict[tuple[str, ...], str]] = {
    "train": {
        ("din", "--preset-file=preset.json"): "not both; got 'din'",
        ("--seed=1", "din"): "preset comes before all flags",
        ("--resume", "run", "--seed=1"): "--resume takes no other flag",
        ("--resume=run", "--data=data"): "--resume takes no other flag",
        ("--preset=din",): "[Uu]nrecognized .*--preset",
        ("--model.extractor=none",): r"model\.auxiliary_weight must be 0 unless model\.extractor",
        ("--model.layers",): r"model\.layers must be one or more",
        ("--model.layers=8", "--model.layers", "8"): "--model.layers is given twice",
    },
    "evaluate": {("--distributed.processes=2",): "[Uu]nrecognized .*--distributed"},
    "prepare interactions": {
        ("--split=last-event", "--valid-share=0.2"): "have no effect with --split last-event",
        ("--split=by-user", "--valid-share=0.5", "--test-share=0.5"): "must leave something",
        ("--split=by-time", "--valid-from=100"): "must be given together",
        ("--user=id", "--item=ID"): "--item must name another column than --user, got 'ID'",
        ("--item-features", "price", "price"): "price: that name is taken",
        ("--item-features", "price:number"): "did you mean 'numeric'",
        ("--item-features=price", "--item-features", "8"): "--item-features is given twice",
        ("--user-features", "c", "--item-features", "C"): "C: .* is taken by|c: .* is taken by",
        ("--separator=",): "--separator must not be empty",
        ("--spark-url=sc://x",): "need --engine spark",
        ("--engine=spark", "--spark-url=localhost"): "localhost: expected sc://HOST:PORT",
        ("--memory=-1",): "--memory must be a size such as 4GB",
        (f"--memory={'9' * 400}GB",): "--memory must be a size such as 4GB",
        ("--memory=100MB",): "--memory 100MB is too little: the program takes at least",
        (f"--user={'u' * 5000}",): r"\(--user\); its columns are",
        ("--item=\x1b[31m\n",): r"'\\x1b\[31m\\n' \(--item\)",
        ("--user=User",): "no column 'User' .* did you mean 'user'",
        ("--columns", ""): r"no column 'user' \(--user\)",
        ("--valid-from=3", "--test-from=4"): "needs --split by-time",
        ("--train-from=2",): "--train-from needs --split by-time, got --split last",
        ("--item-features", "a b"): "must be letters.*rename the column",
        ("--user-features=item",): "that name is taken by the item id",
        ("--negatives=1000000000",): "--memory 4GB is too little: .*; raise it, or prepare less",
        (*LATE, "--test-from=102"): "--test-from must not be before --valid-from, got 102 < 103",
        (*LATE, "--test-from=104", "--train-from=103"): (
            "--train-from must be before validation, which starts at 103, got"
        ),
        (*LATE, "--test-from=104", "--train-from=soon"): (
            "--train-from must be a whole number or an ISO date"
        ),
        ("--extend=nowhere",): "--extend: dataset folder nowhere does not exist",
        ("--item-features", *FEW, "--extend=data"): THAT_OF.format(
            "--item-features",
            r"category \(c.*\), price \(numeric\), tags .*, got category .*, price \(numeric\)$",
        ),
        ("--timestamp=price", *EXTEND): THAT_OF.format("--timestamp", "'timestamp', got 'price'"),
        ("--split=by-user", *EXTEND): THAT_OF.format("--split", "'last-event', got 'by-user'"),
        ("--negatives=2", *EXTEND): THAT_OF.format("--negatives", "1, got 2"),
        ("--max-values=2", *EXTEND): THAT_OF.format("--max-values", "20, got 2"),
        ("--max-examples=2", *EXTEND): THAT_OF.format("--max-examples", "none, got 2"),
    },
    "prepare impressions": {
        ("--label=clicked", "--request-features", "clicked"): "that column is the label",
        ("--label=item",): "--label must name another column than",
        ("--label=click",): r"no column 'click' \(--label\)",
        ("--label=price", "--request-features", "hour"): r"no column 'hour' \(--request-features\)",
        ("--request-features=label",): "that name is taken by another column of every example",
        ("--request-features=sequence",): "that name is taken by another column of every example",
    },
    "prepare taobao": {("--behaviours",): "--behaviours must name at least one of pv, cart"},
    "explain": {
        ("--user=u1",): "expected --example, or --user and --item; found --example and --user",
        ("--request-features", "slot", "top"): "--request-features needs --user",
    },
    "reproduce": {
        ("--data",): "--data must name one dataset folder or more",
        ("--seeds=0",): "--seeds must be 1 to",
        ("--rows", ""): "--rows '' is not a row",
        ("--rows", "din", "dien", "din"): "--rows must name each row once, got 'din', 'dien'",
        ("--data", "data", "data"): "--data folders must have different",
    },
    "serve": {
        ("--host=",): "--host must not be empty",
        (f"--host={LONG}",): "cannot listen on --host",
        ("--separator=",): "--separator must not be empty",
    },
}
"""Flags that exclude or need each other, text that a flag cannot be, and what exceeds a limit."""
ALONE = ("--preset-file=preset.json", "--resume", "--resume=run", "--seed=1")


def _line(command: str, words: tuple[str, ...]) -> tuple[str, ...]:
    own = () if {*words} & {*ALONE} else without(LINES[command], words[0])
    return (*command.split()[1:], *own, *words)


EXCLUSIVE = [
    Case(command.split()[0], " ".join(words)[:60], _line(command, words),
         lambda folder: (folder / "preset.json").write_text("{}"), message)
    for command, cases in TOGETHER.items()
    for words, message in cases.items()
]  # fmt: skip


@pytest.mark.parametrize("case", EXCLUSIVE, ids=str)
def test_flags_that_do_not_go_together_or_ask_for_too_much_are_refused(case, workspace):
    faults.attempt(case, workspace)


PATHS = {
    "train": "--data --run-dir --warm-start --preset-file --resume",
    "evaluate": "--data --predictions",
    "predict": "--input --out --data",
    "recommend": "--users --out --data --candidates --exclude",
    "compare": "--data",
    "baselines": "--out",
    "reproduce": "--data --out",
    "report": "--data",
    "explain": "--data",
    "export": "--data --out --onnx",
    "serve": "--data",
    "prepare interactions": "--out --extend",
    "prepare synthetic": "--out",
    "prepare authors": "--out",
    "prepare movielens": "--from --out",
    "prepare taobao": "--from --out",
    "prepare alimama": "--from --out",
    "prepare amazon": "--reviews --meta",
}
NEEDED = {
    "predict": ("run", "--input", "queries.csv", "--out", "scores.csv"),
    "recommend": ("run", "--users", "queries.csv", "--out", "lists.csv"),
    "baselines": ("data",),
    "export": ("run", "--out", "other.dien"),
}
MISSING = "nowhere/at-all"


def _paths() -> Iterator[Case]:
    for command, flags_ in PATHS.items():
        for flag in flags_.split():
            whole = (*NEEDED.get(command, ()), *LINES.get(command, ()))
            line = (*command.split()[1:], *(without(whole, flag) if flag != "--resume" else ()))
            values = {LONG: f"{LONG[:30]}|File name too long"}
            values[""] = f"{flag} must not be empty: expected a path"
            if flag not in ("--out", "--run-dir", "--meta"):
                values[MISSING] = r"nowhere(/at-all)?\b"
            for value, message in values.items():
                name = f"{command} {flag} {value[:20]!r}"
                yield Case(command.split()[0], name, (*line, flag, value), message=message)


@pytest.mark.parametrize("case", list(_paths()), ids=str)
def test_paths_that_cannot_be_are_refused(case, workspace):
    faults.attempt(case, workspace)

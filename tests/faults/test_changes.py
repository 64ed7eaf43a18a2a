"""Commands whose files change while they run, that run without JIT, or in a forked process.

Cases are made: every command meets every event. It ends as if nothing had happened, or with one
line that says what happened: never with other results, a traceback, a signal or no end. Those of
:data:`QUICK` run with the ordinary tests, on both Pythons.
"""

import contextlib
import hashlib
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jaxtyping
import numpy as np
import pytest
from support import faults
from support.fault_programs import PROGRAMS, remove
from support.faults import Ending
from support.http_server import Server
from support.programs import forked

from dien_jax.__main__ import commands
from dien_jax.data import dataset as datasets
from dien_jax.data.arrays import FolderFiles
from dien_jax.errors import UserError
from dien_jax.inference import archive
from dien_jax.inference.ranker import Ranker
from dien_jax.runs.folder import Run

Event = Callable[[Path], object]
LINES: dict[str, tuple[str, ...]] = {
    **{name: program.line for name, program in PROGRAMS.items() if name != "prepare"},
    "compare": ("compare", "run", "other"),
    "baselines": ("baselines", "data", "--out", "out"),
    "explain": ("explain", "run", "--example", "0"),
    "report": ("report", "run", "--out", "out.html"),
    "warm start": (*PROGRAMS["train"].line, "--warm-start", "other"),
    "serve": (),
}
"""Command lines; ``extend`` is the ``prepare`` that reads a dataset folder, ``serve`` is below."""
REQUEST = {"history": ["i1"], "candidates": ["i2", "i3"], "user": "u1"}
QUICK = "predict"
"""The command whose cases do not wait for the long tests."""


def marked(names: Iterable[str]) -> list[Any]:
    """Return parameters, all but that of the quick command long."""
    return [pytest.param(n, marks=() if n == QUICK else pytest.mark.long) for n in names]


def test_every_command_has_a_case():
    assert {*LINES} - {"extend", "warm start"} | {"prepare"} == {*commands()}


def serve(workspace: Path) -> Ending:
    try:
        server = Server(workspace / "run").warm()
    except UserError as error:
        return Ending(2, str(error))
    answer = server.post("/v1/rank", REQUEST)
    server.end()
    return Ending(0 if answer.status_code == 200 else answer.status_code, answer.text)


def run(name: str, workspace: Path, *flags: str) -> Ending:
    return faults.run_in_process(*LINES[name], *flags) if LINES[name] else serve(workspace)


def results(name: str, ending: Ending, workspace: Path) -> Any:
    """Return what a command made: its files or, without them, its output; no times."""
    if name == "export":  # programs name their places in the process that wrote them
        entries = zipfile.ZipFile(workspace / "out").infolist()
        return {one.filename: one.CRC for one in entries if one.filename.endswith(".npy")}
    if name in PROGRAMS or name == "warm start":
        return PROGRAMS.get(name, PROGRAMS["train"]).results(workspace / "out")
    files = [path for path in sorted(workspace.glob("out*/**/*")) if path.is_file()]
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    lines = ending.output.splitlines()  # how many tell seconds depends on the machine
    return digests, [line for line in lines if not re.search(r"[\d.]+ s\b", line)]


class Whole(NamedTuple):
    """What a command makes that nothing disturbs, and how often it checks or reads files."""

    results: Any
    moments: int


@contextlib.contextmanager
def counted(at: int = 0, event: Callable[[], object] = lambda: None) -> Iterator[list[int]]:
    """Count checks of datasets and entries of archives that are read; let something happen."""
    count = [0]

    def hooked(function: Callable) -> Callable:
        def call(*arguments: Any, **options: Any) -> Any:
            value = function(*arguments, **options)
            count[0] += 1
            if count[0] == at:
                event()
            return value

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FolderFiles, "check", hooked(FolderFiles.check))
        patch.setattr(archive, "_content", hooked(archive._content))
        yield count


@cache
def whole(name: str, place: Path) -> Whole:
    """Return the undisturbed run of a command; leave the place as it was."""
    before = faults.contents(place)
    with counted() as count:
        ending = run(name, place)
    assert ending.status == 0, ending.output
    made = Whole(results(name, ending, place), count[0])
    remove(place, before)
    return made


@pytest.fixture
def place(place: Path) -> Path:
    """A workspace with a second run."""
    shutil.copytree(place / "run", place / "other")
    return place


def rewritten(file: Path) -> None:
    """Write the values of an array in place, in another order."""
    values = np.load(file)
    with file.open("r+b") as stream:
        stream.seek(-values.nbytes, os.SEEK_END)
        stream.write(values[::-1].tobytes())


CHANGES = (partial(os.truncate, length=0), rewritten, Path.unlink)


def change_arrays(place: Path, first: int) -> None:
    """Change each mapped file in another way, in turn."""
    for number, file in enumerate(sorted((place / "data").rglob("*.npy"))):
        CHANGES[(number + first) % len(CHANGES)](file)


def change_texts(place: Path) -> None:
    """Put the lines of each text in another order: in another file, or for users in place."""
    for file in place.glob("data/**/*.txt"):
        first, *lines = file.read_text().splitlines(keepends=True)
        new = file if file.stem in ("user", "groups") else file.with_suffix(".new")
        new.write_text(first + "".join(lines[::-1]))
        new.replace(file)


def change_settings(place: Path, change: Event) -> None:
    for file in place.rglob("config.json"):
        change(file)


EVENTS: dict[str, Event] = {
    **{f"arrays {first}": partial(change_arrays, first=first) for first in range(len(CHANGES))},
    "texts": change_texts,
    "folder": lambda place: shutil.rmtree(place / "data"),
    "settings removed": partial(change_settings, change=Path.unlink),
    "settings emptied": partial(change_settings, change=partial(Path.write_text, data="{}")),
}
SLOW = ("export", "train", "warm start", "baselines", "report", "compare", "extend")
"""Commands that take seconds: several events in one run."""
READING = sorted(LINES.keys() - {"reproduce"})
"""All but ``reproduce``, which reads data and trains by the functions of ``train``."""
AT_ONCE = ("arrays 0", "texts", "settings removed"), ("folder", "settings emptied")
REFUSED = r"changed while it was in use|is not a run folder|config.json: expected format_version"
REFUSED += r"|data/[\w/.]+:? cannot be read"


def _cases() -> Iterator[Any]:
    for number, name in enumerate(READING):
        marks = () if name == QUICK else pytest.mark.long
        for events in [AT_ONCE[number % 2]] if name in SLOW else [(event,) for event in EVENTS]:
            yield pytest.param(name, events, marks=marks)


@pytest.mark.parametrize(("name", "events"), list(_cases()))
def test_what_changes_meanwhile_changes_no_result(name, events, place):
    expected = whole(name, place)
    at = (expected.moments + 1) // 2 if "settings" in events[-1] else 1
    with counted(at, lambda: [EVENTS[event](place) for event in events]):
        ending = run(name, place)
    assert "Traceback" not in ending.output, ending.output
    if ending.status == 2:
        assert re.search(REFUSED, ending.output), ending.output
        return
    assert ending.status == 0, ending.output
    assert results(name, ending, place) == expected.results
    for file in place.glob("out/**/config.json"):  # as what resumes the run needs it
        Run.load(file.parent)


@pytest.mark.parametrize("name", marked(name for name in READING if name != "serve"))
def test_mapped_arrays_that_are_rewritten_meanwhile_change_no_result(name, place, monkeypatch):
    """Those of a large folder are not in memory; a server has copies. What was saved is resumed."""
    expected, before = whole(name, place), faults.contents(place)
    monkeypatch.setattr(datasets, "open_folder", partial(datasets.open_folder, in_memory=0))

    def rewrite() -> None:
        for file in (*place.glob("data/**/*.npy"), *place.glob("run/*.npy")):
            rewritten(file)

    moments = [1, expected.moments // 2, expected.moments - 1]
    for at in moments[1:2] if name in SLOW else moments:
        with counted(at, rewrite):
            ending = run(name, place)
        assert ending.status in (0, 2), ending.output
        refused = "changed while it was in use|error: data/.*: expected"  # if it is opened again
        assert not ending.status or re.search(refused, ending.output), ending.output
        rewrite()  # the order is as it was
        if ending.status and name in ("train", "warm start"):
            is_begun = (place / "out" / "config.json").exists()
            line = ("train", "--resume", "out") if is_begun else LINES[name]
            ending = faults.run_in_process(*line)
            assert ending.status == 0, ending.output
        if ending.status == 0:
            assert results(name, ending, place) == expected.results
        remove(place, before)


def cut(model: Path) -> None:
    for file in [model, *model.glob("checkpoints/**/*")]:
        if file.is_file():
            os.truncate(file, file.stat().st_size // 2)


def moved(model: Path) -> None:
    """Move a model away; another run takes the place of a run."""
    if model.rename(model.with_name("moved")).is_dir():
        shutil.copytree(model.with_name("other"), model)
        (model / "config.json").touch()


@pytest.mark.long
@pytest.mark.parametrize(("name", "change"), [("run", cut), ("out", cut), ("out", moved)])
def test_a_model_that_changes_while_it_is_reloaded_is_not_used(name, change, place, caplog):
    assert name == "run" or faults.run_in_process(*LINES["export"]).status == 0
    model = place / name
    (shutil.copytree if model.is_dir() else shutil.copy2)(model, place / "kept")
    server = Server(model).warm()
    scores = server.post("/v1/rank", REQUEST).json()["scores"]
    with counted(1, lambda: change(model)):
        assert not server.current.update(server.batcher, force=True)
    error = server.get("/readyz").json()["reload_error"]
    assert str(model) in error
    assert f"reload failed, model kept: {error}" in caplog.text
    assert server.metric("dien_reloads_total", result="failed") == 1
    assert server.post("/v1/rank", REQUEST).json()["scores"] == scores
    if model.exists():
        model.rename(place / "changed")
    (place / "kept").rename(model)
    assert server.current.update(server.batcher, force=True)
    assert "reload_error" not in server.get("/readyz").json()
    server.end()


@pytest.mark.long
def test_a_run_that_takes_the_place_of_one_while_it_is_reloaded_is_used(place) -> None:
    server = Server(place / "run").warm()
    with counted(1, lambda: moved(place / "run")):
        assert server.current.update(server.batcher, force=True)
    scores = server.post("/v1/rank", REQUEST).json()["scores"]
    expected = Ranker(place / "run").rank(**REQUEST).scores
    np.testing.assert_allclose(scores, expected, rtol=1e-4)
    server.end()


@contextlib.contextmanager
def without_jit() -> Iterator[None]:
    """Compile nothing in a block, in any thread; arrays of NumPy then reach the inner functions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        jax.config.update("jax_disable_jit", True)
        try:
            yield
        finally:
            jax.config.update("jax_disable_jit", False)


def scores(file: Path) -> list[float]:
    return [float(number) for number in re.findall(r"\d\.\d{3,}(?:e-\d+)?", file.read_text())]


@pytest.mark.parametrize("name", marked(["predict", "recommend", "evaluate"]))
def test_without_jit_scores_are_those_with_it(name, place):
    with without_jit():
        ending = run(name, place)
    assert ending.status == 0, ending.output
    found = scores(place / "out")
    assert run(name, place).status == 0
    assert found == pytest.approx(scores(place / "out"), rel=1e-5)  # a sum in another order


@pytest.mark.filterwarnings("ignore:os.fork")
@pytest.mark.parametrize("name", marked(LINES))
def test_a_forked_process_works_or_says_what_to_do(name, place):
    """JAX's threads do not survive a fork: a call would wait for ever."""
    jax.device_put(1)

    def status_and_end() -> str:
        ending = run(name, place)
        return f"{ending.status} {ending.output[-4000:]}"

    found = forked(status_and_end)
    assert re.match(r"0 |2 .*forked from process \d+|UserError: .*forked from", found, re.S), found

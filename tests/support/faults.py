"""The fault campaign: what a case is, the folder it runs in, and what every command owes its user.

A case breaks something, runs a command, and states the exit status, the message and what is left on
disk. For every case: no traceback, no change of a file that the case does not name, an end within
a minute.
"""

import contextlib
import hashlib
import importlib
import io
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from dien_jax.runs.list_weights import ListWeights
from dien_jax.utils.files import LOCK_FILE
from support.forks import Forks, Job
from support.json_files import edit_json
from support.tiny_run import LIGHT, SETTINGS

SECONDS = 60
"""A command that takes longer hangs."""
CACHES = {"__pycache__"}


@dataclass(frozen=True)
class Case:
    """A command that meets something broken.

    Attributes:
      command: ``"predict"`` for ``python -m dien_jax.predict``.
      name: the case, in a few words that differ from those of every other case of its file.
      arguments: command line; paths are relative to the workspace, see :func:`make_workspace`.
      damage: breaks the workspace before the command runs.
      message: pattern that the output (both streams) must contain.
      status: exit status.
      left: patterns of files that the command makes or changes; each must match one if it ends
        well, and nothing else may change.
      environment: variables to set; the command then runs in a process of its own.
    """

    command: str
    name: str
    arguments: tuple[str, ...]
    damage: Callable[[Path], object] | None = None
    message: str = ""
    status: int = 2
    left: tuple[str, ...] = ()
    environment: Mapping[str, str] | None = field(default=None, hash=False)

    def __str__(self) -> str:
        return f"{self.command}: {self.name}"


class Hangs(BaseException):
    """The end of a command that takes too long; no command handles it."""


class Ending(NamedTuple):
    """How a command ended: its status, and what it wrote to both streams."""

    status: int
    output: str


def make_workspace(folder: Path) -> Path:
    """Make the folder that every case gets a copy of.

    ``log.csv``: 20 users of 8 events with a category, a price and a multi-valued column; ``data``:
    the folder that ``prepare`` makes of it; ``run``: a model without recurrence, trained on it;
    ``queries.csv``: a table to score. :func:`export` adds ``model.dien``.
    """
    folder.mkdir()
    rows = [
        f"u{user},i{item},c{item % 3},{item % 5 + 0.5},t{item % 2}|t{item % 3},{100 + 10 * time}"
        for user in range(20)
        for time in range(8)
        for item in [(3 * user + 5 * time + time * time) % 17]
    ]
    header = "user,item,category,price,tags,timestamp"
    (folder / "log.csv").write_text("\n".join([header, *rows, ""]))
    (folder / "queries.csv").write_text(
        "user,item,history\nu1,i3,i1|i2\nu2,i4,\n,i5,i6|i1|i2\nnobody,nothing,i1\n"
    )
    with contextlib.chdir(folder):
        for line in (PREPARE, TRAIN):
            ending = run_in_process(*line)
            assert ending.status == 0, ending.output
    # What a run with other loggers than the default has; those would need packages.
    (folder / "run" / "loggers.json").write_text('{"loggers": ["tensorboard"], "runs": {}}\n')
    ListWeights(13).save(folder / "run")  # its clicks of validation are too few
    return folder


def export(workspace: Path) -> None:
    with contextlib.chdir(workspace):
        ending = run_in_process("export", "run", "--out", "model.dien")
    assert ending.status == 0, ending.output


PREPARE = (
    *("prepare", "interactions", "log.csv", "--out", "data", "--item-features"),
    *("category", "price:numeric", "tags:multivalued"),
)
TRAIN = (*("train", "--data", "data", "--run-dir", "run", *SETTINGS, *LIGHT), "--train.epochs=1")


def run_in_process(command: str, *arguments: str) -> Ending:
    """Run a command in this process; an exception that it does not handle is raised."""
    main = importlib.import_module(f"dien_jax.{command}").main
    streams = io.StringIO()
    with contextlib.redirect_stdout(streams), contextlib.redirect_stderr(streams):
        try:
            status = main(list(arguments))
        except SystemExit as stop:  # how flags are refused
            status = stop.code if isinstance(stop.code, int) else 1
    return Ending(status, streams.getvalue())


def attempt(case: Case, workspace: Path) -> None:
    """Run a case in the current folder, a copy of the workspace, and hold it to its terms."""
    if case.damage is not None:
        case.damage(workspace)
    before = contents(workspace)
    if case.environment is None:
        with _limit(SECONDS):
            ending = run_in_process(case.command, *case.arguments)
    else:
        forks = Forks(**case.environment)
        (ended,) = forks.run(Job((case.command, *case.arguments)))
        forks.end()
        ending = Ending(ended.status, ended.output + ended.said)
    told = f"{case}\n{ending.output}"
    assert "Traceback" not in ending.output, told
    assert ending.status == case.status, told
    assert re.search(case.message, flat(ending.output)), told
    after = contents(workspace)
    changed = {path for path, digest in after.items() if before.get(path) != digest}
    gone = before.keys() - after.keys()
    unexpected = [path for path in sorted(changed | gone) if not _is_named(path, case.left)]
    assert not unexpected, f"changed: {unexpected}"
    if case.status == 0:
        missing = [name for name in case.left if not any(_is_named(p, (name,)) for p in changed)]
        assert not missing, f"not written: {missing}"


def contents(folder: Path) -> dict[str, str]:
    """Return every file, link and folder below a folder, and a digest of what it holds.

    A lock stays where it was, with the number of the last process that held it.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        if CACHES & set(path.parts) or path.name == LOCK_FILE:
            continue
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = f"link to {path.readlink()}"
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = "folder" if path.is_dir() else "other"
    return found


def copy(workspace: Path, target: Path) -> Path:
    """Copy a workspace; its run was trained on the data of the copy."""
    shutil.copytree(workspace, target, symlinks=True)
    for name in ("config.json", "result.json"):
        file = target / "run" / name
        file.write_text(file.read_text().replace(str(workspace), str(target)))
    return target


def restore(workspace: Path, pristine: Path, expected: dict[str, str]) -> None:
    """Make a workspace equal to a copy of it again, whose contents are given."""
    changed = {path for path, _ in contents(workspace).items() ^ expected.items()}
    for path in changed:
        target = workspace / path
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        elif os.path.lexists(target):
            target.unlink()
    for path in sorted(changed & expected.keys()):  # folders before what is in them
        source, target = pristine / path, workspace / path
        if source.is_dir():
            target.mkdir()
        else:
            shutil.copy2(source, target)


def unfinish(folder: Path) -> None:
    """Make the run of a workspace one that was stopped after its first epoch of three."""
    edit_json(folder / "run" / "config.json", "train", "epochs", value=3)
    (folder / "run" / "result.json").unlink()


def flat(text: str) -> str:
    """Return output as one line without the frames and breaks that a terminal's width makes."""
    return " ".join(re.sub("[│╭╮╰╯─]", " ", text).split())


def _is_named(path: str, patterns: tuple[str, ...]) -> bool:
    return any(Path(path).match(name) or path.startswith(f"{name}/") for name in patterns)


@contextlib.contextmanager
def _limit(seconds: int) -> Iterator[None]:
    """Raise ``Hangs`` in a block that takes too long."""

    def stop(*_: object) -> None:
        raise Hangs(f"the command took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)

"""The workspace of the fault campaign, made once a session, and the test that runs a case."""

import fcntl
from collections.abc import Callable
from pathlib import Path

import pytest
from support import faults
from support.faults import Case


@pytest.fixture(scope="session")
def whole_workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workspace, to be read only; processes of one session share it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if base.name.startswith("popen-") else base) / "fault-workspace"
    with (folder.parent / "fault-workspace.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            faults.make_workspace(folder)
    return folder


@pytest.fixture
def workspace(whole_workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the workspace; it is the current folder."""
    folder = faults.copy(whole_workspace, tmp_path / "work")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def attempt(
    workspace: Path, record_property: Callable[[str, object], None]
) -> Callable[[Case], None]:
    """Run a case, and note it for the report, ``tests/faults/report.py``."""

    def run(case: Case) -> None:
        record_property("fault", f"{case.command}: {case.kind}")
        faults.attempt(case, workspace)

    return run

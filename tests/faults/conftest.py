"""The workspace of the fault campaign, made once a session, and the test that runs a case."""

import fcntl
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import faults, preloaded
from support.fault_programs import add_inputs
from support.faults import Case


@pytest.fixture(scope="session")
def whole_workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workspace, to be read only; processes of one session share it."""
    return shared(tmp_path_factory, "fault-workspace", faults.make_workspace)


@pytest.fixture(scope="session")
def workspace_without_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workspace without ``model.dien``, for tests that need none of its content."""
    return shared(tmp_path_factory, "fault-trained", faults.make_trained_workspace)


def shared(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that the first process of the session makes."""
    base = factory.getbasetemp()
    folder = (base.parent if base.name.startswith("popen-") else base) / name
    with folder.with_name(f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            make(folder)
    return folder


@pytest.fixture
def workspace(whole_workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the workspace; it is the current folder."""
    folder = faults.copy(whole_workspace, tmp_path / "work")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def place(workspace: Path) -> Path:
    """A workspace with the inputs of all programs."""
    add_inputs(workspace)
    return workspace


@pytest.fixture
def attempt(
    workspace: Path, record_property: Callable[[str, object], None]
) -> Callable[[Case], None]:
    """Run a case, and note it for the report, ``tests/faults/report.py``."""

    def run(case: Case) -> None:
        record_property("fault", f"{case.command}: {case.kind}")
        faults.attempt(case, workspace)

    return run


@pytest.fixture(scope="session", name="preloaded")
def preloaded_commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[preloaded.Preloaded]:
    """A process whose changes of files can be made to fail."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the library that makes calls fail is for Linux")
    if shutil.which("cc") is None:
        pytest.skip("no C compiler 'cc' to build the library that makes calls fail")
    with preloaded.start(tmp_path_factory.mktemp("preloaded")) as running:
        yield running

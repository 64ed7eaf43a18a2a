"""The workspace of the fault campaign, made once a session, and the test that runs a case."""

import fcntl
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import faults
from support.fault_programs import Preloaded, add_inputs


@pytest.fixture(scope="session")
def whole_workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workspace, to be read only; processes of one session share it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if base.name.startswith("popen-") else base) / "fault-workspace"
    with folder.with_name("fault-workspace.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            faults.make_workspace(folder)
    return folder


@pytest.fixture(scope="module")
def copies(
    whole_workspace: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Path, dict[str, str]]]:
    """A copy of the workspace for the cases of a module, a copy of that copy, and its contents.

    It has ``model.dien``, which takes seconds to make, if the module names that file.
    """
    folder = tmp_path_factory.mktemp("faults")
    workspace = faults.copy(whole_workspace, folder / "work")
    if "model.dien" in request.path.read_text():
        faults.export(workspace)
    pristine = Path(shutil.copytree(workspace, folder / "pristine"))
    yield workspace, pristine, faults.contents(pristine)
    shutil.rmtree(folder)


@pytest.fixture
def workspace(
    copies: tuple[Path, Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A sound workspace, which is the current folder."""
    workspace, *pristine = copies
    monkeypatch.chdir(workspace)
    yield workspace
    faults.restore(workspace, *pristine)


@pytest.fixture
def place(workspace: Path) -> Path:
    """A workspace with the inputs of all programs."""
    add_inputs(workspace)
    return workspace


@pytest.fixture(scope="session", name="preloaded")
def preloaded_commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Preloaded]:
    """A process whose changes of files can be made to fail."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the library that makes calls fail is for Linux")
    if shutil.which("cc") is None:
        pytest.skip("no C compiler 'cc' to build the library that makes calls fail")
    running = Preloaded(tmp_path_factory.mktemp("preloaded"))
    yield running
    running.forks.end()

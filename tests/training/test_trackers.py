"""MLflow and Weights & Biases, by their real clients and without a server.

What the clients kept is read back by the clients. A package that is not installed skips its tests.
"""

import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support import trackers
from support.tiny_run import light_flags
from support.trackers import Kept

from dien_jax import train
from dien_jax.errors import Interrupted, UserError
from dien_jax.training import loop
from dien_jax.training.loggers import Loggers, opened_loggers

INSTALLED = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            importlib.util.find_spec(name) is None, reason=f"{name} is not installed"
        ),
    )
    for name in ("mlflow", "wandb")
]
pytestmark = pytest.mark.filterwarnings(
    # MLflow 3.17 with SQLAlchemy 2.1, as it is imported.
    "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"
)
SETTINGS = {"preset": "dien", "seed": 3, "model.layers": (8, 4), "optim.clip_norm": None}


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """A store of MLflow without runs: to make one takes seconds."""
    if importlib.util.find_spec("mlflow") is None:
        return None
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow

    file = tmp_path_factory.mktemp("mlflow") / "empty.db"
    mlflow.MlflowClient(f"sqlite:///{file}").create_experiment("clicks", str(file.parent))
    return file


@pytest.fixture(autouse=True)
def without_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path | None
) -> Iterator[None]:
    """Keep everything in a folder, and refuse connections to other machines."""
    if empty_store is not None:
        shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "clicks")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for kind in ("", "DATA_", "CACHE_", "CONFIG_"):
        monkeypatch.setenv(f"WANDB_{kind}DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    connect = socket.socket.connect

    def only_here(self: socket.socket, address: object) -> None:
        is_here = self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1", "localhost")
        assert is_here, f"a connection to {address}"
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", only_here)
    yield
    if "wandb" in sys.modules:  # it reads the environment once
        sys.modules["wandb"].teardown()


def run_of(folder: Path, name: str) -> str:
    return json.loads((folder / "loggers.json").read_text())["runs"][name]


def sessions(folder: Path, name: str) -> list[Kept]:
    """What a tracker kept of a run: one for each session, or one for all."""
    run = run_of(folder, name)
    if name == "mlflow":
        return [trackers.of_mlflow(run)]
    sys.modules["wandb"].teardown()  # its other process has written all when it has ended
    return trackers.of_wandb(Path.cwd(), run)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "first"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model_card.md").write_text("A model.")
    return folder


def tell(loggers: Loggers, step: int) -> None:
    loggers.scalars(step, {"train/loss": step / 8, "train/accuracy": 0.5})


@pytest.mark.parametrize("name", INSTALLED)
def test_run_is_kept_with_settings_numbers_and_files(folder, name, capfd):
    files = [folder / "config.json", folder / "model_card.md"]
    with opened_loggers(folder, [name]) as loggers:
        loggers.begin(SETTINGS, 0)
        for step in (10, 20):
            tell(loggers, step)
        loggers.scalars(20, {"valid/auc": 0.75})
        loggers.histograms(20, {"attention": np.linspace(0, 1, 50)})
        loggers.finish(20, {"final/test_auc": 0.625}, files)
    [kept] = sessions(folder, name)
    assert kept.name == "first"
    assert kept.settings["preset"] == "dien"
    assert kept.settings["seed"] == "3"
    assert kept.settings["model.layers"] == ("(8, 4)" if name == "mlflow" else "[8, 4]")
    assert kept.settings["optim.clip_norm"] == "None"
    assert kept.numbers["train/loss"] == [(10, 1.25), (20, 2.5)]
    assert kept.numbers["valid/auc"] == [(20, 0.75)]
    assert kept.last["final/test_auc"] == 0.625
    assert kept.files == {"config.json", "model_card.md"}
    assert kept.status == ("FINISHED" if name == "mlflow" else "0")
    assert kept.histograms == ({} if name == "mlflow" else {"attention": [(20, 50)]})
    output = capfd.readouterr()
    assert output.out == ""
    [line] = output.err.splitlines()
    assert line.startswith("MLflow: run " if name == "mlflow" else "W&B: run ")


@pytest.mark.parametrize("name", INSTALLED)
@pytest.mark.parametrize(
    ("error", "status"),
    [(Interrupted(signal.SIGTERM), "KILLED"), (RuntimeError("diverged"), "FAILED")],
)
def test_run_that_ends_early_says_how(folder, name, error, status):
    def run():
        with opened_loggers(folder, [name]) as loggers:
            loggers.begin(SETTINGS, 0)
            raise error

    with pytest.raises(type(error)):
        run()
    [kept] = sessions(folder, name)
    assert kept.status == (status if name == "mlflow" else "1")


@pytest.mark.parametrize("name", INSTALLED)
def test_resumed_run_goes_on_where_it_was(folder, name):
    with opened_loggers(folder, [name]) as loggers:
        loggers.begin(SETTINGS, 0)
        tell(loggers, 10)
        tell(loggers, 20)
    run = run_of(folder, name)
    with opened_loggers(folder) as loggers:
        loggers.begin(SETTINGS, 10)
        tell(loggers, 20)
        tell(loggers, 30)
    assert run_of(folder, name) == run
    found = [entry for kept in sessions(folder, name) for entry in kept.numbers["train/loss"]]
    assert found == [(10, 1.25), (20, 2.5), (20, 2.5), (30, 3.75)]


@pytest.mark.parametrize("name", INSTALLED)
def test_trained_run_is_stopped_and_resumed(data, tmp_path, monkeypatch, name):
    flags = [*light_flags(data, tmp_path / "run"), "--train.epochs=2"]
    with monkeypatch.context() as patch:
        evaluate = loop.Trainer._evaluate

        def stop(self):
            if self.progress.step > 4:
                raise Interrupted(signal.SIGTERM)
            return evaluate(self)

        patch.setattr(loop.Trainer, "_evaluate", stop)
        assert train.main([*flags, "--loggers", "tensorboard", name]) == 143
    assert train.main(["--resume", str(tmp_path / "run")]) == 0
    kept = sessions(tmp_path / "run", name)
    assert {one.name for one in kept} == {"run"}
    steps = [step for one in kept for step, _ in one.numbers["train/loss"]]
    assert steps == [2, 4, 6, 8, 6, 8]
    assert [step for one in kept for step, _ in one.numbers["valid/auc"]] == [4, 8]
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert kept[-1].last["final/test_auc"] == pytest.approx(result["test"]["auc"])
    assert kept[-1].files == {"config.json", "model_card.md"}
    assert (tmp_path / "run" / "tensorboard").exists()


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server that is not there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address.replace("//", "//me:secret@"))
        monkeypatch.setenv("WANDB_MODE", "online")
        monkeypatch.setenv("WANDB_BASE_URL", address)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_INIT_TIMEOUT", "2")
        yield address


@pytest.mark.parametrize("name", INSTALLED)
def test_server_that_cannot_be_reached_is_refused_at_the_start(data, tmp_path, nobody, capfd, name):
    assert train.main([*light_flags(data, tmp_path / "run"), "--loggers", name]) == 2
    *_, line = capfd.readouterr().err.splitlines()
    assert line.startswith("error: MLflow cannot" if name == "mlflow" else "error: W&B cannot")
    assert f"--loggers without {name} trains without it" in line
    assert "secret" not in line
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="mlflow is not installed")
def test_server_that_is_lost_later_does_not_stop_training(data, tmp_path, monkeypatch, capfd):
    evaluate = loop.Trainer._evaluate

    def lose(self):
        (tmp_path / "mlflow.db").write_bytes(b"no database any more" * 1000)
        return evaluate(self)

    monkeypatch.setattr(loop.Trainer, "_evaluate", lose)
    flags = [*light_flags(data, tmp_path / "run"), "--train.epochs=1"]
    assert train.main([*flags, "--loggers", "mlflow"]) == 0
    said = capfd.readouterr().err
    assert re.search("^warning: MLflow: .*; training goes on without it$", said, re.MULTILINE)
    assert re.search("^warning: MLflow lacks [0-9]+ reports of this run$", said, re.MULTILINE)
    assert (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize("name", INSTALLED)
def test_client_is_imported_only_for_its_logger_and_leaves_no_thread(tmp_path, name):
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from dien_jax.training.loggers import opened_loggers\n"
        "folder = Path('run'); folder.mkdir()\n"
        "with opened_loggers(folder) as loggers: loggers.begin({}, 0)\n"
        "assert not {'mlflow', 'wandb'} & {*sys.modules}\n"
        "with opened_loggers(folder, sys.argv[1:]) as loggers: loggers.begin({}, 0)\n"
        "assert {*sys.argv[1:]} == {'mlflow', 'wandb'} & {*sys.modules}\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, name],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stdout == ""


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="mlflow is not installed")
def test_mlflow_run_that_is_not_there_is_refused(folder, tmp_path, monkeypatch):
    with opened_loggers(folder, ["mlflow"]) as loggers:
        loggers.begin({}, 0)
    run = run_of(folder, "mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    with pytest.raises(UserError) as refused, opened_loggers(folder):
        pass
    assert f"does not have the run {run}" in str(refused.value)

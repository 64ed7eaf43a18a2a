"""MLflow and Weights & Biases, by their real clients and without a server.

The clients read back what they kept. A package that is not installed skips its tests.
"""

import importlib.util
import json
import os
import shutil
import signal
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.programs import free_port
from support.tiny_run import evaluations, light_flags

from dien_jax import train
from dien_jax.errors import Interrupted, UserError
from dien_jax.training import loop
from dien_jax.training.loggers import opened_loggers

NAMES = ("mlflow", "wandb")
MISSING = {name for name in NAMES if importlib.util.find_spec(name) is None}
WITHOUT_MLFLOW = pytest.mark.skipif("mlflow" in MISSING, reason="mlflow is not installed")
each = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.skipif(name in MISSING, reason="not installed"))
        for name in NAMES
    ],
)
pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings(
        # MLflow 3.17 with SQLAlchemy 2.1, as it is imported.
        "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"
    ),
]


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """A store of MLflow without runs: to make one takes seconds."""
    if "mlflow" in MISSING:
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


class Kept(NamedTuple):
    """What a tracker has of a session of a run, as text or numbers by name."""

    name: list[str]
    settings: dict[str, str]
    numbers: dict[str, list[tuple[int, float]]]
    last: dict[str, float]
    files: set[str]
    status: list[str]


def sessions(folder: Path, name: str) -> list[Kept]:
    """Return what a tracker kept of a run: one for each session, or one for all."""
    run = json.loads((folder / "loggers.json").read_text())["runs"][name]
    if name == "wandb":
        sys.modules["wandb"].teardown()  # its other process has written all when it has ended
        files = Path.cwd().glob(f"wandb/offline-run-*-{run}*/run-{run}.wandb")
        return list(map(of_wandb, sorted(files)))
    client = sys.modules["mlflow"].MlflowClient()
    found = client.get_run(run)
    numbers = {
        metric: [(entry.step, entry.value) for entry in client.get_metric_history(run, metric)]
        for metric in found.data.metrics
    }
    files = {file.path for file in client.list_artifacts(run)}
    about = ([found.info.run_name], found.data.params, numbers, found.data.metrics)
    return [Kept(*about, files, [found.info.status])]


def of_wandb(file: Path) -> Kept:
    """Return what the client kept of a session in offline mode."""
    kept = Kept([], {}, {}, {}, set(), [])
    for record in wandb_records(file):
        kind = record.WhichOneof("record_type")
        if kind in ("run", "config"):
            update = record.run.config.update if kind == "run" else record.config.update
            kept.settings.update((key(item), str(json.loads(item.value_json))) for item in update)
            kept.name.extend([record.run.display_name] * (kind == "run"))
        elif kind == "history":
            row = {key(item): json.loads(item.value_json) for item in record.history.item}
            for name, value in row.items():
                if isinstance(value, int | float):
                    kept.numbers.setdefault(name, []).append((row["step"], value))
        elif kind == "summary":
            update = record.summary.update
            kept.last.update((key(item), json.loads(item.value_json)) for item in update)
        elif kind == "artifact":
            kept.files.update(entry.path for entry in record.artifact.manifest.contents)
        elif kind == "exit":
            kept.status.append(str(record.exit.exit_code))
    return kept


def key(item: Any) -> str:
    return item.key or "/".join(item.nested_key)


def wandb_records(file: Path) -> Iterator[Any]:
    """Yield the records of a file in the form of a log of LevelDB.

    Blocks have 32 KiB. A piece has a checksum, its size, and its place in the record: 1 all of it,
    2 the first, 3 one between, 4 the last. A block ends with zeros where no piece fits.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, pieces = file.read_bytes(), len(":W&B") + 3, b""
    while at < len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, size, place = struct.unpack_from("<IHB", data, at)
        at += 7 + size
        pieces += data[at - size : at]
        if place in (1, 4):
            yield Record.FromString(pieces)
            pieces = b""


@each
def test_run_that_fails_says_so_and_the_client_says_no_more_than_where_it_is(tmp_path, name, capfd):
    with pytest.raises(RuntimeError), opened_loggers(tmp_path, [name]):
        raise RuntimeError("diverged")
    [kept] = sessions(tmp_path, name)
    assert kept.status == (["FAILED"] if name == "mlflow" else ["1"])
    output = capfd.readouterr()
    assert output.out == ""
    [line] = output.err.splitlines()
    assert line.startswith("MLflow: run " if name == "mlflow" else "W&B: run ")


@pytest.mark.skipif({*NAMES} == MISSING, reason="neither is installed")
def test_trained_run_is_stopped_and_goes_on_where_it_was(data, tmp_path, monkeypatch):
    folder, names = tmp_path / "run", [name for name in NAMES if name not in MISSING]
    flags = [*light_flags(data, folder), "--train.epochs=2"]
    with monkeypatch.context() as patch:
        evaluate = loop.Trainer._evaluate

        def stop(self):
            if self.progress.step > 4:
                raise Interrupted(signal.SIGTERM)
            return evaluate(self)

        patch.setattr(loop.Trainer, "_evaluate", stop)
        assert train.main([*flags, "--loggers", "tensorboard", *names]) == 143
    for name in names:
        [stopped] = sessions(folder, name)
        assert stopped.status == (["KILLED"] if name == "mlflow" else ["1"])
        expected = {"preset": "wide_dien", "seed": "0", "train.click_rate": "None"}
        expected["model.layers"] = "(8,)" if name == "mlflow" else "[8]"
        assert expected.items() <= stopped.settings.items()
    assert train.main(["--resume", str(folder)]) == 0
    areas = [line["valid"]["auc"] for line in evaluations(folder)]
    result = json.loads((folder / "result.json").read_text())
    for name in names:
        kept = sessions(folder, name)
        assert {title for one in kept for title in one.name} == {"run"}
        steps = [step for one in kept for step, _ in one.numbers["train/loss"]]
        assert steps == [2, 4, 6, 8, 6, 8]
        found = [entry for one in kept for entry in one.numbers["valid/auc"]]
        assert found == [(4, pytest.approx(areas[0])), (8, pytest.approx(areas[1]))]
        assert kept[-1].last["final/test_auc"] == pytest.approx(result["test"]["auc"])
        assert kept[-1].files == {"config.json", "model_card.md"}
        assert kept[-1].status == (["FINISHED"] if name == "mlflow" else ["0"])
    assert (folder / "tensorboard").exists()


@each
def test_server_that_cannot_be_reached_is_refused(data, tmp_path, monkeypatch, capfd, name):
    address = f"http://127.0.0.1:{free_port()}"
    secret = address.replace("//", "//me:secret@")
    variables = {"WANDB_MODE": "online", "WANDB_BASE_URL": address, "WANDB_INIT_TIMEOUT": "2"}
    variables |= {"WANDB_API_KEY": "0" * 40, "MLFLOW_TRACKING_URI": secret}
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    assert train.main([*light_flags(data, tmp_path / "run"), "--loggers", name]) == 2
    *_, line = capfd.readouterr().err.splitlines()
    assert line.startswith("error: MLflow cannot" if name == "mlflow" else "error: W&B cannot")
    assert f"--loggers without {name} trains without it" in line
    assert "secret" not in line
    assert not (tmp_path / "run").exists()


@WITHOUT_MLFLOW
def test_server_that_is_lost_later_does_not_stop_training(data, tmp_path, monkeypatch, capfd):
    evaluate = loop.Trainer._evaluate

    def lose(self):
        (tmp_path / "mlflow.db").write_bytes(b"no database any more" * 1000)
        return evaluate(self)

    monkeypatch.setattr(loop.Trainer, "_evaluate", lose)
    flags = [*light_flags(data, tmp_path / "run"), "--train.epochs=1"]
    assert train.main([*flags, "--loggers", "mlflow"]) == 0
    assert "warning: MLflow lacks reports of this run: " in capfd.readouterr().err
    assert (tmp_path / "run" / "result.json").exists()


@WITHOUT_MLFLOW
def test_run_that_the_server_does_not_have_is_refused(tmp_path):
    file, content = tmp_path / "loggers.json", {"loggers": ["mlflow"], "runs": {"mlflow": "0"}}
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"MLflow cannot be used at .*[Rr]un.* not found"):
        opened_loggers(tmp_path).__enter__()

"""What the real clients of MLflow and Weights & Biases kept of a run on this machine."""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK, PIECE = 32 << 10, struct.Struct("<IHB")


@dataclass
class Kept:
    """What a tracker has of a run.

    Attributes:
      settings: text by name.
      numbers: step and value by name, in the order in which they were logged.
      last: the last value by name.
      histograms: step and number of values by name.
      files: names of files.
      status: how the run ended.
    """

    name: str
    settings: dict[str, str]
    numbers: dict[str, list[tuple[int, float]]]
    last: dict[str, float]
    histograms: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)
    status: str = ""


def of_mlflow(run_id: str) -> Kept:
    """Return what the store that the environment names has of a run."""
    import mlflow

    client = mlflow.MlflowClient()
    run = client.get_run(run_id)
    numbers = {
        name: [(entry.step, entry.value) for entry in client.get_metric_history(run_id, name)]
        for name in run.data.metrics
    }
    files = {file.path for file in client.list_artifacts(run_id)}
    about = (run.info.run_name, run.data.params, numbers, run.data.metrics)
    return Kept(*about, files=files, status=run.info.status)


def of_wandb(folder: Path, run_id: str) -> list[Kept]:
    """Return what each session of a run left in the folder ``WANDB_DIR`` in offline mode."""
    files = sorted(folder.glob(f"wandb/offline-run-*-{run_id}*/run-{run_id}.wandb"))
    return [_session(file) for file in files]


def _session(file: Path) -> Kept:
    kept = Kept("", {}, {}, {})
    for record in _records(file):
        match record.WhichOneof("record_type"):
            case "run":
                kept.name = record.run.display_name
                _take(kept, record.run.config.update)
            case "config":
                _take(kept, record.config.update)
            case "history":
                _take_row(
                    kept, {_key(item): json.loads(item.value_json) for item in record.history.item}
                )
            case "summary":
                for item in record.summary.update:
                    value = json.loads(item.value_json)
                    if isinstance(value, int | float):
                        kept.last[_key(item)] = value
            case "artifact":
                kept.files |= {entry.path for entry in record.artifact.manifest.contents}
            case "exit":
                kept.status = str(record.exit.exit_code)
    return kept


def _take(kept: Kept, items: Any) -> None:
    kept.settings |= {_key(item): str(json.loads(item.value_json)) for item in items}


def _take_row(kept: Kept, row: dict[str, Any]) -> None:
    for key, value in row.items():
        name, _, part = key.rpartition("/")
        if part == "values":
            kept.histograms.setdefault(name, []).append((row["step"], sum(value)))
        elif isinstance(value, int | float) and not key.startswith("_") and key != "step":
            kept.numbers.setdefault(key, []).append((row["step"], value))


def _key(item: Any) -> str:
    return item.key or "/".join(item.nested_key)


def _records(file: Path) -> Iterator[Any]:
    """Yield the records of a file of the client, in the form of a log of LevelDB.

    Blocks have 32 KiB. A piece has a checksum, its size, and its place in the record: 1 all of it,
    2 the first, 3 one between, 4 the last. A block ends with zeros where no piece fits.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, pieces = file.read_bytes(), len(":W&B") + 3, b""
    while at < len(data):
        left = BLOCK - at % BLOCK
        if left < PIECE.size:
            at += left
            continue
        _, size, place = PIECE.unpack_from(data, at)
        at += PIECE.size + size
        pieces += data[at - size : at]
        if place in (1, 4):
            yield Record.FromString(pieces)
            pieces = b""

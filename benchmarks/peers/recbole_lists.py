"""Lists over all items by RecBole's models, for comparison with ``python -m benchmarks.recommend``.

This script runs in its own environment, which needs neither JAX nor this package:

    python3.11 -m venv .recbole
    .recbole/bin/pip install 'setuptools<80' recbole==1.2.1 torch 'numpy<2' 'scipy<1.13' 'pandas<3'
    .recbole/bin/python benchmarks/peers/recbole_lists.py log.csv --out rows.json

The log has the columns user, item and timestamp. For each user with at least three events, the last
is the test event, the one before it is for validation, and the others train. Validation chooses the
number of epochs. Sequential models then read all events but the last; other models are trained
again on all events but the last, so that they know them too. Settings are RecBole's defaults.
Metrics use the rank of the test item among all items that are new to the user, a tie counting half.
Test items that the user had chosen before are skipped.
"""

import argparse
import functools
import json
import math
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import recbole
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

WITHOUT_EPOCHS = ("Pop", "ItemKNN", "EASE")
SEQUENTIAL = ("GRU4Rec", "SASRec", "BERT4Rec")
MODELS = (*WITHOUT_EPOCHS, "BPR", "LightGCN", *SEQUENTIAL)
TOP = 10
# RecBole 1.2.1 relies on the default of earlier versions of torch to read its checkpoints.
torch.load = functools.partial(torch.load, weights_only=False)


def write_log(log: Path, folder: Path) -> None:
    """Write the log in RecBole's format, without users of fewer than three events."""
    columns = ["user", "item", "timestamp"]
    events = pd.read_csv(log, dtype={"user": str, "item": str}, usecols=columns)[columns]
    events = events.sort_values(["user", "timestamp"], kind="stable")
    events = events[events.groupby("user")["item"].transform("size") >= 3]
    # Consecutive times keep the order of events at the same time.
    events["timestamp"] = events.groupby("user").cumcount()
    (folder / "log").mkdir()
    events.columns = ["user_id:token", "item_id:token", "timestamp:float"]
    events.to_csv(folder / "log" / "log.inter", sep="\t", index=False)


def settings(name: str, folder: Path, epochs: int, split: str) -> Config:
    """Return RecBole's settings of a model; they are defaults except for the split."""
    chosen = {
        "data_path": str(folder),
        "checkpoint_dir": str(folder / "checkpoints"),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "eval_args": {
            "split": {"LS": split},
            "order": "TO",
            "group_by": "user",
            "mode": "full",
        },
        "metrics": ["NDCG"],
        "topk": [TOP],
        "valid_metric": f"NDCG@{TOP}",
        "epochs": epochs,
        "show_progress": False,
        "use_gpu": False,
        "state": "ERROR",
    }
    if name in SEQUENTIAL:  # softmax over all items, their default
        chosen["train_neg_sample_args"] = None
    return Config(model=name, dataset="log", config_dict=chosen)


def ranks_of(
    model: torch.nn.Module, events: dict[str, np.ndarray], test_data: Iterable[Any]
) -> np.ndarray:
    """Return the rank of each test item among the items that are new to its user."""
    seen = defaultdict(list)
    for user, item in zip(events["user_id"].tolist(), events["item_id"].tolist(), strict=True):
        seen[user].append(item)
    ranks = []
    for batch in test_data:
        interaction = batch[0]
        users = interaction["user_id"].tolist()
        scores = model.full_sort_predict(interaction).reshape(len(users), -1).double().numpy()
        scores[:, 0] = -math.inf  # padding
        for row, user in zip(scores, users, strict=True):
            *before, target = seen[user]
            if target in before:
                continue
            score = row[target]
            row[before] = -math.inf
            ranks.append(int((row > score).sum()) + int((row == score).sum() - 1) / 2)
    return np.array(ranks)


def measured(ranks: np.ndarray) -> dict[str, float]:
    """Return the mean of each metric over users, and its standard error."""
    hits = ranks < TOP
    gains = np.where(hits, 1 / np.log2(ranks + 2), 0.0)
    values = {f"hr_{TOP}": hits, f"ndcg_{TOP}": gains, "mrr": 1 / (ranks + 1)}
    found = {}
    for name, of_users in values.items():
        found[name] = float(of_users.mean())
        found[f"{name}_error"] = float(of_users.std() / math.sqrt(len(ranks)))
    return found


def trained(name: str, folder: Path, epochs: int, split: str) -> tuple[Any, ...]:
    """Train a model; return it, the best number of epochs, all events, and the test data."""
    config = settings(name, folder, epochs, split)
    init_seed(config["seed"], True)
    dataset = create_dataset(config)
    events = {key: np.array(dataset.inter_feat[key]) for key in ("user_id", "item_id")}
    train_data, valid_data, test_data = data_preparation(config, dataset)
    model = get_model(name)(config, train_data.dataset)
    # Importing RecBole's SINE turns this check on for every model, which doubles the time.
    torch.autograd.set_detect_anomaly(False)
    trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
    chosen_on = valid_data if split == "valid_and_test" else None
    trainer.fit(train_data, chosen_on, saved=True, show_progress=False, verbose=False)
    if chosen_on is not None:
        best = torch.load(trainer.saved_model_file)
        model.load_state_dict(best["state_dict"])
        model.load_other_parameter(best.get("other_parameter"))
        epochs = best["epoch"] + 1
    return model, epochs, events, test_data


def row_of(name: str, folder: Path, most: int) -> dict[str, Any]:
    """Train a model for at most ``most`` epochs, rank items for all users; return the row."""
    start, epochs = time.process_time(), 1
    if name not in WITHOUT_EPOCHS:
        model, epochs, events, test_data = trained(name, folder, most, "valid_and_test")
    if name not in SEQUENTIAL:
        model, _, events, test_data = trained(name, folder, epochs, "test_only")
    train_seconds = time.process_time() - start
    model.eval()
    start = time.perf_counter()
    with torch.no_grad():
        ranks = ranks_of(model, events, test_data)
    seconds = time.perf_counter() - start
    about = {"case": f"RecBole {name}", "users": len(ranks), "items": int(events["item_id"].max())}
    times = {"train_processor_seconds": train_seconds, "users_per_second": len(ranks) / seconds}
    return about | {"epochs": epochs} | measured(ranks) | times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("log", type=Path, help="CSV with the columns user, item, timestamp")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of rows to write")
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--epochs", type=int, default=300, help="most epochs (default: 300)")
    arguments = parser.parse_args()
    versions = {"recbole": recbole.__version__, "torch": torch.__version__}
    rows = []
    for name in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            try:
                write_log(arguments.log, Path(folder))
            except (OSError, ValueError) as error:
                parser.error(f"{arguments.log}: {error}")
            row = row_of(name, Path(folder), arguments.epochs)
        row |= {"data": arguments.log.stem, "versions": versions, "cores": os.cpu_count()}
        rows.append(row)
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n")
        found = ", ".join(f"{key} {row[key]:.4f}" for key in (f"hr_{TOP}", f"ndcg_{TOP}"))
        seconds = f"{row['train_processor_seconds']:.0f} seconds of a processor"
        print(f"{row['case']}: {found}, trained in {seconds}", flush=True)


if __name__ == "__main__":
    main()

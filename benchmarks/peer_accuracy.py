"""Test AUC of other packages' DIEN, for comparison with ``reproduce --rows dien``.

    python -m benchmarks.peer_accuracy DATA [DATA ...] [--seeds N] [--epochs N] [--json FILE]

The DIEN of each installed package (:mod:`benchmarks.peers`) trains on the batches of our loader,
with random initial embeddings of 18 units (our items have 64), uniform auxiliary negatives and Adam
at 1e-3. Training ends after two epochs without a better validation AUC; the test AUC is that of the
best epoch. Dropout and auxiliary weight are either the package's or ours, in two rows.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.common.report import make_parser, one_line_errors, parse, report
from benchmarks.common.timing import surroundings
from benchmarks.peers import Peer, arrays_of, installed, table_sizes
from dien_jax.config.presets import preset, with_settings
from dien_jax.config.settings import Config
from dien_jax.data.dataset import Dataset, open_dataset
from dien_jax.data.loader import Loader, evaluation_loader
from dien_jax.metrics import auc

PATIENCE = 2
COLUMNS = ("data", "system", "settings", "seed", "epoch", "valid_auc", "test_auc", "seconds")


def settings() -> dict[str, Config]:
    """Return the two configurations by name."""
    ours = preset("dien")
    package = {"model.auxiliary_weight": 1.0, "model.dropout": 0.0}
    return {"package": with_settings(ours, package), "dien_jax": ours}


def score(peer: Peer, dataset: Dataset, split: str, config: Config) -> float:
    """Return the AUC of a peer on a split."""
    loader = evaluation_loader(dataset, split, config.train)
    sizes = table_sizes(dataset.schema)
    pairs = [
        (peer.predict(*peer.prepare(arrays)), arrays.label)
        for arrays in arrays_of(loader.epoch(0), sizes["item"])
    ]
    probabilities, labels = (np.concatenate(part) for part in zip(*pairs, strict=True))
    area = auc(labels, probabilities)
    assert area is not None, f"{split} has only one label"
    return area


def train(
    module: ModuleType, dataset: Dataset, config: Config, seed: int, epochs: int
) -> dict[str, Any]:
    """Train a peer; return the best epoch, its validation and test AUC, and the seconds."""
    sizes = table_sizes(dataset.schema)
    category = np.asarray(dataset.items["category"].values)
    peer: Peer = module.make_peer(config, sizes, category, seed)
    loader = Loader(dataset, "train", config.train, seed=seed)
    best: dict[str, Any] = {"epoch": 0, "valid_auc": 0.0}
    start = time.perf_counter()
    for epoch in range(1, epochs + 1):
        for arrays in arrays_of(loader.epoch(epoch), sizes["item"], seed=(seed << 16) + epoch):
            peer.step(*peer.prepare(arrays))
        valid = score(peer, dataset, "valid", config)
        print(f"  epoch {epoch}: validation AUC {valid:.4f}", file=sys.stderr, flush=True)
        if valid > best["valid_auc"]:
            # Scored now because the model is not kept. The choice of the epoch does not use it.
            test = score(peer, dataset, "test", config)
            best = {"epoch": epoch, "valid_auc": valid, "test_auc": test}
        elif epoch - best["epoch"] >= PATIENCE:
            break
    return best | {"seconds": time.perf_counter() - start}


@one_line_errors()
def main(arguments: Sequence[str] | None = None) -> None:
    """Train, print and write the rows."""
    parser = make_parser(__doc__)
    parser.add_argument("data", type=Path, nargs="+", help="dataset folders")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each, from 0")
    parser.add_argument("--epochs", type=int, default=10, help="most epochs")
    options = parse(parser, arguments, seeds=1, epochs=1)
    rows = []
    for name, module in installed().items():
        for data in options.data:
            for chosen, config in settings().items():
                for seed in range(options.seeds):
                    labels = {"data": data.name, "system": name, "settings": chosen, "seed": seed}
                    print(*labels.values(), file=sys.stderr, flush=True)
                    row = train(module, open_dataset(data), config, seed, options.epochs)
                    machine = {"benchmark": "peer_accuracy", **surroundings(module.VERSIONS)}
                    rows.append(machine | labels | row)
    report(options, rows, COLUMNS)


if __name__ == "__main__":
    main()

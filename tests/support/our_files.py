"""Forms of the JSON files in the workspace of the fault campaign: keys, and values of their types.

Cases are made of them before the workspace exists; a test compares them with its files.
"""

import dataclasses
import json
from typing import Any

from dien_jax import Config

SCHEMA: dict[str, Any] = {
    "item": [
        {"name": "item", "kind": "categorical", "size": 18},
        {"name": "category", "kind": "categorical", "size": 4},
        {"name": "price", "kind": "numeric", "mean": 2.3, "deviation": 1.4},
        {"name": "tags", "kind": "multivalued", "size": 4, "max_values": 2},
    ],
    "user": [{"name": "user", "kind": "categorical", "size": 21}],
    "context": [],
}
COUNTS = ("groups", "events", "sequences", "train", "valid", "test")
METRICS = {
    **dict.fromkeys(("auc", "auc_known", "gauc", "logloss", "normalised_entropy"), 0.5),
    "calibration_error": 0.5,
    **dict.fromkeys(("examples", "gauc_users", "gauc_left_out"), 20),
}
VERSIONS = {"python": "3", "dien_jax": "0", "jax": "0"}
SETTINGS: dict[str, Any] = {
    group: {name: value[:1] if isinstance(value, list) else value for name, value in part.items()}
    for group, part in json.loads(json.dumps(dataclasses.asdict(Config()))).items()
}
FEATURES = ("item", "category", "tags", "user")
TABLES = ("items/category", "items/price", "items/tags", "statistics/item", "statistics/category")
HOST = "run/checkpoints/13/host/metadata"
LOGGERS = "run/loggers.json"
FORMS: dict[str, dict[str, Any]] = {
    "data/meta.json": {
        "format_version": 2,
        "schema": SCHEMA,
        "counts": dict.fromkeys(COUNTS, 20),
        "source": {"name": "interactions", "settings": {"split": "last-event"}},
        "split": {"policy": "last-event"},
    },
    "data/statistics/item/counts.json": {"sequences": 20, "least": 1},
    "run/config.json": {
        "format_version": 1,
        "preset": "dien",
        "seed": 0,
        "data": "data",
        "data_digest": "0",
        "schema": SCHEMA,
        "versions": VERSIONS,
        "vocabularies": dict.fromkeys(FEATURES, "0"),
        "tables": dict.fromkeys(TABLES[:3], "0"),
        **SETTINGS,
    },
    "run/result.json": {
        "model": "pnn",
        "preset": "dien",
        "data": "data",
        "seed": 0,
        "steps": 13,
        "epochs": 1.0,
        "best_step": 13,
        "valid": METRICS,
        "test": METRICS,
        "train_examples_per_second": 7581.4,
        "wall_seconds": 6.6,
        "device": "cpu",
        "versions": VERSIONS,
        "baselines": {"popularity": 0.5},
    },
    "run/calibration.json": {
        "slope": 1.5,
        "offset": -0.1,
        "step": 13,
        "shift": 0.0,
        "fitted_on": {"split": "valid", "examples": 40, "click_share": 0.5},
    },
    "run/metrics.jsonl": {
        "step": 13,
        "epoch": 1.0,
        "part": "network",
        "train": {"loss": 0.5},
        "valid": METRICS,
    },
    HOST: {
        "best": True,
        "host": {
            **{"step": 13, "evaluated_step": 13, "best_step": 13, "best_score": 0.4},
            **{"worse_evaluations": 0, "totals": {}, "timed_examples": 184.0},
            **{"timed_seconds": 0.02, "wall_seconds": 5.8, "network_from": 0},
        },
    },
    LOGGERS: {"loggers": ["tensorboard"], "runs": {}},
    "model.dien": {
        **{"format": "dien_jax.export", "format_version": 2, "calling_convention_version": 10},
        "versions": VERSIONS,
        "platforms": ["cpu"],
        **{"recurrence": "xla", "preset": "dien", "seed": 0, "step": 13},
        "settings": {"train": {"max_history": 8}},
        "data_digest": "0",
        "tables": dict.fromkeys(TABLES[:3], "0"),
        "schema": SCHEMA,
        **{"max_history": 8, "history_buckets": [8]},
        "programs": {"score_rows": {"inputs": {}}},
        "weights": {"params/mlp/logit/bias": {"dtype": "float32", "shape": [1]}},
        "sha256": {"weights/params/mlp/logit/bias.npy": "0"},
    },
}

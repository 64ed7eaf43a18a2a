"""The model card of a run: its model, training data, metrics and intended use.

``RUN/model_card.md`` is written when a run finishes, and exported files have a copy.

Source: Mitchell et al., Model Cards for Model Reporting, FAT* 2019 (arXiv:1810.03993).
"""

import datetime
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dien_jax.errors import failing, printable
from dien_jax.metrics.scores import METRICS
from dien_jax.runs.calibration import Calibration
from dien_jax.runs.folder import ListMetrics, Run
from dien_jax.utils.files import read_bytes

CARD_FILE = "model_card.md"
LARGEST_CARD = 1 << 20
"""Maximum size of a card in bytes."""
_Intervals = Mapping[str, tuple[float, float] | None]


def read_card(folder: Path) -> str:
    """Return the card of a run folder, which must be text of limited size; empty if missing."""
    file = folder / CARD_FILE
    if not os.path.lexists(file):
        return ""
    content = read_bytes(file, LARGEST_CARD)
    with failing(f"{file}: expected text in UTF-8"):
        return content.decode()


def model_card(
    run: Run,
    meta: Mapping[str, Any],
    result: Mapping[str, Any],
    intervals: _Intervals,
    calibration: Calibration | None,
) -> str:
    """Return the card of a finished run, in Markdown.

    ``meta`` is ``meta.json`` of the data, ``result`` has the fields of a ``RunResult`` and
    ``parameters``, and ``intervals`` has the 95% interval of the AUC by split, None if undefined.
    """
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    about = {
        "model": f"`{result['model']}` (preset `{run.preset}`, seed {run.seed})",
        "parameters": f"{result['parameters']:,}",
        "trained": f"{result['steps']:,} steps on {result['device']}; the checkpoint of step "
        f"{result['best_step']:,} had the best validation score",
        "finished": today,
        "started from": run.warm_start and f"`{run.warm_start['run']}`",
        "versions": ", ".join(f"{name} {version}" for name, version in run.versions.items()),
    }
    sections = {
        "": _table(about),
        "Intended use": _INTENDED,
        "Data": _data(run, meta),
        "Results": _results(result, intervals),
        "Calibration": _calibration(calibration),
        "Limits": _limits(meta),
    }
    parts = ["# Model card: click model of user histories"]
    for title, text in sections.items():
        parts += [f"## {title}", text] if title else [text]
    return "\n\n".join(parts) + "\n"


_INTENDED = """\
The model estimates the probability that a user clicks an item, from the items that the user chose
before, oldest first, and is meant to rank candidate items. It knows the items of the data below; it
is not meant for other catalogues, for decisions about people, or as a measure of how good an item
is. All settings are in `config.json` of the run and in the manifest of an exported file."""


def _table(rows: Mapping[str, Any]) -> str:
    lines = [f"| {name} | {printable(str(value))} |" for name, value in rows.items() if value]
    return "\n".join(["| | |", "|---|---|", *lines])


def _data(run: Run, meta: Mapping[str, Any]) -> str:
    counts, source, split = meta["counts"], meta.get("source", {}), meta.get("split", {})
    files = (source.get("files") or {}).items()
    made_from = [source.get("name", "unknown"), *(f"`{n}` (sha256 {sha})" for n, sha in files)]
    rows: dict[str, Any] = {
        "made from": "; ".join(made_from),
        "events": f"{counts['events']:,} of {counts['sequences']:,} histories",
        "examples": ", ".join(f"{counts[name]:,} {name}" for name in ("train", "valid", "test")),
        "split": ", ".join(f"{name} {value}" for name, value in split.items()),
        **{
            f"{group} features": ", ".join(feature["name"] for feature in features)
            for group, features in meta["schema"].items()
        },
        "folder": f"`{Path(run.data).name}`, sha256 of its `meta.json` {run.data_digest}",
    }
    return _table(rows)


def _results(result: Mapping[str, Any], intervals: _Intervals) -> str:
    metrics = {name: metric for name, metric in METRICS.items() if name != "auc"}
    labels = " | ".join(metric.label for metric in metrics.values())
    lines = [f"| | examples | AUC (95%) | {labels} |", "|---" * (3 + len(metrics)) + "|"]
    for split, title in {"valid": "validation", "test": "test"}.items():
        values = result[split]
        area = METRICS["auc"].text(values)
        if (interval := intervals[split]) is not None:
            area += f" ({interval[0]:.4f} to {interval[1]:.4f})"
        cells = " | ".join(metric.text(values) for metric in metrics.values())
        lines.append(f"| {title} | {values['examples']:,} | {area} | {cells} |")
    text = "\n".join(lines)
    text += (
        "\n\nThe epoch was chosen and scores were calibrated on validation; the test split was "
        "read once. The interval is DeLong's: it takes examples as independent, and covers no "
        "other training seed."
    )
    simple = [
        f"{name} {value:.4f}" for name, value in result["baselines"].items() if value is not None
    ]
    text += f" Test AUC of simple models: {', '.join(simple)}." if simple else ""
    return text if result["lists"] is None else f"{text}\n\n{lists_line(result['lists'])}"


def lists_line(lists: ListMetrics) -> str:
    """Return a sentence about lists over all items, for clicks of the test split."""

    def rate(value: float | None) -> str:
        return "none" if value is None else f"{value:.3f}"

    interval = lists.get("hr_10_interval")
    between = "" if interval is None else f" ({interval[0]:.3f} to {interval[1]:.3f})"
    simple = f"of the most popular items HR@10 {rate(lists['hr_10_popularity'])}"
    if (rules := lists.get("hr_10_sequential_rules")) is not None:
        simple += f", of sequential rules {rules:.3f}"
    return (
        f"Lists of all items: HR@10 {rate(lists['hr_10'])}{between}, "
        f"NDCG@10 {rate(lists['ndcg_10'])}; {simple}; {lists['targets']:,} clicks of test on items "
        "that were new to their users."
    )


def _calibration(calibration: Calibration | None) -> str:
    if calibration is None:
        return "Scores are as the network gives them."
    share = calibration.fitted_on.get("click_share")
    of_share = "" if share is None else f", {share:.4f}"
    line = f"slope {calibration.slope:.3f}, offset {calibration.offset:.3f}"
    end = "Where another share of items is clicked, scores are too high or too low."
    if calibration.shift:
        end = "In use, scores are shifted to the click rate of `train.click_rate`."
    how = f"Platt scaling ({line}), fitted on validation for its share of clicks{of_share}"
    return f"{how}. {end}"


def _limits(meta: Mapping[str, Any]) -> str:
    split = meta.get("split", {})
    lines = [
        "- All ids that training lacks share a row, and so do values of features.",
        "- It repeats what was popular in its data, and whatever bias led users to it.",
    ]
    if split.get("negatives"):
        how = split.get("negative_distribution", "random")
        lines.append(
            f"- Negatives were drawn ({how}): AUC says how well chosen items are told from drawn "
            "ones, not from items that were shown and passed over, and compares with no other "
            "protocol."
        )
        if split.get("allow_own_negatives") is False:
            lines.append(
                "- No negative was in the history of its user. Where users return to items, those "
                "in the history get too high scores."
            )
    return "\n".join(lines)

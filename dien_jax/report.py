"""A report on a run, one HTML file: the command line ``python -m dien_jax.report``.

    python -m dien_jax.report RUN [--split valid] [--out FILE.html] [--data DIR]

The page has the run's settings and figures, its curves, calibration, AUC by length of history and
by popularity of the item, and examples: those that the best checkpoint gets most wrong and most
right, typical ones, and the training examples that it has learned least, each with its history
beside attention and gates. It needs nothing beside itself. Standard output carries its path.
Exit status: 0, or 2 for a mistake in flags or files.
"""

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from dien_jax.config.preset_files import flat_settings
from dien_jax.config.presets import preset
from dien_jax.data.dataset import Dataset, open_dataset
from dien_jax.data.schema import UNKNOWN
from dien_jax.errors import UserError, writing
from dien_jax.inspection.examples import Example, Inspector
from dien_jax.inspection.gates import EXPLANATIONS, MEASURES, lacking, measures_of
from dien_jax.inspection.report_figures import FEWEST, auc_by_part, curves, image, reliability
from dien_jax.inspection.report_page import article, page, paragraph, table
from dien_jax.metrics import diagnostics
from dien_jax.metrics.diagnostics import PartAuc
from dien_jax.metrics.scores import METRICS, example_losses
from dien_jax.runs.scoring import check_examples, trained_scores
from dien_jax.runs.summary import RunSummary, load_summaries
from dien_jax.runs.trained import TrainedModel, restore
from dien_jax.utils.command import run_command
from dien_jax.utils.console import stage
from dien_jax.utils.files import atomic_file

REPORT_FILE = "report.html"
LISTED = 10
"""Examples of each kind in a table."""
SHOWN = 2
"""Of those, how many are shown with their histories."""
TRAINING_EXAMPLES = 20_000
"""Of a larger training split as many are drawn, to find those that are learned least."""

_ABSENT = "-"


@dataclass(frozen=True)
class Arguments:
    """Write one self-contained HTML file about a run and what its best checkpoint gets wrong."""

    run_dir: tyro.conf.Positional[Path]
    """Run folder that dien_jax.train made."""
    split: Literal["valid", "test"] = "valid"
    """Which examples to look at; to choose between models look at valid."""
    out: Path | None = None
    """File to write; report.html in the run folder when not given."""
    data: Path | None = None
    """Dataset folder, where it has moved; the run's own when not given."""


def write_report(arguments: Arguments) -> Path:
    """Writes the report; returns its path.

    Raises:
      UserError: when the run, its checkpoint or the data is at fault, the split is empty or the
        file cannot be written.
    """
    out = arguments.out or arguments.run_dir / REPORT_FILE
    [member] = load_summaries([arguments.run_dir])
    _check_out(out)
    run, split = member.run, arguments.split
    dataset = open_dataset(Path(run.data) if arguments.data is None else arguments.data)
    check_examples(dataset, split)
    trained = restore(arguments.run_dir, run, dataset)
    with stage(f"scoring {len(dataset.splits[split].label):,} {split} examples"):
        scores = trained_scores(trained, split)
    labels = np.asarray(dataset.splits[split].label)
    sections = [("Run", _run_section(member, trained)), ("Curves", _curves_section(member))]
    sections.append(("Calibration", _calibration_section(labels, scores, split)))
    sections += _part_sections(trained, split, labels, scores)
    with stage("looking at examples"):
        sections += _example_sections(trained, split, labels, scores, arguments)
    sections.append(("Settings", _settings_section(member)))
    subtitle = f"{split} split of {dataset.path}, {len(labels):,} examples"
    with writing(out, "--out"), atomic_file(out) as stream:
        stream.write(page(f"Report on {member.name}", subtitle, sections))
    return out


def _check_out(out: Path) -> None:
    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out must name an .html file, got {out}")
    if out.is_dir():
        raise UserError(f"--out {out} cannot be written: it is a folder")
    if not out.parent.is_dir():
        raise UserError(f"--out {out} cannot be written: there is no folder {out.parent}")


def _run_section(member: RunSummary, trained: TrainedModel) -> str:
    run, result = member.run, member.result
    facts = {
        "preset": run.preset,
        "data": str(trained.dataset.path),
        "seed": str(run.seed),
        "best step": f"{member.best_step:,}" if member.best_step else _ABSENT,
        "versions": ", ".join(f"{name} {version}" for name, version in run.versions.items()),
    }
    if result is not None:
        facts["device"] = str(result.get("device", _ABSENT))
        facts["training examples a second"] = f"{member.speed:,.0f}" if member.speed else _ABSENT
    rows = []
    for split in ("valid", "test"):
        metrics = member.metrics(split)
        if metrics is not None:
            names = (*METRICS, "examples")
            rows.append([split, *(_figure(metrics.get(name)) for name in names)])
    note = "" if result is not None else paragraph("The run is unfinished: the best so far.")
    labels = [metric.label for metric in METRICS.values()]
    figures = table(["split", *labels, "examples"], rows, "Metrics of the best checkpoint")
    return note + figures + table(["", ""], list(map(list, facts.items())), "The run", left=2)


def _figure(value: Any) -> str:
    if value is None:
        return "undefined"
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}"


def _curves_section(member: RunSummary) -> str:
    records = member.evaluations
    if not records:
        return paragraph("There is no evaluation yet.")
    best = member.best
    words = (
        f"Losses and validation AUC over steps; {len(records)} evaluation{'s' * (len(records) > 1)}"
    )
    if best is not None and best["valid"].get("auc") is not None:
        words += f", the best AUC {best['valid']['auc']:.4f} at step {best['step']:,}"
    return image(lambda: curves(records), words) + paragraph(f"{words}.", note=True)


def _calibration_section(labels: np.ndarray, scores: np.ndarray, split: str) -> str:
    found = diagnostics.calibration(labels, scores)
    words = (
        f"The model gives {scores.mean():.4f} on average, {labels.mean():.4f} of the {split} "
        f"examples are clicked. Expected calibration error {found.error:.4f} over "
        f"{diagnostics.BINS} bins of equal width, {found.error_equal_counts:.4f} over as many of "
        f"equal counts."
    )
    rows = [
        [
            f"{part.low:.1f} to {part.high:.1f}",
            f"{part.examples:,}",
            _ABSENT if part.score is None else f"{part.score:.4f}",
            _ABSENT if part.clicks is None else f"{part.clicks:.4f}",
        ]
        for part in found.bins
    ]
    picture = image(
        lambda: reliability(found),
        "Reliability diagram: share clicked over click probability, and examples by click "
        "probability; the table has the numbers",
    )
    header = ["click probability", "examples", "mean", "share clicked"]
    numbers = table(header, rows, "Bins of the reliability diagram")
    return f"{paragraph(words)}<div class='pair'><div>{picture}</div>{numbers}</div>"


def _part_sections(
    trained: TrainedModel, split: str, labels: np.ndarray, scores: np.ndarray
) -> list[tuple[str, str]]:
    dataset, most = trained.dataset, trained.run.config.train.max_history
    examples = dataset.splits[split]
    starts = np.asarray(dataset.event_offsets)[examples.sequence]
    lengths = np.minimum(np.asarray(examples.history_end) - starts, most)  # that the model sees
    item = np.asarray(examples.item)
    popularity = np.where(item == UNKNOWN, 0, np.asarray(dataset.popularity)[item])
    return [
        (
            "AUC by length of history",
            _parts(
                diagnostics.auc_by_size(labels, scores, lengths), "behaviours that the model sees"
            ),
        ),
        (
            "AUC by popularity of the item",
            _parts(
                diagnostics.auc_by_size(labels, scores, popularity, 4),
                "training events of the item (0: unknown)",
            ),
        ),
    ]


def _parts(parts: Sequence[PartAuc], title: str) -> str:
    rows = [
        [
            part.name,
            f"{part.examples:,}",
            f"{part.clicks:,}",
            "undefined" if part.auc is None else f"{part.auc:.4f}",
            _ABSENT if part.standard_error is None else f"{part.standard_error:.4f}",
        ]
        for part in parts
    ]
    picture = image(
        lambda: auc_by_part(parts, title), f"AUC by {title}: {diagnostics.describe_parts(parts)}"
    )
    header = [title, "examples", "clicks", "AUC", "standard error"]
    caption = (
        f"Standard errors are DeLong's. The picture has 1.96 of them either way, and leaves out "
        f"parts of fewer than {FEWEST} examples of either label."
    )
    numbers = table(header, rows, caption)
    return f"<div class='pair'><div>{picture}</div>{numbers}</div>"


def _example_sections(
    trained: TrainedModel, split: str, labels: np.ndarray, scores: np.ndarray, arguments: Arguments
) -> list[tuple[str, str]]:
    picks = diagnostics.pick(labels, scores, LISTED)
    of_split = _Group(Inspector(trained), trained.dataset, split, labels, scores, arguments)
    wrong = of_split.show(picks.false_alarms, "Not clicked, but sure of a click")
    wrong += of_split.show(picks.misses, "Clicked, but sure of none")
    right = of_split.show(picks.hits, "Clicked, and sure of it")
    right += of_split.show(picks.rejections, "Not clicked, and sure of that")
    right += of_split.show(picks.typical, "Typical: of median loss")
    return [
        ("How to read the examples", _legend(trained)),
        ("Most confidently wrong", wrong),
        ("Slowest to learn", _slowest(of_split.inspector, trained, arguments)),
        ("Right, and typical", right),
    ]


def _legend(trained: TrainedModel) -> str:
    model = trained.run.config.model
    lines = [f"{MEASURES[name]}: {EXPLANATIONS[name]}." for name in measures_of(model)]
    if lines:
        lines.append(
            "Gates are means over units. Bars of attention and update are relative to the largest "
            "of their history."
        )
    lines += [f"{line}." for line in lacking(model)]
    return "".join(map(paragraph, lines))


def _slowest(inspector: Inspector, trained: TrainedModel, arguments: Arguments) -> str:
    dataset = trained.dataset
    examples = dataset.splits["train"]
    count = len(examples.label)
    if not count:
        return paragraph("There are no training examples.")
    numbers = np.arange(count)
    words = "Training examples that still have the largest loss under the best checkpoint"
    if count > TRAINING_EXAMPLES:
        drawn = np.random.default_rng(0).choice(count, TRAINING_EXAMPLES, replace=False)
        numbers = np.sort(drawn)
        words += f", of {TRAINING_EXAMPLES:,} drawn from {count:,}"
    part = dataclasses.replace(dataset, splits={"train": examples.take(numbers)})
    scores = trained_scores(trained._replace(dataset=part), "train")
    labels = np.asarray(part.splits["train"].label)
    group = _Group(inspector, part, "train", labels, scores, arguments, numbers)
    return group.show(diagnostics.largest_losses(labels, scores, LISTED), words)


@dataclass(frozen=True)
class _Group:
    """Scored examples that some are shown of; ``numbers`` are those in the whole split."""

    inspector: Inspector
    dataset: Dataset
    split: str
    labels: np.ndarray
    scores: np.ndarray
    arguments: Arguments
    numbers: np.ndarray | None = None

    def show(self, picked: Sequence[int], title: str) -> str:
        """A table of examples, and the first of them with their histories."""
        if not picked:
            return ""
        names, examples = self.inspector.names, self.dataset.splits[self.split]
        losses = example_losses(self.labels[list(picked)], self.scores[list(picked)])
        starts = np.asarray(self.dataset.event_offsets)[examples.sequence[list(picked)]]
        lengths = examples.history_end[list(picked)] - starts
        rows = [
            [
                names.user(int(examples.group[row])),
                names.item(int(examples.item[row])),
                f"{self._number(row)}",
                f"{self.scores[row]:.4f}",
                f"{loss:.3f}",
                f"{length:,}",
                f"{self.dataset.popularity[examples.item[row]]:,}",
            ]
            for row, loss, length in zip(picked, losses.tolist(), lengths.tolist(), strict=True)
        ]
        header = ["user", "item", "example", "probability", "loss", "history", "popularity"]
        found = f"<h3>{title}</h3>" + table(header, rows, f"{len(rows)} {self.split} examples", 2)
        shown = self.inspector.examples(self.split, picked[:SHOWN], self.dataset)
        return found + "".join(map(self._article, shown))

    def _article(self, example: Example) -> str:
        number = self._number(example.number)
        command = f"python -m dien_jax.explain {shlex.quote(str(self.arguments.run_dir))}"
        if self.arguments.data is not None:
            command += f" --data {shlex.quote(str(self.arguments.data))}"
        command += f" --split {self.split} --example {number}"
        named = dataclasses.replace(example, number=number)
        return article(named, self.inspector.names.feature, command)

    def _number(self, row: int) -> int:
        return row if self.numbers is None else int(self.numbers[row])


def _settings_section(member: RunSummary) -> str:
    settings = flat_settings(member.run.config)
    usual = flat_settings(preset(member.run.preset))
    rows = [
        [name, _setting(value), "" if value == usual[name] else _setting(usual[name])]
        for name, value in settings.items()
    ]
    return table(["setting", "value", "preset's, where it differs"], rows, "All settings", left=3)


def _setting(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return run_command(
        lambda: tyro.cli(Arguments, args=argv, prog="python -m dien_jax.report"),
        lambda arguments: print(write_report(arguments)),
    )


if __name__ == "__main__":
    sys.exit(main())

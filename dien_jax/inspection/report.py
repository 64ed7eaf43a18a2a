"""The report on a run: one HTML page of sections, with its styles and figures.

The page loads nothing from elsewhere.
"""

import base64
import io
import shlex
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

from dien_jax.config.presets import PRESETS, flat_settings, nearest_preset, preset
from dien_jax.data.dataset import Dataset, training_events
from dien_jax.inspection.example_view import example_lines, measure_lines
from dien_jax.inspection.examples import Example, Inspector, available_measures, missing_measures
from dien_jax.metrics import diagnostics
from dien_jax.metrics.scores import CALIBRATION_BINS, METRICS, calibration_error, example_losses
from dien_jax.runs.calibration import negative_distribution
from dien_jax.runs.folder import Run
from dien_jax.runs.model_card import lists_line
from dien_jax.runs.summary import RunSummary, load_summaries, setting_text
from dien_jax.runs.trained import SplitScores, TrainedModel, load_run, score_split
from dien_jax.training.result import curves_figure
from dien_jax.utils.console import stage
from dien_jax.utils.files import check_out, write_text
from dien_jax.utils.plots import drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LISTED = 10  # number of examples of each kind in a table
SHOWN = 2  # number of examples of each kind that are shown with their histories

_ABSENT = "-"
_MARK = b"<meta name='generator' content='dien_jax'>"  # near the start of each page


def write_report(
    run_dir: str | Path,
    *,
    split: str = "valid",
    out: str | Path | None = None,
    data: str | Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Write one self-contained HTML file on a run and the errors of its best model.

    Args:
      run_dir: the run folder.
      split: ``"valid"`` or ``"test"``, the examples to inspect.
      out: file to write; ``report.html`` in the run folder by default.
      data: dataset folder; the run's own by default.
      overwrite: replace the file even if it is not a report.

    Raises:
      UserError: if the run, its checkpoint or the data cannot be read, the split is empty or the
        file cannot be written.

    >>> write_report("runs/first", out="first.html").name
    'first.html'
    """
    folder = Path(run_dir)
    file = folder / "report.html" if out is None else Path(out)
    options: Any = {"is_ours": _MARK, "overwrite": overwrite, "inputs": (folder, data)}
    check_out(file, ".html", ".htm", **options)
    [summary] = load_summaries([folder])
    trained = load_run(folder, data)
    dataset = trained.dataset
    scored = score_split(trained, split)
    with stage("inspecting examples"):
        flags = [str(run_dir), *([] if data is None else ["--data", str(data)])]
        command = f"python -m dien_jax.explain {shlex.join(flags)}"
        examples = _example_sections(trained, split, scored, command)
    sections = [
        ("Run", _run_section(summary, trained.run, dataset)),
        ("Curves", _curves_section(summary)),
        ("Calibration", _calibration_section(scored, split)),
        *_part_sections(trained, split, scored),
        *examples,
        ("Settings", _settings_section(trained.run)),
    ]
    subtitle = f"{split} split of {dataset.path}, {len(scored.labels):,} examples"
    dataset.check_files()
    write_text(file, page(f"Report on {summary.name}", subtitle, sections))
    return file


def _number(value: float | None, undefined: str = _ABSENT) -> str:
    return undefined if value is None else f"{value:.4f}"


def _run_section(summary: RunSummary, run: Run, dataset: Dataset) -> str:
    result = summary.result
    facts = {
        "preset": run.preset,
        "data": str(dataset.path),
        "seed": str(run.seed),
        "best step": f"{summary.best_step:,}" if summary.best_step else _ABSENT,
        "versions": ", ".join(f"{name} {version}" for name, version in run.versions.items()),
    }
    if result is not None:
        facts["device"] = str(result.get("device", _ABSENT))
        speed = f"{summary.speed:,.0f}" if summary.speed else _ABSENT
        facts["training examples per second"] = speed
        simple = result.get("baselines", {}).items()
        known = [f"{name} {value:.4f}" for name, value in simple if value is not None]
        facts["test AUC of simple models and parts"] = ", ".join(known) or _ABSENT
    rows = []
    for split in ("valid", "test"):
        if (metrics := summary.metrics(split)) is not None:
            numbers = [_number(metrics.get(name), "undefined") for name in METRICS]
            rows.append([split, *numbers, f"{metrics.get('examples', 0):,}"])
    labels = [metric.label for metric in METRICS.values()]
    note = "" if result else paragraph("The run is unfinished; these are its best metrics so far.")
    measured = table(["split", *labels, "examples"], rows, "Metrics of the best checkpoint")
    lists = summary.lists
    notes = [lists_line(lists)] if lists is not None and lists["targets"] else []
    if negative_distribution(dataset) == "popularity":
        why = "negatives were drawn by popularity, and are as popular as what users chose, or more"
        notes.append(f"Popularity alone may have an AUC below .5: {why}.")
    described = table(["", ""], list(map(list, facts.items())), "The run", left=2)
    return note + measured + described + "".join(map(paragraph, notes))


def _curves_section(summary: RunSummary) -> str:
    records, best = summary.evaluations, summary.best
    if not records:
        return paragraph("There is no evaluation yet.")
    count = f"{len(records)} evaluation{'s' * (len(records) > 1)}"
    text = f"Loss and validation AUC over steps; {count}"
    if best is not None and best["valid"].get("auc") is not None:
        text += f", the best AUC {best['valid']['auc']:.4f} at step {best['step']:,}"
    return image(curves_figure(records), text) + paragraph(f"{text}.", note=True)


def _calibration_section(scored: SplitScores, split: str) -> str:
    error = calibration_error(scored.labels, scored.scores)
    share = f"{scored.labels.mean():.4f} of the {split} examples are clicked"
    text = f"The mean click probability is {scored.scores.mean():.4f}, and {share}. The expected "
    text += f"calibration error is {_number(error)} over {CALIBRATION_BINS} bins of equal counts."
    rows = [
        [f"{part.low:.1f} to {part.high:.1f}", f"{part.examples:,}", *map(_number, part[-2:])]
        for part in diagnostics.calibration(scored.labels, scored.scores)
    ]
    header = ["click probability", "examples", "mean", "share clicked"]
    return paragraph(text) + table(header, rows, "Bins of equal width")


def _part_sections(trained: TrainedModel, split: str, scored: SplitScores) -> list[tuple[str, str]]:
    dataset, most = trained.dataset, trained.run.config.train.max_history
    examples = dataset.splits[split]
    starts = dataset.event_offsets[np.asarray(examples.sequence)]
    lengths = np.minimum(np.asarray(examples.history_end) - starts, most)
    popularity = training_events(dataset, np.asarray(examples.item))
    by_length = _parts(scored, lengths, 2, "number of behaviours that the model reads")
    by_popularity = _parts(scored, popularity, 4, "training events of the item (0: unknown)")
    return [("AUC by history length", by_length), ("AUC by item popularity", by_popularity)]


def _parts(scored: SplitScores, sizes: np.ndarray, factor: int, title: str) -> str:
    parts = diagnostics.auc_by_size(scored.labels, scored.scores, sizes, factor)
    rows = [
        [name, f"{examples:,}", f"{clicks:,}", _number(area, "undefined"), _number(error)]
        for name, examples, clicks, area, error in parts
    ]
    header = [title, "examples", "clicks", "AUC", "standard error"]
    return table(header, rows, "Standard errors are DeLong's.")


def _example_sections(
    trained: TrainedModel, split: str, scored: SplitScores, command: str
) -> list[tuple[str, str]]:
    picks = diagnostics.pick(scored.labels, scored.scores, LISTED)
    inspector = Inspector(trained)

    def shown(title: str, kind: str) -> str:
        scores = scored.scores[picks[kind]]
        return _examples(inspector, split, picks[kind], scores, title, command)

    wrong = shown("Not clicked, at the highest probabilities", "false alarms")
    wrong += shown("Clicked, at the lowest probabilities", "misses")
    right = shown("Clicked, at the highest probabilities", "hits")
    right += shown("Not clicked, at the lowest probabilities", "rejections")
    right += shown("Typical: loss near the median", "typical")
    model = trained.run.config.model
    if lines := measure_lines(available_measures(model)):
        lines.append("Gates are means over units")
    lines += missing_measures(model)
    return [
        ("How to read the examples", "".join(paragraph(f"{line}.") for line in lines)),
        ("Most confidently wrong", wrong),
        ("Right and typical", right),
    ]


def _examples(
    inspector: Inspector, split: str, numbers: list[int], scores: Any, title: str, command: str
) -> str:
    """Return a table of examples of a split, and the first ones with their histories."""
    if not numbers:
        return ""
    names, dataset = inspector.names, inspector.trained.dataset
    examples = dataset.splits[split].take(np.asarray(numbers))
    losses = example_losses(np.asarray(examples.label), scores)
    lengths = examples.history_end - dataset.event_offsets[np.asarray(examples.sequence)]
    events = training_events(dataset, np.asarray(examples.item))
    rows = []
    for row, number in enumerate(numbers):
        user, item = int(examples.group[row]), int(examples.item[row])
        fit = [f"{scores[row]:.4f}", f"{losses[row]:.3f}"]
        sizes = [f"{lengths[row]:,}", f"{events[row]:,}"]
        rows.append([names.user(user), names.item(item), str(number), *fit, *sizes])
    header = ["user", "item", "example", "probability", "loss", "history", "popularity"]
    blocks = [f"<h3>{title}</h3>", table(header, rows, f"{len(rows)} {split} examples", 2)]
    for example in inspector.examples(split, numbers[:SHOWN]):
        shell = f"{command} --split {split} --example {example.number}"
        blocks.append(article(example, names.feature, shell))
    return "".join(blocks)


def _settings_section(run: Run) -> str:
    # A run that was started in Python may have any preset name.
    name = run.preset if run.preset in PRESETS else nearest_preset(run.config)
    defaults = flat_settings(preset(name))
    rows = [
        [name, setting_text(value), "" if value == defaults[name] else setting_text(defaults[name])]
        for name, value in flat_settings(run.config).items()
    ]
    header = ["setting", "value", f"value of preset {name}, if different"]
    return table(header, rows, "All settings", left=3)


def page(title: str, subtitle: str, sections: Sequence[tuple[str, str]]) -> str:
    """Return the whole page; sections are pairs of a title (text) and a content (HTML)."""
    links, parts = "", ""
    for number, (name, body) in enumerate(sections, start=1):
        links += f"<a href='#part-{number}'>{escape(name)}</a>"
        parts += f"<section><h2 id='part-{number}'>{escape(name)}</h2>{body}</section>\n"
    files = map(Path(__file__).with_suffix, (".html", ".css"))
    template, style = (file.read_text("utf-8") for file in files)
    texts = {"title": escape(title), "subtitle": escape(subtitle), "style": style}
    return Template(template).substitute(texts, links=links, parts=parts)


def paragraph(text: str, *, note: bool = False) -> str:
    """Return text as a paragraph."""
    return f"<p{' class=note' if note else ''}>{escape(text)}</p>"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str, left: int = 1) -> str:
    """Return a table of text: the first ``left`` columns are ids, the others numbers."""

    def cells(tag: str, row: Sequence[str], scope: str = "") -> str:
        return "".join(
            f"<{tag} class='{'id' if number < left else 'number'}'{scope}>{escape(cell)}</{tag}>"
            for number, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    head = cells("th", header, " scope='col'")
    return (
        f"<div class='wide'><table><caption>{escape(caption)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def article(example: Example, feature: str | None, command: str) -> str:
    """Return an example as HTML, as ``command`` shows it in a terminal."""
    title, *lines = example_lines(example, feature, "utf-8")
    shown = escape("\n".join(lines))
    return (
        f"<article><h4>{escape(title)}</h4><pre>{shown}</pre>"
        f"<p class='note'>In a terminal: <code>{escape(command)}</code></p></article>"
    )


def image(figure: "Figure | None", alternative: str) -> str:
    """Return a figure as an ``img`` with an ``alt`` text; a note if there is no matplotlib."""
    if figure is None:
        return "<p class='note'>No figure: matplotlib is not installed (the extra 'plot').</p>"
    import matplotlib

    stream = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "dien_jax"}), drawing():
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    encoded = base64.b64encode(stream.getvalue()).decode()
    return f"<img src='data:image/svg+xml;base64,{encoded}' alt='{escape(alternative)}'>"

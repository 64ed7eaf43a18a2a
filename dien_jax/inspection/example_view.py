"""One example as text and as a figure: its history with attention and gates."""

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from rich.cells import cell_len

from dien_jax.inspection.examples import MEASURES, RELATIVE, Example, Inspector, title_of
from dien_jax.utils.plots import new_figure, padded, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ITEM_WIDTH, CATEGORY_WIDTH = 24, 18  # maximum number of columns of text
BAR_WIDTH = 8
LISTED, READ = 5, 3  # top items of a ranking that are shown, and behaviours for each
MATCH = "*"  # marks a behaviour that shares a category with the candidate

_EIGHTHS = " ▏▎▍▌▋▊▉"


def prediction(example: Example) -> str:
    """Return the click probability, the one by counts alone, and the label, as text."""
    label = {None: "", 0: ", not clicked", 1: ", clicked"}[example.label]
    alone = example.by_counts
    part = "" if alone is None else f" (by counts, without reading the history, {alone:.4f})"
    return f"click probability {example.probability:.4f}{part}{label}"


def example_lines(example: Example, feature: str | None, encoding: str) -> list[str]:
    """Return an example as lines for a terminal, bars as ``#`` if ``encoding`` lacks blocks."""
    item, category, _ = example.candidate
    number = "" if example.split is None else f"{example.split} example {example.number}: "
    title = f"{number}user {example.user}, item {item}{f' ({category})' if category else ''}"
    behaviours, count = example.behaviours, len(example.behaviours)
    if not count:
        return [title, prediction(example), "no behaviours: the history is empty"]
    line = f"{count:,} behaviour{'s' if count > 1 else ''}, oldest first"
    if example.older:
        line += f" ({example.older:,} older left out, as in training: train.max-history)"
    if feature is not None:
        line += f"; {MATCH} marks the candidate's {feature}"
    lines = [title, prediction(example), line]

    def column(title: str, texts: list[str], most: int) -> list[str]:
        texts = [title, *texts]
        return [padded(text, min(most, max(map(cell_len, texts)))) for text in texts]

    marks = [MATCH if behaviour.matches else " " for behaviour in behaviours]
    numbers = [f"{row:3} {mark}" for row, mark in enumerate(marks, start=1)]
    columns = [[" " * 5, *numbers], column("item", [b.item for b in behaviours], ITEM_WIDTH)]
    if feature is not None:
        categories = [behaviour.category or "" for behaviour in behaviours]
        columns.append(column(feature, categories, CATEGORY_WIDTH))
    for name, values in example.measures.items():
        largest = float(values.max(initial=0)) if name in RELATIVE else 1.0
        bars = [_bar(value / largest if largest else 0.0, encoding) for value in values.tolist()]
        cells = [f"{bar:{BAR_WIDTH}} {v:.4f}" for bar, v in zip(bars, values, strict=True)]
        columns.append([f"{title_of(name):{BAR_WIDTH + 7}}", *cells])
    rows = zip(*columns, strict=True)
    return [*lines, "", *(f"{first} {'  '.join(rest)}".rstrip() for first, *rest in rows)]


def ranking_lines(inspector: Inspector) -> list[str]:
    """Return the most and least likely clicks of the first test user, without request features."""
    dataset = inspector.trained.dataset
    items = np.arange(1, dataset.schema.num_items, dtype=np.int32)
    examples = dataset.splits["test"].take(np.zeros_like(items))._replace(item=items)
    candidates = dataclasses.replace(dataset, splits={"test": examples})
    found = inspector.examples("test", range(len(items)), candidates)
    found.sort(key=lambda example: -example.probability)
    history = ", ".join(behaviour.item for behaviour in found[0].behaviours)
    lines = [f"History of {found[0].user}, oldest first: {history}."]
    lines.append("Most and least likely clicks:")
    for place in (*range(min(LISTED, len(found) - 1)), len(found) - 1):
        example = found[place]
        attention = example.measures.get("attention", np.zeros(0))
        most = sorted(np.argsort(-attention, kind="stable")[:READ].tolist())
        read = ", ".join(f"{example.behaviours[k].item} ({attention[k]:.2f})" for k in most)
        item = padded(example.candidate.item, ITEM_WIDTH)
        lines.append(f"{place + 1:3} {item} {example.probability:.2f}  by attention to {read}")
    return lines


def measure_lines(names: Iterable[str]) -> list[str]:
    """Return explanations of measures."""
    relative = dict.fromkeys(RELATIVE, " (bars are relative to the largest)")
    return [f"{title_of(name)}: {MEASURES[name]}{relative.get(name, '')}" for name in names]


def _bar(length: float, encoding: str) -> str:
    eighths = round(min(max(length, 0.0), 1.0) * BAR_WIDTH * 8)
    bar = ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()
    try:
        bar.encode(encoding)
    except UnicodeEncodeError:
        return "#" * round(eighths / 8)
    return bar


def draw_example(example: Example, feature: str | None) -> "Figure":
    """Draw a panel of bars for each measure, with a row per behaviour, then the candidate's row.

    >>> from dien_jax import load_run
    >>> from dien_jax.inspection import Inspector, draw_example
    >>> inspector = Inspector(load_run("runs/first"))
    >>> [example] = inspector.examples("valid", [0])
    >>> figure = draw_example(example, inspector.names.feature)
    >>> len(figure.axes) == len(example.measures)
    True

    Args:
      example: the example.
      feature: name of the item feature shown as the category, from ``Inspector.names``.

    Raises:
      ImportError: without the extra ``plot``.
    """
    behaviours, count = example.behaviours, len(example.behaviours)
    columns = max(len(example.measures), 1)
    width, height = 3.6 + 2.1 * columns, 1.5 + 0.19 * (count + 1)
    figure, panels = new_figure(width, height, columns=columns, sharey=True)
    colours = ["C1" if behaviour.matches else "C0" for behaviour in behaviours]
    rows = np.arange(count)
    for axes, (name, values) in zip(panels, example.measures.items(), strict=False):
        axes.barh(rows, values, color=colours, height=0.75)
        axes.set_title(title_of(name), fontsize="small", loc="left")
        axes.set_xlim(0, float(values.max(initial=0)) * 1.05 or 1 if name in RELATIVE else 1)
        axes.locator_params(axis="x", nbins=3)
    for axes in panels:
        axes.axhline(count - 0.5, color="0.5", lw=0.8)
        axes.tick_params(labelsize="x-small")
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
    first = panels[0]
    if not example.measures:
        first.set_xticks([])
        first.text(0.5, 0.5, "no attention and no gates", transform=first.transAxes,
                   ha="center", color="0.4")  # fmt: skip
    first.set_ylim(count + 0.5, -0.5)
    labels = []
    for item, category, _ in (*behaviours, example.candidate):
        suffix = f" · {shortened(category, CATEGORY_WIDTH)}" if category else ""
        labels.append(shortened(item, ITEM_WIDTH) + suffix)
    first.set_yticks(np.arange(count + 1), labels, parse_math=False)
    for label, behaviour in zip(first.get_yticklabels(), behaviours, strict=False):
        label.set_color("#a85b00" if behaviour.matches else "black")
    first.get_yticklabels()[-1].set_fontweight("bold")
    number = "" if example.split is None else f"{example.split} example {example.number}, "
    title = f"{number}user {shortened(example.user, ITEM_WIDTH)}\n{prediction(example)}"
    figure.suptitle(title, fontsize="medium", parse_math=False)
    notes = ["last row: the candidate"]
    if any(behaviour.matches for behaviour in behaviours):
        notes.append(f"orange: behaviours of the candidate's {feature}")
    if example.older:
        notes.append(f"{example.older:,} older behaviours left out")
    note = ("; " if columns > 1 else "\n").join(notes)
    figure.supxlabel(note, fontsize="small", parse_math=False)
    return figure

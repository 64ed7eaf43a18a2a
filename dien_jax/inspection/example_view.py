"""One example as text and as a picture: its history beside attention and gates."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.cells import cell_len

from dien_jax.inspection.examples import Example
from dien_jax.inspection.gates import EXPLANATIONS, MEASURES, RELATIVE
from dien_jax.utils.plots import padded, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ITEM_WIDTH, CATEGORY_WIDTH = 24, 18
"""Most columns of text."""
BAR_WIDTH = 8
ALIKE = "*"
"""Marks a behaviour that shares a category with the candidate."""

_EIGHTHS = " ▏▎▍▌▋▊▉"
_ROW_HEIGHT = 0.19
"""Inches."""


def heading(example: Example) -> list[str]:
    """Which example it is, what the model says and what happened: two lines."""
    of_category = f" ({example.candidate.category})" if example.candidate.category else ""
    named = "" if example.split is None else f"{example.split} example {example.number}: "
    return [
        f"{named}user {example.user}, item {example.candidate.item}{of_category}",
        verdict(example),
    ]


def verdict(example: Example) -> str:
    """What the model says and what happened."""
    happened = {None: "", 0: ", not clicked", 1: ", clicked"}[example.label]
    return f"click probability {example.probability:.4f}{happened}"


def history_line(example: Example, feature: str | None) -> str:
    """How long the history is, what is cut off it and what the mark means."""
    count = len(example.behaviours)
    if not count:
        return "no behaviours: the history is empty"
    line = f"{count:,} behaviour{'s' if count > 1 else ''}, oldest first"
    if example.older:
        line += f" ({example.older:,} older left out, as in training: train.max-history)"
    if feature is not None:
        line += f"; {ALIKE} has the candidate's {feature}"
    return line


def shares(example: Example, name: str) -> np.ndarray:
    """How long the bars of a measure are, 0 to 1."""
    values = example.measures[name]
    largest = values.max(initial=0) if name in RELATIVE else 1.0
    return np.clip(values / largest, 0, 1) if largest else np.zeros_like(values)


def as_text(example: Example, feature: str | None, encoding: str) -> list[str]:
    """Lines for a terminal.

    Args:
      example: what is shown.
      feature: the item feature that the category is.
      encoding: of the terminal; bars are of another character where it lacks those of blocks.
    """
    lines = [*heading(example), history_line(example, feature), ""]
    behaviours = example.behaviours
    if not behaviours:
        return lines[:-1]
    item = _width([b.item for b in behaviours], "item", ITEM_WIDTH)
    category = _width([b.category or "" for b in behaviours], feature or "", CATEGORY_WIDTH)
    head = f"{'':3} {'':1} {padded('item', item)}"
    if feature is not None:
        head += f"  {padded(feature, category)}"
    bars = {name: shares(example, name) for name in example.measures}
    wide = BAR_WIDTH + 7
    lines.append((head + "".join(f"  {MEASURES[name]:{wide}}" for name in bars)).rstrip())
    for row, behaviour in enumerate(behaviours):
        mark = ALIKE if behaviour.is_alike else " "
        line = f"{row + 1:3} {mark} {padded(behaviour.item, item)}"
        if feature is not None:
            line += f"  {padded(behaviour.category or '', category)}"
        for name, lengths in bars.items():
            bar = _bar(float(lengths[row]), encoding)
            line += f"  {bar:{BAR_WIDTH}} {example.measures[name][row]:.4f}"
        lines.append(line.rstrip())
    return lines


def explained(example: Example) -> list[str]:
    """What each measure is, a line each."""
    return [
        f"{MEASURES[name]}: {EXPLANATIONS[name]}"
        + (" (bars are relative to the largest)" if name in RELATIVE else "")
        for name in example.measures
    ]


def _width(texts: Sequence[str], title: str, most: int) -> int:
    return min(most, max(map(cell_len, [*texts, title])))


def _bar(share: float, encoding: str) -> str:
    eighths = round(share * BAR_WIDTH * 8)
    bar = ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()
    try:
        bar.encode(encoding)
    except UnicodeEncodeError:
        return "#" * round(eighths / 8)
    return bar


def draw_example(example: Example, feature: str | None) -> "Figure":
    """Bars beside the history, a row a behaviour, the candidate below; needs matplotlib."""
    from matplotlib.figure import Figure

    behaviours, count = example.behaviours, len(example.behaviours)
    names = list(example.measures)
    columns = max(len(names), 1)
    labels = [_label(b.item, b.category) for b in behaviours]
    labels.append(_label(example.candidate.item, example.candidate.category))
    figure = Figure(
        figsize=(3.6 + 2.1 * columns, 1.5 + _ROW_HEIGHT * (count + 1)), layout="constrained"
    )
    panels = np.atleast_1d(figure.subplots(1, columns, sharey=True))
    colours = ["C1" if b.is_alike else "C0" for b in behaviours]
    places = np.arange(count)
    for axes, name in zip(panels, names, strict=False):
        values = example.measures[name]
        axes.barh(places, values, color=colours, height=0.75)
        axes.set_title(MEASURES[name], fontsize="small", loc="left")
        axes.set_xlim(0, float(values.max(initial=0)) * 1.05 or 1 if name in RELATIVE else 1)
        axes.locator_params(axis="x", nbins=3)
        axes.set_axisbelow(True)
        axes.grid(axis="x", alpha=0.3)
    for axes in panels:
        axes.axhline(count - 0.5, color="0.5", lw=0.8)
        axes.tick_params(labelsize="x-small")
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right"]].set_visible(False)
    if not names:
        panels[0].set_xticks([])
        panels[0].text(0.5, 0.5, "no attention and no gates", transform=panels[0].transAxes,
                       ha="center", color="0.4")  # fmt: skip
    panels[0].set_ylim(count + 0.5, -0.5)
    panels[0].set_yticks([*places, count], labels, parse_math=False)
    for label, behaviour in zip(panels[0].get_yticklabels(), behaviours, strict=False):
        label.set_color("#a85b00" if behaviour.is_alike else "black")
    panels[0].get_yticklabels()[-1].set_weight("bold")
    alike = feature is not None and any(b.is_alike for b in behaviours)
    below = f"orange: behaviours of the candidate's {feature}" if alike else ""
    older = f"{example.older:,} older behaviours left out" if example.older else ""
    named = "" if example.split is None else f"{example.split} example {example.number}, "
    title = [f"{named}user {shortened(example.user, ITEM_WIDTH)}", verdict(example)]
    figure.suptitle("\n".join(title), fontsize="medium", parse_math=False)
    notes = list(filter(None, ("last row: the candidate", below, older)))
    figure.supxlabel(("; " if columns > 1 else "\n").join(notes), fontsize="small",
                     parse_math=False)  # fmt: skip
    return figure


def _label(item: str, category: str | None) -> str:
    item = shortened(item, ITEM_WIDTH)
    return f"{item} · {shortened(category, CATEGORY_WIDTH)}" if category else item

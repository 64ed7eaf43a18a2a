"""The HTML page of a report, with its styles and figures; it loads nothing from elsewhere."""

import base64
import io
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dien_jax.inspection.example_view import bar_lengths, heading, history_line, prediction
from dien_jax.inspection.examples import MEASURES, Example
from dien_jax.metrics.diagnostics import Calibration, PartAuc
from dien_jax.utils.files import starts_with
from dien_jax.utils.plots import drawing, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_BEHAVIOURS = 24
"""Maximum number of behaviours that are shown: those with most attention."""

_GENERATOR = "<meta name='generator' content='dien_jax'>"
_STYLE = Path(__file__).with_name("report_page.css")


def page(title: str, subtitle: str, sections: Sequence[tuple[str, str]]) -> str:
    """Return the whole page; sections are pairs of a title (text) and a content (HTML)."""
    links, parts = "", ""
    for number, (name, body) in enumerate(sections, start=1):
        links += f"<a href='#part-{number}'>{escape(name)}</a>"
        parts += f"<section><h2 id='part-{number}'>{escape(name)}</h2>{body}</section>\n"
    return (
        "<!DOCTYPE html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
        f"{_GENERATOR}\n"
        "<meta http-equiv='Content-Security-Policy' "
        "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        f"<title>{escape(title)}</title>\n<style>\n{_STYLE.read_text('utf-8')}</style>\n</head>\n<body>\n"
        f"<header><h1>{escape(title)}</h1><p class='note'>{escape(subtitle)}</p></header>\n"
        f"<nav aria-label='Sections'>{links}</nav>\n<main>\n{parts}</main>\n</body>\n</html>\n"
    )


def is_report(file: Path) -> bool:
    """Return whether a file is one of :func:`page`."""
    return starts_with(file, _GENERATOR.encode(), within=500)


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
    return _table(f"<caption>{escape(caption)}</caption>", head, body)


def _table(caption: str, head: str, body: str) -> str:
    return (
        f"<div class='wide'><table>{caption}<thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def article(example: Example, feature: str | None, command: str) -> str:
    """Return an example as HTML: its history as a table, with bars for attention and gates.

    ``feature`` is shown as the category; ``command`` shows the example in a terminal.
    """
    text, note = prediction(example), history_line(example, feature)
    places = np.arange(len(example.behaviours))
    if len(places) > MOST_BEHAVIOURS and "attention" in example.measures:
        attention = example.measures["attention"]
        places = np.sort(np.argsort(-attention, kind="stable")[:MOST_BEHAVIOURS])
        left = 1 - float(attention[places].sum())
        note += f"; the {MOST_BEHAVIOURS} with most attention are shown, the others have {left:.1%}"
    elif len(places) > MOST_BEHAVIOURS:
        places = places[-MOST_BEHAVIOURS:]
        note += f"; the latest {MOST_BEHAVIOURS} are shown"
    return (
        f"<article><h4>{escape(heading(example))}</h4>"
        f"{paragraph(f'{text[0].upper()}{text[1:]}.')}{paragraph(f'{note}.', note=True)}"
        f"{_history(example, places, feature) if len(places) else ''}"
        f"<p class='note'>In a terminal: <code>{escape(command)}</code></p></article>"
    )


def _history(example: Example, places: np.ndarray, feature: str | None) -> str:
    names = ["", "item", *([] if feature is None else [feature])]
    head = "".join(f"<th scope='col'>{escape(name)}</th>" for name in names)
    lengths = {name: bar_lengths(example, name) for name in example.measures}
    for measure in map(MEASURES.__getitem__, lengths):
        title = escape(measure.explanation)
        head += f"<th scope='col' title='{title}'>{measure.title}</th>"
    rows = []
    for place in places.tolist():
        item, category, matches = example.behaviours[place]
        cells = f"<td class='number'>{place + 1}</td><td class='id'>{escape(item)}</td>"
        if feature is not None:
            cells += f"<td class='id'>{escape(category or '')}{' *' if matches else ''}</td>"
        for name, values in example.measures.items():
            bar = f"<div class='bar' style='--share:{lengths[name][place]:.3f}'><i></i>"
            cells += f"<td>{bar}{values[place]:.4f}</div></td>"
        rows.append(f"<tr{' class=match' if matches else ''}>{cells}</tr>")
    return _table("", head, "".join(rows))


FEWEST = 10
"""Minimum number of examples of either label for an AUC to be drawn."""


def image(draw: Callable[[], "Figure | None"], alternative: str) -> str:
    """Return a figure as an ``img``, or a paragraph that says that matplotlib is missing.

    ``alternative`` describes the figure in words.
    """
    try:
        import matplotlib
    except ImportError:
        return "<p class='note'>No figure: matplotlib is not installed (the extra 'plot').</p>"
    stream = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "dien_jax"}), drawing():
        figure = draw()
        assert figure is not None
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    encoded = base64.b64encode(stream.getvalue()).decode()
    return f"<img src='data:image/svg+xml;base64,{encoded}' alt='{escape(alternative)}'>"


def reliability(calibration: Calibration) -> "Figure":
    """Draw the share of clicks over the mean score, above the number of examples."""
    figure, [above, below] = new_figure(5.6, 5.2, rows=2, sharex=True, height_ratios=(3, 1))
    points = [part[-2:] for part in calibration.bins if part.examples]
    above.plot([0, 1], [0, 1], ls="--", lw=1, color="0.5", label="perfectly calibrated")
    above.plot(*np.array(points, float).T, marker="o", label="model", clip_on=False)
    above.set(ylabel="share clicked", xlim=(0, 1), ylim=(0, 1))
    above.legend(loc="upper left", fontsize="small")
    counts = [part.examples for part in calibration.bins]
    centres = [(part.low + part.high) / 2 for part in calibration.bins]
    bars = below.bar(centres, counts, width=0.9 / len(counts))
    below.bar_label(bars, [f"{count:,}" for count in counts], fontsize="x-small")
    below.margins(y=0.25)
    below.set(xlabel="click probability", ylabel="examples")
    return figure


def auc_by_part(parts: Sequence[PartAuc], title: str) -> "Figure":
    """Draw the AUC of each part with error bars of 1.96 standard errors."""
    figure, [axes] = new_figure(5.6, 3.6)
    shown = [part for part in parts if min(part.clicks, part.examples - part.clicks) >= FEWEST]
    for place, part in enumerate(shown):
        assert part.auc is not None
        margin = 1.96 * (part.standard_error or 0)
        axes.errorbar(place, part.auc, yerr=margin, fmt="o", capsize=3, color="C0")
    axes.axhline(0.5, color="0.5", lw=1, ls="--")
    labels = [f"{part.name}\nn = {part.examples:,}" for part in shown]
    rotation = 0 if len(shown) <= 8 else 45
    axes.set_xticks(range(len(shown)), labels, fontsize="x-small", rotation=rotation)
    axes.set_xlim(-0.5, max(len(shown), 1) - 0.5)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0), min(high, 1.02))
    axes.set(xlabel=title, ylabel="AUC")
    axes.grid(visible=False, axis="x")
    return figure

"""The page of a report: HTML with its styles, and nothing from anywhere else."""

from collections.abc import Sequence
from html import escape

import numpy as np

from dien_jax.inspection.example_view import heading, history_line, shares
from dien_jax.inspection.examples import Behaviour, Example
from dien_jax.inspection.gates import EXPLANATIONS, MEASURES

MOST_BEHAVIOURS = 24
"""Of a longer history those with most attention are shown."""

STYLE = """
:root { color-scheme: light dark; --ink: #222; --faint: #666; --line: #ccc; --paper: #fff;
  --card: #f6f6f4; --bar: #7aa7d9; --alike: #e5a04f; }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #ddd; --faint: #9a9a9a;
  --line: #444; --paper: #191919; --card: #222; --bar: #3f6fa5; --alike: #a8681c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0; overflow-wrap: anywhere; }
h2 { margin: 2.2rem 0 .4rem; border-bottom: 1px solid var(--line); }
h3 { margin: 1.4rem 0 .3rem; font-size: 1.05rem; }
p { margin: .4rem 0; max-width: 50rem; }
.note { color: var(--faint); }
nav a { margin-right: 1rem; }
a { color: inherit; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .6rem 0; font-size: .9rem; }
caption { text-align: left; color: var(--faint); padding-bottom: .2rem; }
th, td { text-align: left; padding: .12rem .9rem .12rem 0; vertical-align: top;
  border-bottom: 1px solid var(--line); }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
td.id { overflow-wrap: anywhere; max-width: 18rem; }
img { max-width: 100%; height: auto; }
.pair { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
.pair > * { flex: 1 1 24rem; min-width: 0; }
article { background: var(--card); padding: .6rem 1rem; margin: .8rem 0; border-radius: 6px; }
article h4 { margin: 0; overflow-wrap: anywhere; }
article table { font-size: .8rem; }
article th, article td { border: 0; padding: .05rem .8rem .05rem 0; }
article td.id { min-width: 7.5rem; overflow-wrap: break-word; }
.bar { --full: 5rem; display: flex; align-items: center; gap: .4rem;
  width: calc(var(--full) + 3.2rem); }
.bar i { flex: none; height: .8em; width: calc(var(--share) * var(--full)); background: var(--bar);
  print-color-adjust: exact; -webkit-print-color-adjust: exact; }
tr.alike .bar i { background: var(--alike); }
code { font-size: .85em; overflow-wrap: anywhere; }
@media print { :root { font-size: 9pt; } nav { display: none; }
  body { max-width: none; padding: 0; font-size: 1rem; }
  article, tr, picture { break-inside: avoid; } h2, h3, h4 { break-after: avoid; }
  article { border: 1px solid var(--line); } article table { font-size: .85rem; }
  .bar { --full: 2rem; } .pair > * { flex-basis: 18rem; } .wide { overflow: visible; } }
"""


def page(title: str, subtitle: str, sections: Sequence[tuple[str, str]]) -> str:
    """The whole page.

    Args:
      title: of the page, as text.
      subtitle: a line below it, as text.
      sections: their headings, as text, and what they hold, as HTML.
    """
    links = "".join(
        f"<a href='#part-{number}'>{escape(name)}</a>"
        for number, (name, _) in enumerate(sections, start=1)
    )
    parts = "".join(
        f"<section><h2 id='part-{number}'>{escape(name)}</h2>{body}</section>\n"
        for number, (name, body) in enumerate(sections, start=1)
    )
    return (
        "<!DOCTYPE html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
        "<meta http-equiv='Content-Security-Policy' "
        "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<header><h1>{escape(title)}</h1><p class='note'>{escape(subtitle)}</p></header>\n"
        f"<nav aria-label='Sections'>{links}</nav>\n<main>\n{parts}</main>\n</body>\n</html>\n"
    )


def paragraph(text: str, *, note: bool = False) -> str:
    """Text as a paragraph."""
    return f"<p{' class=note' if note else ''}>{escape(text)}</p>"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str, left: int = 1) -> str:
    """Texts as a table, the first ``left`` columns flush left and the others numbers."""

    def cells(tag: str, row: Sequence[str]) -> str:
        found = []
        for number, cell in enumerate(row):
            kind = "id" if number < left else "number"
            scope = " scope='col'" if tag == "th" else ""
            found.append(f"<{tag} class='{kind}'{scope}>{escape(cell)}</{tag}>")
        return "".join(found)

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return (
        f"<div class='wide'><table><caption>{escape(caption)}</caption>"
        f"<thead><tr>{cells('th', header)}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def article(example: Example, feature: str | None, command: str) -> str:
    """An example: its history as a table, with bars for attention and gates.

    Args:
      example: what is shown.
      feature: the item feature that the category is.
      command: what shows the same in a terminal.
    """
    title, verdict = heading(example)
    parts = [f"<article><h4>{escape(title)}</h4>", paragraph(f"{verdict[0].upper()}{verdict[1:]}.")]
    places = np.arange(len(example.behaviours))
    note = history_line(example, feature)
    if len(places) > MOST_BEHAVIOURS and "attention" in example.measures:
        attention = example.measures["attention"]
        places = np.sort(np.argsort(-attention, kind="stable")[:MOST_BEHAVIOURS])
        left = 1 - float(attention[places].sum())
        note += f"; the {MOST_BEHAVIOURS} with most attention are shown, the others have {left:.1%}"
    elif len(places) > MOST_BEHAVIOURS:
        places = places[-MOST_BEHAVIOURS:]
        note += f"; the latest {MOST_BEHAVIOURS} are shown"
    parts.append(paragraph(f"{note}.", note=True))
    if len(places):
        parts.append(_history(example, places, feature))
    parts.append(f"<p class='note'>In a terminal: <code>{escape(command)}</code></p></article>")
    return "".join(parts)


def _history(example: Example, places: np.ndarray, feature: str | None) -> str:
    names = list(example.measures)
    head = ["", "item", *([feature] if feature is not None else [])]
    columns = "".join(f"<th scope='col'>{escape(name)}</th>" for name in head)
    columns += "".join(
        f"<th scope='col' title='{escape(EXPLANATIONS[name])}'>{MEASURES[name]}</th>"
        for name in names
    )
    lengths = {name: shares(example, name) for name in names}
    rows = []
    for place in places.tolist():
        behaviour = example.behaviours[place]
        cells = f"<td class='number'>{place + 1}</td>{_named(behaviour, feature)}"
        for name in names:
            share, value = lengths[name][place], example.measures[name][place]
            cells += (
                f"<td><div class='bar' style='--share:{share:.3f}'><i></i>{value:.4f}</div></td>"
            )
        rows.append(f"<tr{' class=alike' if behaviour.is_alike else ''}>{cells}</tr>")
    return (
        f"<div class='wide'><table><thead><tr>{columns}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _named(behaviour: Behaviour, feature: str | None) -> str:
    cells = f"<td class='id'>{escape(behaviour.item)}</td>"
    if feature is None:
        return cells
    mark = " *" if behaviour.is_alike else ""
    return f"{cells}<td class='id'>{escape(behaviour.category or '')}{mark}</td>"

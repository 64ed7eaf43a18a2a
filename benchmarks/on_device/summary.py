"""The summary of ``benchmarks.device`` in Markdown."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.common.report import markdown_table
from benchmarks.on_device.plan import Part, described

Endings = Mapping[str, dict[str, Any]]
MODE, CASE = "forward + backward", "large_batch"
"""The measurement that decides which kernel ``"auto"`` should take."""


class Verdict(NamedTuple):
    """Outcome of the suite of a kernel, with its text."""

    agrees: bool
    text: str


def suite_verdict(out: Path, kernel: str, endings: Endings) -> Verdict | None:
    """Return the outcome of the suite of a kernel, or None if it did not run."""
    name = f"suite-{kernel}"
    if name not in endings:
        return None
    rows = _lines(out / f"{name}.jsonl")
    started = [row["case"] for row in rows if row["outcome"] == "started"]
    ended = [row for row in rows if row["outcome"] != "started"]
    outcome = endings[name]["outcome"]
    open_case = started[-1] if len(started) > len(ended) else None
    if open_case is not None and outcome.startswith("crashed"):
        return Verdict(False, f"{outcome} in {open_case}")
    deviating = [row for row in ended if row["outcome"] == "deviates"]
    if deviating:
        worst = max(deviating, key=lambda row: row["deviation"])
        where = f"{worst['array']}: {worst['case']}"
        count = f"{len(deviating)} of {len(ended)} cases"
        return Verdict(False, f"deviates by {worst['deviation']:.1e} ({where}); {count}")
    raising = [row for row in ended if row["outcome"] == "raises"]
    if raising:
        first = raising[0]
        return Verdict(False, f"does not compile or run ({first['case']}): {first['error']}")
    agreeing = [row for row in ended if row["outcome"] == "agrees"]
    if open_case is not None and not (agreeing and _was_slow(ended, endings[name])):
        return Verdict(False, f"hangs in {open_case}")
    if not agreeing:
        reason = ended[0]["error"] if ended else endings[name]["last"]
        return Verdict(False, f"ran no case: {reason}")
    largest = max(row["deviation"] for row in agreeing)
    refused = len(ended) - len(agreeing)
    more = f", refuses {refused}" if refused else ""
    rest = f"; its time was over in {open_case}" if open_case is not None else ""
    text = f"agrees in {len(agreeing)} cases, deviation at most {largest:.1e}{more}{rest}"
    return Verdict(True, text)


def _was_slow(ended: Sequence[dict[str, Any]], ending: dict[str, Any]) -> bool:
    """Return whether the last case had no more time than others needed."""
    left = ending["seconds"] - sum(row["seconds"] for row in ended)
    return left < 3 * max(row["seconds"] for row in ended)


def summary(out: Path, about: dict[str, Any], parts: Sequence[Part], endings: Endings) -> str:
    """Return the summary of all parts in a folder."""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    lines = [f"# {about['kind']}", "", versions]
    lines += [f"Driver and clocks: {about['nvidia_smi']}"] if about["nvidia_smi"] else []
    kernels = [part.name.removeprefix("suite-") for part in parts if part.name.startswith("suite-")]
    verdicts = {kernel: suite_verdict(out, kernel, endings) for kernel in kernels}
    texts = [(f"`{name}`", one.text if one else "not run") for name, one in verdicts.items()]
    lines += ["", "## Kernels", "", *markdown_table(("kernel", "compared with the oracle"), texts)]
    lines += _recurrences(out, verdicts)
    lines += _steps(out)
    lines += _blocks(out)
    ends = [(part.name, described(endings.get(part.name))) for part in parts]
    lines += ["", "## Parts", "", *markdown_table(("part", "ended"), ends)]
    return "\n".join(lines) + "\n"


def _recurrences(out: Path, verdicts: Mapping[str, Verdict | None]) -> list[str]:
    rows = [row for name in ("recurrence-*", "exact-*") for row in _rows(out, name)]
    if not rows:
        return []
    groups: dict[tuple[str, ...], dict[str, list[float]]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("case", "cell", "mode", "precision"))
        times = groups.setdefault(key, {})
        times.setdefault(row["implementation"], []).append(row["median_ms"])
    names = list(dict.fromkeys(row["implementation"] for row in rows))
    cells = []
    for key, times in groups.items():
        found = [f"{statistics.median(times[name]):.3g}" if name in times else "" for name in names]
        cells.append([", ".join(key), *found])
    table = markdown_table(["case", *names], cells)
    return ["", "## Recurrences, ms", "", *table, "", _auto(groups, verdicts)]


def _auto(
    groups: Mapping[tuple[str, ...], dict[str, list[float]]],
    verdicts: Mapping[str, Verdict | None],
) -> str:
    """Return which implementation ``"auto"`` should take for the AUGRU."""
    times = groups.get((CASE, "augru", MODE, "default"), {})
    right = {name for name, verdict in verdicts.items() if verdict and verdict.agrees} | {"xla"}
    medians = {name: statistics.median(found) for name, found in times.items()}
    if not right & set(medians):
        return f'`"auto"`: nothing was timed on {CASE}.'
    best = min(right & set(medians), key=lambda name: medians[name])
    others = [
        f"{median / medians[best]:.2f} times as long with {name}"
        for name, median in medians.items()
        if name != best
    ]
    return f'`"auto"` should take `{best}` ({CASE}, {MODE}): {", ".join(others)}.'


def _steps(out: Path) -> list[str]:
    rows = _rows(out, "step-*")
    if not rows:
        return []
    cells = []
    for row in rows:
        batch = int(row["case"].split()[1])
        ours = row["system"].startswith("dien_jax")
        memory = f"{row['device_peak_mb']:,.0f}" if ours and row["device_peak_mb"] else ""
        speed = f"{row['median_ms']:.3g}", f"{row['samples_per_second']:,.0f}"
        cells.append((batch, row["system"], row["compute"], *speed, memory))
    header = ("batch", "program", "compute", "ms", "examples/s", "device MB")
    return ["", "## Train step, histories of 100", "", *markdown_table(header, cells)]


def _blocks(out: Path) -> list[str]:
    rows = _rows(out, "blocks-*")
    lines: list[str] = []
    for kernel, hidden in dict.fromkeys((row["implementation"], row["hidden"]) for row in rows):
        of_shape = [r for r in rows if (r["implementation"], r["hidden"]) == (kernel, hidden)]
        best = min(of_shape, key=lambda row: row["median_ms"])
        chosen = next((row for row in of_shape if row["blocks"] == "chosen"), None)
        own = f"; its own choice {chosen['median_ms']:.3g} ms" if chosen else ""
        lines.append(
            f"- `{kernel}`, H {hidden}: best rows x steps x warps {best['blocks']}, "
            f"{best['median_ms']:.3g} ms of {len(of_shape)} sizes{own}"
        )
    return ["", "## Block sizes", "", *lines] if lines else []


def _rows(out: Path, pattern: str) -> list[dict[str, Any]]:
    files = sorted(out.glob(f"{pattern}.json"))
    return [row for file in files for row in json.loads(file.read_text())]


def _lines(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a file without a last, incomplete line."""
    return [*map(json.loads, file.read_text().split("\n")[:-1])] if file.exists() else []

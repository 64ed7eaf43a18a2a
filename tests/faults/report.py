"""The report of the fault campaign: counts by command and kind, from pytest's JUnit files.

python -m pytest -m faults tests/faults --junitxml=faults.xml
python tests/faults/report.py faults.xml > docs/faults.md
"""

import os
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from importlib.metadata import version
from platform import python_version

LIMITS = ("DIEN_JAX_FAULT_MOMENTS", "DIEN_JAX_FAULT_PLACES")
"""Variables that shorten the campaign: kills, and failing calls, of each program."""


STOPPED = """\
`killed` and `terminated` are moments at which a command got SIGKILL or SIGTERM, half of them before
one of its changes of files. `No space left on device`, `Input/output error` and `Permission denied`
are changes of files that failed. Then the same command is run again: its results must be equal to
the last bit, and nothing may be left to clean up. `extend` is `prepare --extend`. The variables
`DIEN_JAX_FAULT_MOMENTS` and `DIEN_JAX_FAULT_PLACES` set how many of each are tried: the numbers of
kills, and of changes of files, are those of the run that made the table.
"""
"""Explanation of the rows of stopped commands."""


def count(files: list[str]) -> dict[tuple[str, str], Counter[str]]:
    """Return the number of cases of each outcome, by command and kind."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for case in (c for file in files for c in ElementTree.parse(file).getroot().iter("testcase")):
        tags = {child.tag for child in case}
        outcome = "failed" if tags & {"failure", "error"} else "passed"
        outcome = "skipped" if "skipped" in tags else outcome
        for note in case.iter("property"):
            if note.get("name") == "fault":
                command, kind = str(note.get("value")).split(": ", 1)
                counts.setdefault((command, kind), Counter())[outcome] += 1
    return counts


def modules(files: list[str]) -> list[str]:
    """Return the names of the modules whose cases the files have."""
    cases = (c for file in files for c in ElementTree.parse(file).getroot().iter("testcase"))
    return sorted({str(case.get("classname")).rpartition(".")[2] for case in cases})


def table(counts: dict[tuple[str, str], Counter[str]]) -> list[str]:
    """Return a Markdown table with a line for each command and kind, and their sum."""
    lines = ["| command | broken | cases | failed | skipped |", "|---|---|---:|---:|---:|"]
    total: Counter[str] = Counter()
    for (command, kind), outcomes in sorted(counts.items()):
        total += outcomes
        lines.append(_line(f"`{command}`", kind, outcomes))
    return [*lines, _line("**all**", "", total)]


def _line(command: str, kind: str, outcomes: Counter[str]) -> str:
    cells = (sum(outcomes.values()), outcomes["failed"], outcomes["skipped"])
    return f"| {command} | {kind} | {' | '.join(map(str, cells))} |"


def main(files: list[str]) -> None:
    """Print the report."""
    print("# Fault campaign\n")
    print(
        "Every case breaks something, runs a command, and states its exit status, its message and"
        " what\nis left on disk. A traceback, a command that takes more than 60 s, a file that"
        " changed and is not\nnamed, or another ending fails the case.\n"
    )
    print(STOPPED)
    limits = [f"{name}={os.environ[name]} " for name in LIMITS if name in os.environ]
    print("Made by:\n\n```sh")
    names = " ".join(f"tests/faults/{name}.py" for name in modules(files))
    print(f"{''.join(limits)}python -m pytest -m faults {names} \\\n  --junitxml=faults.xml")
    print("python tests/faults/report.py faults.xml > docs/faults.md\n```\n")
    print(f"Python {python_version()}, JAX {version('jax')}, CPU.\n")
    print("\n".join(table(count(files))))


if __name__ == "__main__":
    main(sys.argv[1:])

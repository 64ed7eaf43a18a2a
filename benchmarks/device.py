"""Check and time all kernels and programs on a device within minutes.

    python -m benchmarks.device [--minutes 9] --out DIR [--rehearse]

Runs the parts of ``on_device/plan.py``, the most informative first; see ``benchmarks/README.md``.
Each part is a separate process with a time limit, so one that hangs or crashes does not affect the
others. A part is skipped if its kernel has failed its comparison with the oracle. PyTorch's
recurrences and other packages' DIEN are timed too if they are installed.

The exit status is 0 once all parts have ended, whatever their results, and 3 while some remain.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common.report import one_line_errors, write_rows
from benchmarks.on_device.block_sizes import SIZES
from benchmarks.on_device.plan import ABOUT, Part, plan, rehearsal
from benchmarks.on_device.summary import suite_verdict, summary

STATE, SUMMARY = "parts.json", "summary.md"
LEAST = 15.0
"""Seconds that must remain for a part to start."""
LEFT = 3
PYTHON = (sys.executable,)


class Device:
    """The parts of one device that have ended, stored in a folder.

    Args:
      out: the folder; created if it does not exist.
      python: the command that runs modules.
    """

    def __init__(self, out: Path, python: Sequence[str] = PYTHON) -> None:
        self.out, self._python = out, tuple(python)
        out.mkdir(parents=True, exist_ok=True)
        state = out / STATE
        self.endings: dict[str, dict[str, Any]] = (
            {row["name"]: row for row in json.loads(state.read_text())} if state.exists() else {}
        )

    def about(self) -> dict[str, Any]:
        """Return the properties of the device; refuse a folder with results of another device."""
        file = self.out / "about.json"
        before = json.loads(file.read_text())[0] if file.exists() else None
        ending = self._run(ABOUT, ABOUT.seconds)
        if ending["outcome"] != "finished":
            raise SystemExit(f"JAX does not run here: {ending['last']}; see {self.out}/about.log")
        (found,) = json.loads(file.read_text())
        if before is not None and _identity(before) != _identity(found):
            write_rows(file, [before])
            raise SystemExit(
                f"{self.out} has results of {_identity(before)}; this is {_identity(found)}: "
                "choose another folder"
            )
        return found

    def run(self, parts: Sequence[Part], deadline: float) -> list[Part]:
        """Run unfinished parts until the deadline; return those that remain."""
        for part in parts:
            if part.name in self.endings:
                continue
            wrong = part.kernel and suite_verdict(self.out, part.kernel, self.endings)
            if wrong and not wrong.agrees:
                ending = {"outcome": f"left out: {part.kernel} {wrong.text}", "seconds": 0.0}
                self._keep(part, ending)
                continue
            left = deadline - time.monotonic()
            if left < LEAST:
                break
            limit = min(part.seconds, left)
            print(f"{part.name}: at most {limit:.0f} s", file=sys.stderr, flush=True)
            ending = self._run(part, limit)
            if ending["outcome"] == "over its time" and limit < part.seconds:
                break  # it had less than its full time; the next call runs it again
            self._keep(part, ending)
        return [part for part in parts if part.name not in self.endings]

    def _keep(self, part: Part, ending: dict[str, Any]) -> None:
        print(f"{part.name}: {ending['outcome']}", file=sys.stderr, flush=True)
        self.endings[part.name] = {"name": part.name, **ending}
        write_rows(self.out / STATE, list(self.endings.values()))

    def _run(self, part: Part, limit: float) -> dict[str, Any]:
        """Run a part in its own process group; return how it ended."""
        results, log = self.out / f"{part.name}.{part.suffix}", self.out / f"{part.name}.log"
        command = [*self._python, "-m", part.module, *part.arguments, "--json", str(results)]
        environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **os.environ}
        start = time.monotonic()
        with log.open("w") as stream:
            process = subprocess.Popen(
                command, stdout=stream, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                env=environment, start_new_session=True,
            )  # fmt: skip
            try:
                outcome = _outcome(process.wait(limit))
            except subprocess.TimeoutExpired:
                outcome = "over its time"
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        lines = log.read_text(errors="replace").strip().splitlines()
        return {
            "outcome": outcome,
            "seconds": time.monotonic() - start,
            "last": lines[-1][:300] if lines else "",
        }


def _outcome(status: int) -> str:
    if status < 0:
        return f"crashed ({signal.Signals(-status).name})"
    return "finished" if status == 0 else f"ended with status {status}"


def _identity(about: dict[str, Any]) -> str:
    versions = about["versions"]
    return f"{about['kind']}, Python {versions['python']}, JAX {versions['jax']}"


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--minutes", type=float, default=9.0, help="when to stop")
    parser.add_argument(
        "--rehearse", action="store_true", help="run the kernels in Pallas's interpreter instead"
    )
    options = parser.parse_args(arguments)
    if not 0 < options.minutes <= 24 * 60:
        parser.error(f"--minutes must be above 0 and at most a day, got {options.minutes:g}")
    return options


@one_line_errors()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the remaining parts; write and print the summary."""
    options = _options(arguments)
    deadline = time.monotonic() + 60 * options.minutes
    device = Device(options.out)
    about = device.about()
    blocked = [name for name in about["kernels"] if name in SIZES]
    parts = rehearsal(SIZES) if options.rehearse else plan(about["kernels"], blocked)
    try:
        left = device.run(parts, deadline)
    finally:
        text = summary(options.out, about, parts, device.endings)
        (options.out / SUMMARY).write_text(text)
    print(text)
    print(f"results are in {options.out}", file=sys.stderr)
    if left:
        names = ", ".join(part.name for part in left)
        print(f"left: {names}; the same command continues", file=sys.stderr)
    return LEFT if left else 0


if __name__ == "__main__":
    sys.exit(main())

"""Startup time of training and serving, with an empty and with a full compile cache.

    python -m benchmarks.first_step DATA [--serve RUN] [--repeats 3] [--json FILE]

Each measurement starts a process: `python -m dien_jax.train` is timed until it prints the line of
the first step, `python -m dien_jax.serve` until it is ready. The process is then killed. Caches,
that of the native kernels included, are in a temporary folder.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common.report import make_parser, parse, report
from benchmarks.common.timing import timed_row
from dien_jax.config.presets import PRESETS

COLUMNS = ("case", "system", "policy", "threads", "median_ms", "spread_ms")


def milliseconds(command: Sequence[str], wanted: str, cache: Path) -> float:
    """Time a process with this compile cache until it prints a line that starts with ``wanted``."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    start = time.perf_counter()
    output: Any = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen([sys.executable, "-m", *command], env=environment, **output) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith(wanted):
                passed = 1e3 * (time.perf_counter() - start)
                process.kill()
                return passed
    raise SystemExit(f"no line {wanted!r}: {''.join(lines)}")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write the rows."""
    parser = make_parser(__doc__)
    parser.add_argument("data", type=Path, help="dataset folder")
    parser.add_argument("--preset", default="wide_dien", choices=PRESETS)
    parser.add_argument("--serve", type=Path, metavar="RUN", help="run folder to serve too")
    parser.add_argument("--repeats", type=int, default=3, help="processes of each kind")
    options = parse(parser, argv, repeats=1)
    train = ["dien_jax.train", options.preset, "--data", str(options.data)]
    commands = {options.data.name: ([*train, "--train.log-every", "1"], "step 1 ")}
    if options.serve:
        commands["serve"] = (["dien_jax.serve", str(options.serve), "--port", "0"], "ready: ")
    times: dict[tuple[str, str], list[float]] = {}
    for case, (command, line) in options.repeats * [*commands.items()]:
        with tempfile.TemporaryDirectory() as folder:
            for policy in ("compile cache empty", "compile cache full"):
                rest = [] if case == "serve" else ["--run-dir", f"{folder}/{policy}"]
                passed = milliseconds([*command, *rest], line, Path(folder))
                times.setdefault((case, policy), []).append(passed)
    rows = [
        timed_row("first_step", measured, case=case, policy=policy)
        for (case, policy), measured in times.items()
    ]
    report(options, rows, COLUMNS)


if __name__ == "__main__":
    main()

"""Time from starting `python -m dien_jax.train` to its first step, compile cache empty and full.

    python -m benchmarks.first_step DATA [--repeats 3] [--json FILE]

Each time is that of a new process up to the line that it prints after one step: imports, the
dataset folder, parameters, compiling, the step. The process is then stopped. The cache has a
temporary folder.
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


def first_step_milliseconds(data: Path, preset: str, cache: Path) -> float:
    """Time one process that keeps compiled programs in ``cache``."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "dien_jax.train", preset, "--data", str(data)]
        command += ["--run-dir", f"{folder}/run", "--train.log-every", "1"]
        start = time.perf_counter()
        output: Any = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with subprocess.Popen(command, env=environment, **output) as process:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                lines.append(line)
                if line.startswith("step 1 "):
                    passed = 1e3 * (time.perf_counter() - start)
                    process.kill()
                    return passed
    raise SystemExit("no first step: " + "".join(lines))


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write the rows."""
    parser = make_parser(__doc__)
    parser.add_argument("data", type=Path, help="dataset folder")
    parser.add_argument("--preset", default="wide_dien", choices=PRESETS)
    parser.add_argument("--repeats", type=int, default=3, help="processes of each kind")
    options = parse(parser, argv, repeats=1)
    times: dict[str, list[float]] = {"compile cache empty": [], "compile cache full": []}
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as cache:
            for measured in times.values():
                measured.append(first_step_milliseconds(options.data, options.preset, Path(cache)))
    rows = [
        timed_row("first_step", measured, case=options.data.name, policy=policy)
        for policy, measured in times.items()
    ]
    report(options, rows, COLUMNS)


if __name__ == "__main__":
    main()

"""Time from starting `python -m dien_jax.train` to its first step, compile cache empty and full.

    python -m benchmarks.first_step DATA [--repeats 3] [--json FILE]

Every time is that of a new process up to the line it prints after one step: imports, the dataset
folder, parameters, compiling, the step. It is then stopped. The cache is in a folder of its own.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common.timing import print_rows, surroundings, write_rows
from dien_jax.config.presets import PRESETS

COLUMNS = ("case", "system", "policy", "threads", "median_ms", "spread_ms")


def milliseconds_to_first_step(data: Path, preset: str, cache: Path) -> float:
    """Of one process that keeps what it compiles in ``cache``, or finds it there."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "dien_jax.train", preset, "--data", str(data)]
        command += ["--run-dir", f"{folder}/run", "--train.log-every", "1"]
        start = time.perf_counter()
        with subprocess.Popen(
            command,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            assert process.stdout is not None
            said = []
            for line in process.stdout:
                said.append(line)
                if line.startswith("step 1 "):
                    found = 1e3 * (time.perf_counter() - start)
                    process.kill()
                    return found
    raise SystemExit("no first step: " + "".join(said))


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("data", type=Path, help="dataset folder")
    parser.add_argument("--preset", default="dien", choices=PRESETS)
    parser.add_argument("--repeats", type=int, default=3, help="processes of each kind")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    options = parser.parse_args(argv)
    times: dict[str, list[float]] = {"compile cache empty": [], "compile cache full": []}
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as cache:
            for policy in times:
                times[policy].append(
                    milliseconds_to_first_step(options.data, options.preset, Path(cache))
                )
    rows = [
        {
            "benchmark": "first_step",
            "case": options.data.name,
            "system": "dien_jax",
            "policy": policy,
            "median_ms": statistics.median(of_policy),
            "spread_ms": max(of_policy) - min(of_policy),
            **surroundings(),
        }
        for policy, of_policy in times.items()
    ]
    print_rows(rows, COLUMNS)
    print(f"\n{rows[0]['device']}, {rows[0]['versions']}")
    if options.json:
        write_rows(options.json, rows)
        print(f"written to {options.json}")


if __name__ == "__main__":
    main()

"""Load test of ``python -m dien_jax.serve``: throughput, latency and refusals.

    python -m benchmarks.serving [--preset NAME] [--run RUN] [--json FILE]

A server runs on the loopback interface. Each connection sends its next request as soon as it has
the last answer. ``together`` ranks waiting requests in batches, ``one by one`` has ``--max-batch
1``, ``reload`` reloads the model under load, and ``overload`` has fewer places in the queue than
connections. The benchmark fails if an answer is missing or has an unexpected status, or if scores
differ from those of :class:`dien_jax.Ranker`. Client and server share the processors.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen

import numpy as np

from benchmarks.common.report import make_parser, one_line_errors, parse, report
from benchmarks.common.timing import surroundings
from benchmarks.ranking import TOLERANCE, random_run
from dien_jax.config.presets import PRESETS
from dien_jax.inference.ranker import Ranker
from dien_jax.runs.trained import load_run

COLUMNS = (
    "policy", "connections", "requests_per_second", "median_ms", "p99_ms", "batch_size",
    "answered", "refused",
)  # fmt: skip
QUEUE, SMALL_QUEUE = "256", "4"
READY_SECONDS = 600.0


class Answer(NamedTuple):
    """One answer, and the seconds until it was complete."""

    status: int
    seconds: float
    body: bytes


@contextmanager
def serving(run: Path, cache: Path, *flags: str) -> Iterator[tuple[subprocess.Popen, int]]:
    """Start a server, wait until everything is compiled, and yield it and its port.

    ``cache`` keeps compiled programs, unless the environment names another folder. The benchmark
    exits if the server does not start, or does not end with status 0.
    """
    command = [sys.executable, "-m", "dien_jax.serve", str(run), "--port", "0", *flags]
    environment = {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        **os.environ,
    }
    environment.pop("DIEN_JAX_TOKEN", None)
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert server.stderr is not None
    try:
        lines = []
        for line in server.stderr:
            lines.append(line)
            if line.startswith("  compiling for all request sizes") and line.endswith(" s)\n"):
                break
        else:
            raise SystemExit(f"the server did not start:\n{''.join(lines)}")
        ready = next(line for line in lines if " at http://" in line)
        yield server, int(ready.rpartition(":")[2])
        server.send_signal(signal.SIGTERM)
        rest = server.stderr.read()
        if server.wait(READY_SECONDS):
            raise SystemExit(f"the server ended with status {server.returncode}:\n{rest}")
    finally:
        server.kill()
        server.wait()


def request(body: dict[str, Any]) -> bytes:
    """Return a complete HTTP request for /v1/rank."""
    content = json.dumps(body).encode()
    head = "POST /v1/rank HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, content: bytes) -> Answer:
    """Send a request on an open connection, and return its answer."""
    start = time.perf_counter()
    writer.write(content)
    first, *fields = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
    headers = dict(field.partition(b": ")[::2] for field in fields)
    body = await reader.readexactly(int(headers[b"content-length"]))
    return Answer(int(first.split()[1]), time.perf_counter() - start, body)


async def load(
    port: int, requests: Sequence[bytes], connections: int, seconds: float
) -> tuple[list[Answer], float]:
    """Send requests on several connections for some seconds; return answers and time passed."""
    answers: list[Answer] = []
    start = time.perf_counter()

    async def connection(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() - start < seconds:
            number += connections
            answers.append(await ask(reader, writer, requests[number % len(requests)]))
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(connection(number) for number in range(connections)))
    return answers, time.perf_counter() - start


def bodies(ranker: Ranker, items: Sequence[str], candidates: int, history: int) -> list[dict]:
    """Draw requests for 64 users with histories of up to ``history`` events."""
    rng = np.random.default_rng(candidates + history)

    def drawn(count: int) -> list[str]:
        return [items[row] for row in rng.integers(1, len(items), count)]

    context = {feature.name: None for feature in ranker.schema.request}
    return [
        {
            "history": drawn(int(rng.integers(0, history + 1))),
            "candidates": drawn(candidates),
            "request_features": context,
        }
        for _ in range(64)
    ]


def figure(port: int, name: str) -> float:
    """Fetch one value of /metrics."""
    with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))


def check(answer: Answer, body: dict, ranker: Ranker) -> None:
    """Exit if the scores of an answer are not the ranker's."""
    expected = ranker.rank(body["history"], body["candidates"], None, body["request_features"])
    scores = json.loads(answer.body)["scores"]
    deviation = float(np.abs(np.subtract(scores, expected.scores)).max())
    if not deviation < TOLERANCE:
        raise SystemExit(f"scores differ by {deviation} from the ranker's")


def measure(
    server: subprocess.Popen,
    port: int,
    policy: str,
    requests: Sequence[bytes],
    connections: int,
    seconds: float,
) -> dict[str, Any]:
    """Return the row of one load on one server; exit on an unexpected answer."""

    def batches() -> np.ndarray:
        return np.array([figure(port, f"dien_batch_size_{name}") for name in ("sum", "count")])

    async def run() -> tuple[list[Answer], float]:
        if policy == "reload":
            asyncio.get_running_loop().call_later(seconds / 4, server.send_signal, signal.SIGHUP)
        return await load(port, requests, connections, seconds)

    before = batches()
    answers, passed = asyncio.run(run())
    statuses = Counter(answer.status for answer in answers)
    allowed = {200, 429} if policy == "overload" else {200}
    if set(statuses) - allowed or (policy == "overload" and set(statuses) != allowed):
        raise SystemExit(f"{policy}, {connections} connections: statuses {dict(statuses)}")
    ranked, count = batches() - before
    times = [1e3 * answer.seconds for answer in answers if answer.status == 200]
    return {
        "benchmark": "serving",
        "policy": policy,
        "connections": connections,
        "requests_per_second": len(times) / passed,
        "median_ms": float(np.median(times)),
        "p99_ms": float(np.percentile(times, 99)),
        "batch_size": float(ranked / count),
        "answered": statuses[200],
        "refused": statuses[429],
        **surroundings(),
    }


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write the rows."""
    parser = make_parser(__doc__)
    parser.add_argument("--preset", default="wide_dien", choices=PRESETS)
    parser.add_argument("--run", type=Path, help="run folder to serve instead of --preset")
    parser.add_argument("--candidates", type=int, default=50)
    parser.add_argument("--history", type=int, default=50, help="longest history")
    parser.add_argument("--connections", type=int, nargs="+", default=(1, 4, 16, 64))
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds of each load")
    options = parse(parser, argv, connections=1, candidates=1, history=0)
    with tempfile.TemporaryDirectory(prefix="dien_jax-serving-") as folder:
        run = options.run or random_run(Path(folder), options.preset)
        ranker, items = Ranker(run), load_run(run).dataset.vocabulary("item")
        requested = bodies(ranker, items, options.candidates, options.history)
        requests = [request(body) for body in requested]
        most = max(options.connections)
        cache = Path(folder) / "compiled"
        shared = ["--max-candidates", str(options.candidates), "--poll-seconds", "0"]
        servers = {
            "together": (["--queue", QUEUE], options.connections),
            "reload": (["--queue", QUEUE], [most]),
            "one by one": (["--queue", QUEUE, "--max-batch", "1"], options.connections),
            "overload": (["--queue", SMALL_QUEUE], [max(most, 8 * int(SMALL_QUEUE))]),
        }
        rows: list[dict[str, Any]] = []
        for policy, (flags, loads) in servers.items():
            start = time.perf_counter()
            with serving(run, cache, *shared, *flags) as (server, port):
                print(f"ready after {time.perf_counter() - start:.1f} s", flush=True)
                answers, _ = asyncio.run(load(port, requests[:1], 1, 0.2))
                check(answers[0], requested[0], ranker)
                for connections in loads:
                    row = measure(server, port, policy, requests, connections, options.seconds)
                    rows.append(row)
                    print(", ".join(f"{name} {row[name]}" for name in COLUMNS), flush=True)
                if policy == "reload":
                    wait_for_reload(port)
    report(options, rows, COLUMNS)
    print(f"{options.candidates} candidates, histories up to {options.history}")


def wait_for_reload(port: int) -> None:
    """Wait at most a minute until the model has been reloaded."""
    until = time.monotonic() + 60
    while not figure(port, 'dien_reloads_total{result="ok"}'):
        if time.monotonic() > until:
            raise SystemExit("the model was not reloaded")
        time.sleep(0.1)


if __name__ == "__main__":
    main()

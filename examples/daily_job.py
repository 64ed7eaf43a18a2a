"""A daily job: extend the data, warm-start from yesterday's run, check, export, reload.

    python examples/daily_job.py [--out FOLDER] [--days 2]

The server keeps running: it notices that the exported file was replaced, and loads the new model
without losing a request. A model is exported if its validation AUC is above ``--worst`` and not
below that of yesterday's model on the same examples. A job that was stopped goes on where it was if
it is started again with the same ``--out``. Logs are synthetic and grow by one day each time.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from made_log import DAY, write_log

START, FIRST_DAYS = 1_700_000_000, 7
LONGEST = "20"  # events of a history, in training and in the server
PORT_LINE = "http://"


def run(*command: str) -> None:
    """Run a command of dien_jax; end with its exit status if it fails, as it has said why."""
    print("$ python -m", *command, flush=True)
    if status := subprocess.run([sys.executable, "-m", *command]).returncode:
        sys.exit(status)


def daily(out: Path, day: int, preset: str, epochs: int, worst: float) -> bool:
    """Run the job of one day; return whether a new model was exported."""
    log = write_log(out / f"day-{day}.csv", FIRST_DAYS + day)
    data, model = out / f"data-{day}", out / f"run-{day}"
    end = START + (FIRST_DAYS + day) * DAY
    borders = ["--valid-from", str(end - 2 * DAY), "--test-from", str(end - DAY)]
    extend, start = [], [preset]
    if day > 0:
        extend = ["--extend", str(out / f"data-{day - 1}"), "--train-from", str(end - 4 * DAY)]
        start = ["--warm-start", str(out / f"run-{day - 1}")]
    if not data.exists():  # it appears when it is complete
        run(
            "dien_jax.prepare", "interactions", str(log), "--out", str(data), "--item-features",
            "category", "--allow-own-negatives", "--split", "by-time", *borders, *extend,
        )  # fmt: skip
    if model.exists():
        run("dien_jax.train", "--resume", str(model))
    else:
        settings = "--train.epochs", str(epochs), "--train.max-history", LONGEST
        settings += "--train.buckets", LONGEST
        run("dien_jax.train", *start, "--data", str(data), "--run-dir", str(model), *settings)
    result = json.loads((model / "result.json").read_text())
    found, before = result["valid"]["auc"], (result["valid_before"] or {}).get("auc", 0)
    if found <= worst or found < before:
        limit = f"{worst}, and that of yesterday's model, {before:.4f}"
        print(f"validation AUC {found:.4f}: expected above {limit}; it stays", flush=True)
        return False
    # --overwrite replaces the file atomically: a reader sees either the old or the new file.
    run("dien_jax.export", str(model), "--out", str(out / "current.dien"), "--overwrite")
    return True


def serve(out: Path) -> tuple[subprocess.Popen, str]:
    """Serve the exported file; return the process and its address once it is ready."""
    command = [sys.executable, "-m", "dien_jax.serve", str(out / "current.dien"), "--port", "0"]
    command += ["--poll-seconds", "2", "--max-batch", "1", "--max-candidates", "10"]
    with (out / "server.log").open("w") as log:
        server = subprocess.Popen([*command, "--max-history", LONGEST], stderr=log, stdout=log)
    while server.poll() is None:
        lines = (out / "server.log").read_text().split()
        address = next((word.rstrip(",;.") for word in lines if word.startswith(PORT_LINE)), None)
        if address is not None and _is_ready(address):
            return server, address
        time.sleep(0.5)
    raise SystemExit(f"the server ended: see {out / 'server.log'}")


def _is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/readyz", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def ask(address: str) -> dict:
    """Rank three items for a history."""
    body = {"history": ["item 3", "item 9"], "candidates": ["item 3", "item 15", "item 16"]}
    request = urllib.request.Request(
        f"{address}/v1/rank", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def main(arguments: list[str] | None = None) -> None:
    """Run the job of several days, with a server running throughout."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--days", type=int, default=2)
    parser.add_argument("--preset", default="wide_dien", help="preset of the first day's model")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--worst", type=float, default=0.5, help="export above this AUC")
    options = parser.parse_args(arguments)
    out = options.out or Path(tempfile.mkdtemp())
    out.mkdir(parents=True, exist_ok=True)
    daily(out, 0, options.preset, options.epochs, 0.0)
    server, address = serve(out)
    try:
        answer = ask(address)
        print("day 0:", answer, flush=True)
        for day in range(1, options.days):
            if not daily(out, day, options.preset, options.epochs, options.worst):
                continue
            before = answer
            while (answer := ask(address)) == before and server.poll() is None:
                time.sleep(1)  # the server compiles the new model and answers with the old one
            print(f"day {day}:", answer, flush=True)
    finally:
        server.terminate()
        server.wait()
    print(f"data, runs and the exported file are in {out}")


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"error: {error}")

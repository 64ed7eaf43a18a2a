"""A server in a process of its own, under load, with hostile clients, and reloaded all the time."""

import asyncio
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from support.http_server import check_ranking, expected_ranking, rank_body, save_step
from support.small_dataset import PEAR

from dien_jax.inference.ranker import Ranker

CLIENTS = 4
CHECKPOINTS = 3
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
BROKEN = {
    "nothing": b"",
    "half a line": b"POST /v1/ra",
    "half a header": POST[:-5],
    "half a body": POST + b"Content-Length: 100\r\n\r\n{",
    "garbage": bytes(range(256)) * 40,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "a long line": b"GET /" + b"x" * 100_000,
    "a long header": POST + b"X: " + b"x" * 1_000_000,
    "many headers": POST + b"X: x\r\n" * 20_000,
    "two lengths": POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
    "length and chunks": POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a wrong chunk": POST + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n",
    "a huge chunk": POST + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n{}",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a web socket": GET[:-2] + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    "many requests": GET * 2000,
}
FLAGS = ("--max-candidates", "8", "--max-batch", "8", "--poll-seconds", "0")


class ServerProcess(NamedTuple):
    """A running server, the port that it listens on and the file of its standard error."""

    process: subprocess.Popen
    port: int
    log: Path

    @property
    def open_files(self) -> int:
        return sum(1 for _ in Path(f"/proc/{self.process.pid}/fd").iterdir())

    def stop(self) -> int:
        """Stop the server after it has answered its requests; return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextmanager
def server_process(
    run: Path, log: Path, files: int = 1024, flags: tuple[str, ...] = FLAGS
) -> Iterator[ServerProcess]:
    """Start a server with a limit of open files, wait until it is ready, and kill it at the end."""
    limited = ["sh", "-c", 'ulimit -n "$0" && exec "$@"', str(files)]
    command = [*limited, sys.executable, "-m", "dien_jax.serve", str(run), "--port", "0", *flags]
    environment = {name: value for name, value in os.environ.items() if name != "DIEN_JAX_TOKEN"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    with log.open("w") as stream, log.with_suffix(".out").open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=stream, env=environment)
    try:
        while (ready := re.search(r" at http://.*:(\d+)\n", log.read_text())) is None:
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        yield ServerProcess(process, int(ready[1]), log)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def process(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with few files that no client brings to end or to write much."""
    log = tmp_path_factory.mktemp("process") / "log"
    with server_process(run, log, files=256) as server:
        yield server
        assert server.stop() == 0
    assert len(log.read_text()) < 5_000


async def rank_once(port: int) -> httpx.Response:
    """Send a request over a connection of its own."""
    async with httpx.AsyncClient(timeout=60) as client:
        return await client.post(f"http://127.0.0.1:{port}/v1/rank", json=rank_body())


def broken(port: int, content: bytes, *, reset: bool) -> socket.socket:
    """Send something that is no request, and do not read."""
    client = socket.create_connection(("127.0.0.1", port), timeout=10)
    client.settimeout(0.2)
    with contextlib.suppress(OSError):
        client.sendall(content)
    if reset:  # the connection is not closed but cut
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    return client


@pytest.mark.long
def test_sigterm_stops_after_all_requests_are_answered(run, tmp_path) -> None:
    context = {"device": None, "query": None}
    body = json.dumps({"candidates": [PEAR], "history": [], "request_features": context}).encode()
    head = POST + b"Content-Length: %d\r\n\r\n" % len(body)
    flags = ("--max-candidates", "1", "--max-batch", "1", "--log-requests")
    with server_process(run, tmp_path / "log", flags=flags) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
            connection.sendall(head + body)
            assert _answer(connection)[0] == 200
            connection.sendall(head + body[:5])  # incomplete when the signal comes
            server.process.send_signal(signal.SIGTERM)
            until = time.monotonic() + 60
            while _accepts(server.port) and time.monotonic() < until:
                time.sleep(0.01)
            connection.sendall(body[5:])
            status, content = _answer(connection)
            assert (status, content["ids"]) == (200, [PEAR])
            assert connection.recv(1) == b""
        assert server.stop() == 0
    log = (tmp_path / "log").read_text()
    assert (tmp_path / "log.out").read_text() == ""
    url = f"http://127.0.0.1:{server.port}"
    assert re.search(
        rf"\ncompiling first, .* {url} is ready: .*\n(.*\n)*ready: checkpoint 1 of run, ", log
    )
    assert f"Z, at {url}\n" in log
    assert log.endswith("all requests were answered\n")
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert [(line["path"], line["status"]) for line in lines] == [("/v1/rank", 200)] * 2


def _answer(connection: socket.socket) -> tuple[int, dict]:
    """Return status and body of the next answer on a connection."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status, json.loads(response.read())


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.long
def test_hostile_clients_do_not_keep_others_out(process) -> None:
    files = process.open_files
    for content in BROKEN.values():
        for _ in range(10):
            broken(process.port, content, reset=True)
    assert asyncio.run(rank_once(process.port)).status_code == 200
    clients = [broken(process.port, content, reset=False) for content in list(BROKEN.values()) * 20]
    assert len(clients) > 256
    assert asyncio.run(rank_once(process.port)).status_code == 200
    assert process.open_files < 256
    for client in clients:
        client.close()
    until = time.monotonic() + 60
    while process.open_files > files + 2 and time.monotonic() < until:
        time.sleep(0.1)
    assert process.open_files <= files + 2


@pytest.mark.long
def test_reloads_under_load_lose_no_request(run, tmp_path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    expected = {1: expected_ranking(Ranker(copy), rank_body())}
    is_over: list[bool] = []
    with server_process(copy, tmp_path / "log") as server:

        def latest_step() -> int:
            return asyncio.run(rank_once(server.port)).json()["checkpoint_step"]

        def train() -> None:
            """Save better checkpoints, each when the one before has been read."""
            try:
                for step in range(2, CHECKPOINTS + 2):
                    save_step(copy, step)
                    expected[step] = expected_ranking(Ranker(copy), rank_body())
                    until = time.monotonic() + 30
                    while latest_step() < step and time.monotonic() < until:
                        time.sleep(0.1)
            finally:
                is_over.append(True)

        async def reload_every_second() -> None:
            while not is_over:
                await asyncio.sleep(1)
                server.process.send_signal(signal.SIGHUP)

        async def requests() -> list[httpx.Response]:
            answers, address = [], f"http://127.0.0.1:{server.port}/v1/rank"
            async with httpx.AsyncClient(timeout=60) as client:  # an error would end the test
                while not is_over:
                    answers.append(await client.post(address, json=rank_body()))
            return answers

        async def all_clients() -> list[Any]:
            clients = (requests() for _ in range(CLIENTS))
            others = asyncio.to_thread(train), reload_every_second()
            return (await asyncio.gather(*clients, *others))[:CLIENTS]

        found = asyncio.run(all_clients())
        assert server.stop() == 0
    seen: set[int] = set()
    for answers in found:
        steps = [answer.json()["checkpoint_step"] for answer in answers]
        assert steps == sorted(steps)
        for answer, step in zip(answers, steps, strict=True):
            check_ranking(answer, expected[step])
        seen.update(steps)
    assert len(seen) > CHECKPOINTS / 2


@pytest.mark.long
def test_every_check_and_phase_of_schemathesis_passes(process, tmp_path) -> None:
    pytest.importorskip("schemathesis")
    program = "from schemathesis.cli import schemathesis; schemathesis()"
    document = f"http://127.0.0.1:{process.port}/openapi.json"
    phases = "examples,coverage,fuzzing,stateful"
    flags = ["--phases", phases, "--checks", "all", "--max-examples", "20", "--no-color"]
    flags += ["--seed", "1"]  # the same requests in every run
    ended = subprocess.run(
        [sys.executable, "-c", program, "run", document, *flags],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout
    assert "7 selected / 7 total" in ended.stdout

"""The server's command line: one-line errors, and requests answered before shutdown."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import BinaryIO

import pytest
from support import small_dataset

from dien_jax.data.schema import Feature, Schema

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")

from dien_jax import serve as command
from dien_jax.errors import UserError
from dien_jax.server.messages import request_decoders
from dien_jax.server.run import TOKEN_VARIABLE, ServerOptions, bind

ROOT = Path(__file__).parents[2]
PEAR = small_dataset.ITEMS[1]


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("", "DIEN_JAX_TOKEN must be at least 16 printable ASCII characters"),
        ("0123456789abcdé", "got 15 characters (unset it to serve without a token)"),
        (None, "nowhere does not exist"),
    ],
)
def test_mistakes_give_one_line(token, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    if token is not None:
        monkeypatch.setenv(TOKEN_VARIABLE, token)
    assert command.main([str(tmp_path / "nowhere"), "--port", "0"]) == 2
    message = capsys.readouterr().err
    assert expected in message
    assert message.startswith("error: ")
    assert message.count("\n") == 1


def test_two_servers_that_start_at_once_cannot_have_one_port() -> None:
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}: Address already in use"):
            bind("127.0.0.1", port)


def test_connections_have_no_delay() -> None:
    async def accepted() -> int:
        options: list[int] = []

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            own = writer.get_extra_info("socket")
            options.append(own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listener = bind("127.0.0.1", 0)
        async with await asyncio.start_server(answer, sock=listener):
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            await reader.read()
            writer.close()
            await writer.wait_closed()
        return options[0]

    assert asyncio.run(accepted()) == 1


@pytest.mark.long
def test_sigterm_stops_after_all_requests_are_answered(run) -> None:
    flags = ["--port", "0", "--max-candidates", "1", "--max-batch", "1", "--log-requests"]
    environment = {name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE}
    server = subprocess.Popen(
        [sys.executable, "-m", "dien_jax.serve", str(run), *flags],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert server.stderr is not None
        line = next((line for line in server.stderr if " at http://" in line), "")
        port = int(line.rpartition(":")[2])
        assert line.startswith(f"checkpoint 1 of {run} at http://127.0.0.1:")
        context = {"device": None, "query": None}
        body = json.dumps({"candidates": [PEAR], "history": [], "context": context}).encode()
        head = f"POST /v1/rank HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        head += "Content-Type: application/json\r\n\r\n"
        with (
            socket.create_connection(("127.0.0.1", port), timeout=60) as connection,
            connection.makefile("rb") as answers,
        ):
            connection.sendall(head.encode() + body)
            assert _answer(answers)[0] == 200
            connection.sendall(head.encode() + body[:5])  # incomplete when the signal comes
            server.send_signal(signal.SIGTERM)
            until = time.monotonic() + 60
            while _accepts(port) and time.monotonic() < until:
                time.sleep(0.01)
            connection.sendall(body[5:])
            status, content = _answer(answers)
            assert (status, content["ids"]) == (200, [PEAR])
            assert answers.read() == b""
        out, log = server.communicate(timeout=60)
    finally:
        server.kill()
        server.communicate()
    assert (server.returncode, out) == (0, "")
    assert log.endswith("all requests were answered\n")
    lines = [json.loads(line.partition("INFO ")[2]) for line in log.splitlines() if "INFO" in line]
    assert [(line["path"], line["status"]) for line in lines] == [("/v1/rank", 200)] * 2


def _answer(answers: BinaryIO) -> tuple[int, dict]:
    """Return status and body of the next answer on a connection."""
    status, length = int(answers.readline().split()[1]), 0
    while (line := answers.readline()) != b"\r\n":
        if line.lower().startswith(b"content-length:"):
            length = int(line.split()[1])
    return status, json.loads(answers.read(length))


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.repository
def test_flags_and_requests_of_the_serving_page() -> None:
    text = (ROOT / "docs/serving.md").read_text()
    flags = {f"--{name.replace('_', '-')}" for name in vars(command.Arguments(Path())) if name}
    assert set(re.findall(r"`(--[a-z-]+)", text)) <= flags
    schema = Schema(
        (Feature("item", "categorical", size=4),), (Feature("user", "categorical", size=3),), ()
    )
    decoders = request_decoders(schema, ServerOptions(Path("run")))
    blocks = re.findall(r"-d '(\{.*?\})'", text, re.DOTALL)
    paths = re.findall(r"/v1/([a-z]+) ", text)
    assert len(blocks) >= 3
    for path, block in zip(paths, blocks, strict=False):
        decoders[path].decode(block.encode())

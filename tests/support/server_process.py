"""A server in a process of its own, and a client that counts what it sends and receives."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = ("--port", "0", "--max-candidates", "8", "--max-batch", "8", "--poll-seconds", "0")


class ServerProcess:
    """A running server.

    Attributes:
      port: port that it listens on.
      log: file of its standard error.
      status: exit status, once it is stopped.
    """

    def __init__(self, process: subprocess.Popen, port: int, log: Path) -> None:
        self._process, self.port, self.log = process, port, log
        self.status: int | None = None

    @property
    def memory(self) -> int:
        """Resident memory in bytes."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024

    @property
    def open_files(self) -> int:
        return sum(1 for _ in Path(f"/proc/{self._process.pid}/fd").iterdir())

    def reload(self) -> None:
        """Ask for a reload."""
        self._process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """Stop the server after it has answered its requests."""
        self._process.send_signal(signal.SIGTERM)
        self.status = self._process.wait(60)


@contextmanager
def server_process(run: Path, log: Path, files: int = 1024) -> Iterator[ServerProcess]:
    """Start a server with a limit of open files, wait until it is ready, and kill it at the end."""
    limited = ["sh", "-c", 'ulimit -n "$0" && exec "$@"', str(files)]
    command = [*limited, sys.executable, "-m", "dien_jax.serve", str(run), *FLAGS]
    environment = {name: value for name, value in os.environ.items() if name != "DIEN_JAX_TOKEN"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    with log.open("w") as stream:
        process = subprocess.Popen(command, stderr=stream, env=environment)
    try:
        while (ready := re.search(r" at http://.*:(\d+)\n", log.read_text())) is None:
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        yield ServerProcess(process, int(ready[1]), log)
    finally:
        process.kill()
        process.wait()


class HttpClient:
    """One connection, opened again when the server has closed it between requests."""

    def __init__(self, port: int) -> None:
        self._port, self.sent = port, 0
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: Any) -> tuple[int, Any]:
        """Send a request; return the status and the body of its answer."""
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(content)}\r\n\r\n"
        if self._streams is None or self._streams[0].at_eof():
            await self.close()
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(head.encode() + content)
        self.sent += 1
        answer = await reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"(?i)content-length: (\d+)", answer)[1])
        return int(answer.split()[1]), json.loads(await reader.readexactly(length))

    async def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            with contextlib.suppress(ConnectionError):
                await self._streams[1].wait_closed()


async def post_once(port: int, path: str, body: Any) -> tuple[int, Any]:
    """Send a request over a connection of its own."""
    client = HttpClient(port)
    try:
        return await client.post(path, body)
    finally:
        await client.close()

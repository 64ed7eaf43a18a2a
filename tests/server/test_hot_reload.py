"""A newer checkpoint replaces the served model, and no request is dropped."""

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import pytest

from dien_jax.inference.ranker import Ranker
from dien_jax.runs.folder import CHECKPOINTS_FOLDER

httpx = pytest.importorskip("httpx")
pytest.importorskip("starlette")

from support.http_server import (  # noqa: E402
    PEAR,
    Server,
    check_ranking,
    expected_ranking,
    rank_body,
    save_step,
)

pytestmark = pytest.mark.long

COMPILED: list[str] = []


jax.monitoring.register_event_duration_secs_listener(
    lambda name, *_, **__: COMPILED.append(name) if "backend_compile" in name else None
)


@pytest.mark.slow
def test_reload_drops_no_request(run, ranker, tmp_path, caplog) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    server = Server(copy).warm()
    server.post("/v1/remember", {"user": "Ann", "history": [PEAR, "?"]})
    remembered = rank_body(history=...)
    assert not server.current.update(server.batcher)
    before = len(COMPILED)
    save_step(copy, 2)
    compiled = len(COMPILED) - before  # to create the parameters
    answered = threading.Event()

    def replace() -> bool:
        assert answered.wait(60)
        return server.current.update(server.batcher)

    async def hammer(client) -> list[Any]:
        """Send requests one after the other: before, during and after the replacement."""
        answers = []
        done = False
        while not done:
            done = replacement.done()
            answers.append(await client.post("/v1/rank", json=rank_body()))
            answered.set()
        return answers

    with ThreadPoolExecutor(1) as thread:
        replacement = thread.submit(replace)
        answers = [answer for some in server.run_calls(*[hammer] * 3) for answer in some]
    assert replacement.result()
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["checkpoint_step"] for answer in answers} == {1, 2}
    newer = Ranker(copy)
    for answer in answers:
        of_step = {1: ranker, 2: newer}[answer.json()["checkpoint_step"]]
        check_ranking(answer, expected_ranking(of_step, rank_body()))
    check_ranking(
        server.post("/v1/rank", remembered), expected_ranking(newer, rank_body(history=[PEAR, "?"]))
    )
    assert len(COMPILED) == before + compiled  # programs of the old model are reused
    assert server.get("/readyz").json() == {"status": "ready", "checkpoint_step": 2}
    assert server.metric("dien_reloads_total", result="ok") == 1

    save_step(copy, 3)
    kept = {file: file.read_bytes() for file in (copy / CHECKPOINTS_FOLDER / "3").rglob("*.ocdbt")}
    for file in kept:
        file.write_bytes(b"")
    for _ in range(2):
        assert not server.current.update(server.batcher)
    assert caplog.text.count("reload failed, model kept: cannot read the checkpoint") == 1
    assert server.metric("dien_reloads_total", result="failed") == 2
    assert server.post("/v1/rank", remembered).json()["checkpoint_step"] == 2
    for file, content in kept.items():
        file.write_bytes(content)
    server.current.request_reload()  # as SIGHUP does
    until = time.monotonic() + 60
    while server.get("/readyz").json()["checkpoint_step"] != 3 and time.monotonic() < until:
        time.sleep(0.02)
    assert server.post("/v1/rank", remembered).json()["checkpoint_step"] == 3
    server.end()
